"""Run with `python -m unittest discover tests` or pytest."""
import asyncio
import unittest

from function import new


class TestFunction(unittest.TestCase):
    def test_handle_answers(self):
        sent = []

        async def send(message):
            sent.append(message)

        asyncio.run(new().handle({"method": "GET", "path": "/"}, None, send))
        self.assertEqual(sent[0]["status"], 200)
        self.assertEqual(sent[1]["body"], b"OK")


if __name__ == "__main__":
    unittest.main()
