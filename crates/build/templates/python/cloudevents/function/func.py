import logging

from cloudevents.core.v1.event import CloudEvent


def new():
    """Makes the function: called once for each instance. The object may be of any class."""
    return Function()


class Function:
    async def handle(self, scope, receive, send):
        """Takes the event in scope["event"]; `send(event)` answers with one, `send.binary(event)` in binary mode."""
        # YOUR CODE HERE
        event = scope["event"]
        logging.info("got %s from %s: %s", event.get_type(), event.get_source(), event.get_data())

        await send(CloudEvent(
            attributes={
                "id": f"response-{event.get_id()}",
                "source": "function",
                "type": "function.response",
            },
            data={"message": "OK"},
        ))

    # The rest is optional.

    def start(self, cfg):
        """Called before the first event, with the environment."""

    def stop(self):
        """Called after the last event."""

    def alive(self):
        """Whether the instance is well; it is replaced when it is not."""
        return True, "Alive"

    def ready(self):
        """Whether the instance takes events."""
        return True, "Ready"
