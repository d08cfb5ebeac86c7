package functions;

import java.nio.charset.StandardCharsets;
import java.util.List;
import java.util.Map;

/** A request. Header names are in lower case. */
public record Request(String method, String path, String query, Map<String, List<String>> headers, byte[] body) {
    /** The first value of a header, or null. */
    public String header(String name) {
        List<String> values = headers.get(name.toLowerCase());
        return values == null || values.isEmpty() ? null : values.get(0);
    }

    /** The body as text. */
    public String text() {
        return new String(body, StandardCharsets.UTF_8);
    }
}
