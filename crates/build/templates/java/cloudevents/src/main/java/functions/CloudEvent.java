package functions;

import java.net.URLDecoder;
import java.nio.charset.StandardCharsets;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;

/** An event: attributes and data. It is sent and taken in binary mode: an attribute is a header. */
public record CloudEvent(Map<String, String> attributes, String contentType, byte[] data) {
    /** Refuses events without what every event has. */
    public CloudEvent {
        for (String name : List.of("id", "source", "type", "specversion")) {
            if (attributes.getOrDefault(name, "").isEmpty()) {
                throw new IllegalArgumentException("the event lacks " + name);
            }
        }
    }

    /** An event with JSON that is written already. */
    public static CloudEvent json(String id, String source, String type, String json) {
        Map<String, String> attributes =
            new TreeMap<>(Map.of("id", id, "source", source, "type", type, "specversion", "1.0"));
        return new CloudEvent(attributes, "application/json", json.getBytes(StandardCharsets.UTF_8));
    }

    /** The event of a request. */
    public static CloudEvent read(Request request) {
        if (request.header("ce-specversion") == null) {
            throw new IllegalArgumentException("the request is no CloudEvent in binary mode: it has no ce-specversion");
        }
        Map<String, String> attributes = new TreeMap<>();
        request.headers().forEach((name, values) -> {
            if (name.startsWith("ce-")) {
                String value = values.get(0).replace("+", "%2B");
                attributes.put(name.substring(3), URLDecoder.decode(value, StandardCharsets.UTF_8));
            }
        });
        return new CloudEvent(attributes, request.header("content-type"), request.body());
    }

    /** The event as a response. */
    public Response write() {
        Map<String, String> headers = new HashMap<>();
        attributes.forEach((name, value) -> headers.put("ce-" + name, escape(value)));
        if (contentType != null) {
            headers.put("content-type", contentType);
        }
        return new Response(200, headers, data);
    }

    /** Its id. */
    public String id() {
        return attributes.get("id");
    }

    /** Where it comes from. */
    public String source() {
        return attributes.get("source");
    }

    /** What it is. */
    public String type() {
        return attributes.get("type");
    }

    /** The data as text. */
    public String text() {
        return new String(data, StandardCharsets.UTF_8);
    }

    private static String escape(String value) {
        StringBuilder out = new StringBuilder();
        for (byte b : value.getBytes(StandardCharsets.UTF_8)) {
            if (b < ' ' || b == '"' || b == '%' || b == 0x7f) {
                out.append(String.format("%%%02X", b & 0xff));
            } else {
                out.append((char) b);
            }
        }
        return out.toString();
    }
}
