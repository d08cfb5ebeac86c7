package functions;

import java.nio.charset.StandardCharsets;
import java.util.Map;

/** A response. */
public record Response(int status, Map<String, String> headers, byte[] body) {
    /** Text. */
    public static Response text(int status, String text) {
        return new Response(status, Map.of("content-type", "text/plain; charset=utf-8"),
            text.getBytes(StandardCharsets.UTF_8));
    }

    /** JSON that is written already. */
    public static Response json(int status, String json) {
        return new Response(status, Map.of("content-type", "application/json"), json.getBytes(StandardCharsets.UTF_8));
    }
}
