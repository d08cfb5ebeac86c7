package functions;

/** Takes CloudEvents. */
public final class Function {
    /** Takes an event and answers with one, or with null; called by many threads at once. */
    public CloudEvent handle(CloudEvent event) {
        // YOUR CODE HERE
        System.out.println("got " + event.type() + " from " + event.source() + ": " + event.text());

        return CloudEvent.json("response-" + event.id(), "function", "function.response", "{\"message\":\"OK\"}");
    }
}
