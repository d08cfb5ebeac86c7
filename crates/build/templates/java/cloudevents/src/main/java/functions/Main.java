package functions;

import com.sun.net.httpserver.HttpExchange;
import com.sun.net.httpserver.HttpServer;
import java.io.IOException;
import java.net.InetSocketAddress;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.atomic.AtomicInteger;

/** The server: the JDK's own, on $PORT. */
public final class Main {
    private static final int DRAIN_SECONDS = 25;
    private static final AtomicInteger RUNNING = new AtomicInteger();

    private Main() {}

    /** Serves until SIGTERM. */
    public static void main(String[] arguments) throws IOException {
        String port = System.getenv().getOrDefault("PORT", "8080");
        HttpServer server = HttpServer.create(new InetSocketAddress(Integer.parseInt(port)), 1024);
        ExecutorService threads = Executors.newCachedThreadPool();
        server.setExecutor(threads);
        server.createContext("/health/", exchange -> write(exchange, Response.text(200, "OK")));
        Function function = new Function();
        server.createContext("/", exchange -> serve(function, exchange));
        Runtime.getRuntime().addShutdownHook(new Thread(() -> {
            System.out.println("stopping");
            server.stop(RUNNING.get() > 0 ? DRAIN_SECONDS : 0);
            threads.shutdown();
        }));
        server.start();
        System.out.println("listening on port " + server.getAddress().getPort());
    }

    private static void serve(Function function, HttpExchange exchange) throws IOException {
        RUNNING.incrementAndGet();
        try {
            Map<String, List<String>> headers = new HashMap<>();
            exchange.getRequestHeaders().forEach((name, values) -> headers.put(name.toLowerCase(), values));
            byte[] body = exchange.getRequestBody().readAllBytes();
            Request request = new Request(exchange.getRequestMethod(), exchange.getRequestURI().getPath(),
                exchange.getRequestURI().getQuery(), headers, body);
            CloudEvent event;
            try {
                event = CloudEvent.read(request);
            } catch (IllegalArgumentException error) {
                write(exchange, Response.text(400, error.getMessage()));
                return;
            }
            CloudEvent answer = function.handle(event);
            write(exchange, answer == null ? new Response(204, Map.of(), new byte[0]) : answer.write());
        } catch (RuntimeException error) {
            error.printStackTrace();
            write(exchange, Response.text(500, "the function failed"));
        } finally {
            RUNNING.decrementAndGet();
        }
    }

    private static void write(HttpExchange exchange, Response response) throws IOException {
        try (exchange) {
            response.headers().forEach((name, value) -> exchange.getResponseHeaders().set(name, value));
            boolean bare = response.body().length == 0 || exchange.getRequestMethod().equals("HEAD");
            exchange.sendResponseHeaders(response.status(), bare ? -1 : response.body().length);
            if (!bare) {
                exchange.getResponseBody().write(response.body());
            }
        }
    }
}
