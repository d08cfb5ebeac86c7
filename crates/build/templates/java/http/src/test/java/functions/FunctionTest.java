package functions;

import java.util.Map;

/** Run with `java -cp BUILD functions.FunctionTest`; it needs no test library. */
public final class FunctionTest {
    private FunctionTest() {}

    /** Fails with a message. */
    public static void main(String[] arguments) {
        for (String method : new String[] {"GET", "POST"}) {
            Response response = new Function().handle(new Request(method, "/", null, Map.of(), new byte[0]));
            if (response.status() != 200 || !new String(response.body()).equals("OK")) {
                throw new AssertionError(method + " was answered " + response.status());
            }
        }
        System.out.println("2 passed");
    }
}
