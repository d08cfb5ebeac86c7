"""Run with `python -m unittest discover tests` or pytest."""
import asyncio
import unittest

from cloudevents.core.v1.event import CloudEvent
from function import new


class TestFunction(unittest.TestCase):
    def test_handle_answers_with_an_event(self):
        sent = []

        async def send(event):
            sent.append(event)

        event = CloudEvent(attributes={"id": "1", "type": "test", "source": "/test"}, data={"name": "tiger"})
        asyncio.run(new().handle({"event": event}, None, send))
        self.assertEqual(sent[0].get_type(), "function.response")
        self.assertEqual(sent[0].get_data(), {"message": "OK"})


if __name__ == "__main__":
    unittest.main()
