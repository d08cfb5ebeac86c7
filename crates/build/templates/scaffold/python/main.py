"""The main program of a function: Dormouse lays it over the project when the function is built.

    main.py MODULE http|cloudevent

It serves the module's `new()` or `handle` over HTTP/1.1 as an ASGI application, with the standard library alone.
"""
import asyncio
import http
import importlib
import inspect
import logging
import os
import signal
import sys
import urllib.parse

HEAD_MAX = 64 * 1024
BODY_CHUNK = 64 * 1024
BODY_AHEAD = 4
IDLE_SECONDS = 75
DRAIN_SECONDS = 25

log = logging.getLogger("function")


class Refused(Exception):
    """A request that is no HTTP."""

    def __init__(self, status, text):
        super().__init__(text)
        self.status = status


class Request:
    """One request's head and the reading of its body."""

    def __init__(self, method, target, version, headers, reader, writer):
        self.method = method
        self.target = target
        self.version = version
        self.headers = headers
        self.reader = reader
        self.writer = writer
        self.left = 0
        self.chunked = False
        self.complete = False
        self.expects = b"100-continue" in self.header(b"expect").lower()
        coding = self.header(b"transfer-encoding").lower()
        if coding:
            if coding != b"chunked":
                raise Refused(501, "this transfer coding is not supported")
            if self.header(b"content-length"):
                raise Refused(400, "both a length and a transfer coding")
            self.chunked = True
        else:
            lengths = {value for name, value in headers if name == b"content-length"}
            if len(lengths) > 1 or any(not value.isdigit() for value in lengths):
                raise Refused(400, "bad content-length")
            self.left = int(lengths.pop()) if lengths else 0
            self.complete = self.left == 0

    def header(self, name):
        return next((value for known, value in self.headers if known == name), b"")

    def keeps_alive(self):
        wish = self.header(b"connection").lower()
        return b"close" not in wish and (self.version == "1.1" or b"keep-alive" in wish)

    async def body(self):
        """The next part of the body; empty when it is complete."""
        if self.complete:
            return b""
        if self.expects:
            self.expects = False
            self.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if self.chunked and self.left == 0:
            line = await self.reader.readuntil(b"\r\n")
            try:
                self.left = int(line.split(b";", 1)[0], 16)
            except ValueError:
                raise Refused(400, "bad chunk") from None
            if self.left == 0:
                while await self.reader.readuntil(b"\r\n") != b"\r\n":
                    pass
                self.complete = True
                return b""
        part = await self.reader.read(min(self.left, BODY_CHUNK))
        if not part:
            raise ConnectionResetError("the client went away")
        self.left -= len(part)
        if self.left == 0:
            if self.chunked:
                await self.reader.readexactly(2)
            else:
                self.complete = True
        return part


class Response:
    """One response, written as ASGI messages come."""

    def __init__(self, request, writer):
        self.request = request
        self.writer = writer
        self.started = False
        self.ended = False
        self.chunked = False
        self.bare = request.method == "HEAD"
        self.close = not request.keeps_alive()

    async def send(self, message):
        kind = message["type"]
        if kind == "http.response.start":
            if self.started:
                raise RuntimeError("the response has begun already")
            self.started = True
            self.head(message["status"], message.get("headers") or [])
        elif kind == "http.response.body":
            if not self.started:
                raise RuntimeError("http.response.start must come first")
            await self.part(message.get("body", b""), message.get("more_body", False))
        else:
            raise RuntimeError(f"unknown message {kind}")

    def head(self, status, headers):
        phrase = http.HTTPStatus(status).phrase if status in set(http.HTTPStatus) else ""
        lines = [f"HTTP/1.1 {status} {phrase}".encode()]
        names = set()
        for name, value in headers:
            name, value = as_bytes(name).lower(), as_bytes(value)
            if b"\r" in name + value or b"\n" in name + value:
                raise ValueError("a header has a line break")
            if name in (b"connection", b"transfer-encoding"):
                continue
            names.add(name)
            lines.append(name + b": " + value)
        self.bare = self.bare or status in (204, 304) or status < 200
        if b"content-length" not in names and not self.bare:
            if self.request.version == "1.1":
                self.chunked = True
                lines.append(b"transfer-encoding: chunked")
            else:
                self.close = True
        if self.close:
            lines.append(b"connection: close")
        self.writer.write(b"\r\n".join(lines) + b"\r\n\r\n")

    async def part(self, body, more):
        if self.ended:
            return
        if body and not self.bare:
            body = as_bytes(body)
            self.writer.write(b"%x\r\n%b\r\n" % (len(body), body) if self.chunked else body)
        if not more:
            self.ended = True
            if self.chunked and not self.bare:
                self.writer.write(b"0\r\n\r\n")
        await self.writer.drain()

    async def plain(self, status, text):
        """A whole response of our own; nothing when one has begun."""
        if self.started:
            self.close = True
            return
        body = text.encode()
        await self.send({
            "type": "http.response.start",
            "status": status,
            "headers": [(b"content-type", b"text/plain; charset=utf-8"),
                        (b"content-length", str(len(body)).encode())],
        })
        await self.send({"type": "http.response.body", "body": body})


class Server:
    """Serves one function."""

    def __init__(self, function, invoke):
        self.function = function
        self.invoke = invoke
        self.connections = set()
        self.busy = set()
        self.stopping = False
        self.liveness = os.environ.get("LIVENESS_URL") or "/health/liveness"
        self.readiness = os.environ.get("READINESS_URL") or "/health/readiness"

    async def run(self):
        loop = asyncio.get_running_loop()
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        await call(self.function, "start", os.environ.copy())
        host, port = address()
        server = await asyncio.start_server(self.connection, host, port, limit=HEAD_MAX, backlog=1024)
        log.info("listening on port %s", server.sockets[0].getsockname()[1])
        await stop.wait()
        log.info("stopping")
        self.stopping = True
        server.close()
        for task in self.connections - self.busy:
            task.cancel()
        if self.connections:
            _, cut = await asyncio.wait(set(self.connections), timeout=DRAIN_SECONDS)
            for task in cut:
                task.cancel()
        await call(self.function, "stop")

    async def connection(self, reader, writer):
        task = asyncio.current_task()
        self.connections.add(task)
        try:
            while not self.stopping:
                request = await self.request(reader, writer)
                if request is None:
                    break
                self.busy.add(task)
                keep = await self.answer(request, writer)
                self.busy.discard(task)
                if not keep:
                    break
        except Refused as error:
            text = str(error).encode()
            writer.write(b"HTTP/1.1 %d Refused\r\nconnection: close\r\ncontent-length: %d\r\n\r\n%b"
                         % (error.status, len(text), text))
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError, TimeoutError):
            pass
        except Exception:  # nothing that a client sends may end the server
            log.exception("connection")
        finally:
            self.connections.discard(task)
            self.busy.discard(task)
            writer.close()

    async def request(self, reader, writer):
        try:
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), IDLE_SECONDS)
        except asyncio.IncompleteReadError as error:
            if error.partial.strip():
                raise Refused(400, "the request ended early") from None
            return None
        except asyncio.TimeoutError:
            return None
        except asyncio.LimitOverrunError:
            raise Refused(431, "the headers are too large") from None
        lines = head[:-4].split(b"\r\n")
        words = lines[0].decode("latin-1").split(" ")
        if len(words) != 3 or words[2] not in ("HTTP/1.1", "HTTP/1.0"):
            raise Refused(400, "no HTTP/1.1 request")
        headers = []
        for line in lines[1:]:
            name, colon, value = line.partition(b":")
            if not colon or not name or name.strip() != name:
                raise Refused(400, "bad header")
            headers.append((name.lower(), value.strip()))
        return Request(words[0], words[1], words[2][5:], headers, reader, writer)

    async def answer(self, request, writer):
        """Answers one request; whether the connection can take another."""
        response = Response(request, writer)
        if self.stopping:
            response.close = True
        target = urllib.parse.urlsplit(request.target)
        path = urllib.parse.unquote(target.path) or "/"
        if path == self.liveness:
            await self.probe("alive", response)
        elif path == self.readiness:
            await self.probe("ready", response)
        else:
            await self.serve(request, response, path, target)
        # The rest of the body lies before the next request.
        while not request.complete and not response.close:
            if request.expects:
                response.close = True
                break
            await request.body()
        await writer.drain()
        return not response.close

    async def probe(self, name, response):
        try:
            result = await call(self.function, name)
        except Exception as error:
            log.exception("%s", name)
            await response.plain(500, f"Error: {error}")
            return
        good, text = result if isinstance(result, tuple) else (result is None or result, "OK")
        await response.plain(200 if good else 500, str(text))

    async def serve(self, request, response, path, target):
        over = asyncio.Event()

        async def receive():
            if request.complete and over.is_set():
                return {"type": "http.disconnect"}
            body = await request.body()
            if request.complete:
                over.set()
            return {"type": "http.request", "body": body, "more_body": not request.complete}

        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": request.version,
            "method": request.method,
            "scheme": request.header(b"x-forwarded-proto").decode("latin-1") or "http",
            "path": path,
            "raw_path": target.path.encode("latin-1"),
            "query_string": target.query.encode("latin-1"),
            "root_path": "",
            "headers": request.headers,
            "client": request.writer.get_extra_info("peername"),
            "server": request.writer.get_extra_info("sockname"),
            "state": {},
        }
        try:
            if self.invoke == "cloudevent":
                import dormouse_events
                await dormouse_events.serve(self.function, scope, receive, response.send)
            else:
                await self.function.handle(scope, receive, response.send)
        except (ConnectionError, asyncio.IncompleteReadError, Refused):
            raise
        except Exception as error:
            log.exception("%s %s", request.method, path)
            await response.plain(500, f"Error: {error}")
            return
        if not response.started:
            await response.plain(500, "the function sent no response")
        elif not response.ended:
            await response.part(b"", False)


def as_bytes(value):
    return value.encode("latin-1") if isinstance(value, str) else bytes(value)


async def call(function, name, *arguments):
    """Calls an optional method, plain or async; None when there is none."""
    method = getattr(function, name, None)
    if method is None:
        return None
    result = method(*arguments)
    return await result if inspect.isawaitable(result) else result


def address():
    listen = os.environ.get("LISTEN_ADDRESS")
    if listen:
        host, _, port = listen.rpartition(":")
        return host.strip("[]") or None, int(port)
    return None, int(os.environ.get("PORT") or 8080)


class Static:
    """A module that exports `handle` only."""

    def __init__(self, handle):
        self.handle = handle


def load(name):
    module = importlib.import_module(name)
    if hasattr(module, "new"):
        function = module.new()
        if not hasattr(function, "handle"):
            raise AttributeError("what new() returns has no method 'handle'")
        return function
    if hasattr(module, "handle"):
        return Static(module.handle)
    raise AttributeError(f"the module {name!r} exports neither 'new' nor 'handle'")


async def main():
    level = os.environ.get("FUNC_LOG_LEVEL", "info").upper()
    logging.basicConfig(level=getattr(logging, level, logging.INFO), stream=sys.stdout,
                        format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    sys.path.insert(0, os.getcwd())
    await Server(load(sys.argv[1]), sys.argv[2]).run()


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except Exception as error:
        log.exception("the function does not start: %s", error)
        sys.exit(1)
