package functions;

import java.util.List;
import java.util.Map;

/** Run with `java -cp BUILD functions.FunctionTest`; it needs no test library. */
public final class FunctionTest {
    private FunctionTest() {}

    /** Fails with a message. */
    public static void main(String[] arguments) {
        Request request = new Request("POST", "/", null,
            Map.of("ce-specversion", List.of("1.0"), "ce-id", List.of("1"), "ce-type", List.of("test"),
                "ce-source", List.of("/test")), new byte[0]);
        CloudEvent answer = new Function().handle(CloudEvent.read(request));
        if (!answer.type().equals("function.response") || !answer.text().contains("OK")) {
            throw new AssertionError("the answer is " + answer.text());
        }
        System.out.println("1 passed");
    }
}
