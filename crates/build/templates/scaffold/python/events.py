"""CloudEvents 1.0 over HTTP for functions: binary and structured mode, with the standard library alone.

Events are `cloudevents.core.v1.event.CloudEvent` when the project has that package, else `Event` of this module, which
has the same methods.
"""
import base64
import datetime
import json
import logging
import urllib.parse
import uuid

try:
    from cloudevents.core.v1.event import CloudEvent
except ImportError:
    CloudEvent = None

BODY_MAX = 64 * 1024 * 1024
REQUIRED = ("id", "source", "type", "specversion")

log = logging.getLogger("function")


class Event:
    """An event: attributes and data."""

    def __init__(self, attributes, data=None):
        self._attributes = {"specversion": "1.0", "id": str(uuid.uuid4()), **attributes}
        missing = [name for name in REQUIRED if not self._attributes.get(name)]
        if missing:
            raise ValueError(f"the event lacks {', '.join(missing)}")
        self._data = data

    def get_id(self):
        return self._attributes["id"]

    def get_source(self):
        return self._attributes["source"]

    def get_type(self):
        return self._attributes["type"]

    def get_specversion(self):
        return self._attributes["specversion"]

    def get_datacontenttype(self):
        return self._attributes.get("datacontenttype")

    def get_dataschema(self):
        return self._attributes.get("dataschema")

    def get_subject(self):
        return self._attributes.get("subject")

    def get_time(self):
        return self._attributes.get("time")

    def get_extension(self, name):
        return self._attributes.get(name)

    def get_attributes(self):
        return self._attributes

    def get_data(self):
        return self._data

    def __repr__(self):
        return f"Event({self._attributes!r})"


class Sender:
    """What a function answers with: events, or plain ASGI messages by `http`."""

    def __init__(self, send):
        self._send = send

    async def __call__(self, event, status=200):
        await self.structured(event, status)

    async def structured(self, event, status=200):
        attributes, data = parts(event)
        body = {name: shown(value) for name, value in attributes.items() if value is not None}
        if isinstance(data, (bytes, bytearray)):
            body["data_base64"] = base64.b64encode(data).decode()
        elif data is not None:
            body["data"] = data
        await self._answer([(b"content-type", b"application/cloudevents+json")],
                           json.dumps(body).encode(), status)

    async def binary(self, event, status=200):
        attributes, data = parts(event)
        content = attributes.pop("datacontenttype", None)
        headers = [(f"ce-{name}".encode(), escape(shown(value)))
                   for name, value in attributes.items() if value is not None]
        if isinstance(data, (bytes, bytearray)):
            body = bytes(data)
        elif isinstance(data, str) and content and not is_json(content):
            body = data.encode()
        elif data is None:
            body = b""
        else:
            content = content or "application/json"
            body = json.dumps(data).encode()
        if content:
            headers.append((b"content-type", content.encode()))
        await self._answer(headers, body, status)

    async def http(self, message):
        await self._send(message)

    async def _answer(self, headers, body, status):
        headers.append((b"content-length", str(len(body)).encode()))
        await self._send({"type": "http.response.start", "status": status, "headers": headers})
        await self._send({"type": "http.response.body", "body": body})


class Counted:
    """Notes whether an answer was sent: a function may have none."""

    def __init__(self, send):
        self.send = send
        self.any = False

    async def __call__(self, message):
        self.any = True
        await self.send(message)


async def serve(function, scope, receive, send):
    """Decodes the request's event, calls the function, answers with what it sends."""
    counted = Counted(send)
    body = b""
    more = True
    while more:
        message = await receive()
        body += message.get("body", b"")
        if len(body) > BODY_MAX:
            return await plain(counted, 413, "the event is too large")
        more = message.get("more_body", False)
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
    try:
        event = decode(headers, body)
    except NotImplementedError as error:
        return await plain(counted, 415, str(error))
    except Exception as error:
        log.warning("%s %s is no event: %s", scope["method"], scope["path"], error)
        return await plain(counted, 400, f"Bad Request: {error}")
    scope["event"] = event
    sender = Sender(counted)
    try:
        await function.handle(scope, receive, sender)
    except Exception as error:
        log.exception("the function failed")
        if counted.any:
            raise
        await sender.structured(make({"type": "dev.functions.error", "source": "/cloudevent/error"},
                                     {"message": f"Error: {error}"}), 500)
    if not counted.any:
        await plain(counted, 204, "")


def decode(headers, body):
    """An event from a request's headers and body."""
    content = headers.get("content-type", "")
    media = content.split(";", 1)[0].strip().lower()
    if media.startswith("application/cloudevents-batch"):
        raise NotImplementedError("batches of events are not supported")
    if media.startswith("application/cloudevents"):
        if media != "application/cloudevents+json":
            raise NotImplementedError(f"the event format {media} is not supported")
        attributes = json.loads(body)
        if not isinstance(attributes, dict):
            raise ValueError("a structured event must be an object")
        data = attributes.pop("data", None)
        encoded = attributes.pop("data_base64", None)
        if encoded is not None:
            data = base64.b64decode(encoded, validate=True)
        return check(attributes, data)
    if "ce-specversion" not in headers:
        raise ValueError("this endpoint expects CloudEvents")
    attributes = {name[3:]: urllib.parse.unquote(value)
                  for name, value in headers.items() if name.startswith("ce-")}
    data = None
    if body:
        data = body
        if content:
            attributes["datacontenttype"] = content
        if is_json(content or "application/json"):
            data = json.loads(body)
        elif media.startswith("text/"):
            data = body.decode()
    return check(attributes, data)


def check(attributes, data):
    missing = [name for name in REQUIRED if not attributes.get(name)]
    if missing:
        raise ValueError(f"the event lacks {', '.join(missing)}")
    if attributes["specversion"] not in ("1.0", "0.3"):
        raise ValueError(f"specversion {attributes['specversion']} is not supported")
    return make(attributes, data)


def make(attributes, data):
    attributes = dict(attributes)
    attributes.setdefault("id", str(uuid.uuid4()))
    attributes.setdefault("specversion", "1.0")
    if isinstance(attributes.get("time"), str):
        attributes["time"] = datetime.datetime.fromisoformat(attributes["time"].replace("Z", "+00:00"))
    return (CloudEvent or Event)(attributes, data)


def parts(event):
    """Attributes and data of what a function sends: an event of any kind, or a dictionary."""
    if isinstance(event, dict):
        attributes = dict(event)
        data = attributes.pop("data", None)
        return {"specversion": "1.0", "id": str(uuid.uuid4()), **attributes}, data
    if hasattr(event, "get_attributes"):
        attributes = event.get_attributes() if callable(event.get_attributes) else event.get_attributes
        return dict(attributes), event.get_data()
    if hasattr(event, "_attributes"):
        return dict(event._attributes), event.data
    raise TypeError(f"{type(event).__name__} is no event")


def is_json(content):
    media = content.split(";", 1)[0].strip().lower()
    return media in ("application/json", "text/json") or media.endswith("+json")


def shown(value):
    if isinstance(value, datetime.datetime):
        return value.isoformat().replace("+00:00", "Z")
    return value if isinstance(value, (str, int, bool)) else str(value)


def escape(value):
    text = {True: "true", False: "false"}[value] if isinstance(value, bool) else str(value)
    return urllib.parse.quote(text, safe="!#$&'()*+,/:;=?@[]-._~<>\\^`{|} ").encode()


async def plain(send, status, text):
    body = text.encode()
    headers = [] if status == 204 else [(b"content-type", b"text/plain; charset=utf-8"),
                                        (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
