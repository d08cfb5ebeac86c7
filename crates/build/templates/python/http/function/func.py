import logging


def new():
    """Makes the function: called once for each instance. The object may be of any class."""
    return Function()


class Function:
    async def handle(self, scope, receive, send):
        """Answers a request, as an ASGI application does."""
        # YOUR CODE HERE
        logging.info("%s %s", scope.get("method"), scope.get("path"))

        await send({
            "type": "http.response.start",
            "status": 200,
            "headers": [[b"content-type", b"text/plain"]],
        })
        await send({"type": "http.response.body", "body": b"OK"})

    # The rest is optional.

    def start(self, cfg):
        """Called before the first request, with the environment."""

    def stop(self):
        """Called after the last request."""

    def alive(self):
        """Whether the instance is well; it is replaced when it is not."""
        return True, "Alive"

    def ready(self):
        """Whether the instance takes requests."""
        return True, "Ready"
