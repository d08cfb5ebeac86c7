package functions;

/** Answers HTTP requests. */
public final class Function {
    /** Answers a request; called by many threads at once. */
    public Response handle(Request request) {
        // YOUR CODE HERE
        System.out.println(request.method() + " " + request.path());

        return Response.text(200, "OK");
    }
}
