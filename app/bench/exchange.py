"""One HTTP/1.1 exchange on a bare socket, read as it comes. Knows nothing of dialects: of a stream it gives each event's data.

Light on purpose: client and server often share a few cores, and what the client takes, the server lacks. Each request has a
connection of its own, whose opening is part of its time.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import httptools
import orjson

CONNECT_SECONDS = 10.0
SILENCE_SECONDS = 300.0  # a server that says nothing for so long is given up
MESSAGE_LENGTH = 200  # of what a server says of an error
OnEvent = Callable[[bytes, float], None]  # its data, and when it came by time.perf_counter


class RequestFailed(Exception):
    """A request had no whole answer; `kind` is what failures are counted by."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class Endpoint:
    """A server's address, and how requests to it begin."""

    def __init__(self, url: str, api_key: str | None = None) -> None:
        """ValueError if `url` is none of http or https."""
        parts = urlsplit(url if "://" in url else f"http://{url}")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{url!r} is no address of a server; it looks like http://127.0.0.1:8000")
        self.is_tls = parts.scheme == "https"
        self.host, self.port = parts.hostname, parts.port or (443 if self.is_tls else 80)
        self.base = parts.path.rstrip("/").removesuffix("/v1")  # OpenAI's clients have it in their address, the paths here too
        netloc = parts.netloc.rpartition("@")[2]
        self.url = f"{parts.scheme}://{netloc}{self.base}"
        key = f"authorization: Bearer {api_key}\r\n" if api_key else ""
        self._head = f"host: {netloc}\r\n{key}content-type: application/json\r\nconnection: close\r\n"

    def request(self, method: str, path: str, body: bytes) -> bytes:
        return f"{method} {self.base}{path} HTTP/1.1\r\n{self._head}content-length: {len(body)}\r\n\r\n".encode() + body

    async def fetch(self, method: str, path: str, body: object = None) -> Any:
        """The answer's JSON; RequestFailed if there is none or its status is not 200."""
        exchange = await self._exchange(self.request(method, path, b"" if body is None else orjson.dumps(body)))
        try:
            return orjson.loads(exchange.body)
        except orjson.JSONDecodeError:
            raise RequestFailed("no JSON", f"{path} answers no JSON: {exchange.body[:MESSAGE_LENGTH]!r}") from None

    async def stream(self, request: bytes, on_event: OnEvent) -> None:
        """Give each event to `on_event` the moment it comes, until the answer ends; what `on_event` raises ends it too."""
        exchange = await self._exchange(request, on_event)
        if not exchange.is_stream:
            raise RequestFailed("no stream", f"the answer is no event stream: {exchange.body[:MESSAGE_LENGTH]!r}")

    async def _exchange(self, request: bytes, on_event: OnEvent | None = None) -> "Exchange":
        loop = asyncio.get_running_loop()
        exchange = Exchange(request, on_event)
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                transport, _ = await loop.create_connection(lambda: exchange, self.host, self.port, ssl=self.is_tls or None)
        except (OSError, TimeoutError) as error:
            raise RequestFailed("no connection", f"{self.url} cannot be reached: {error or type(error).__name__}") from None
        try:
            await exchange.done
        finally:
            transport.abort()
        return exchange


class Exchange(asyncio.Protocol):
    """Sends `request` and parses the answer; `done` holds the outcome: nothing, or why it failed."""

    def __init__(self, request: bytes, on_event: OnEvent | None) -> None:
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.body = b""  # of a stream what is no whole line yet
        self.is_stream = False
        self._request, self._on_event = request, on_event
        self._parser = httptools.HttpResponseParser(self)
        self._status = 0
        self._is_complete = False

    def connection_made(self, transport: asyncio.WriteTransport) -> None:  # type: ignore[override]  # of TCP both ways are open
        self._heard = time.perf_counter()
        self._silence = asyncio.get_running_loop().call_later(SILENCE_SECONDS, self._check_silence)
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        if self.done.done():
            return
        self._heard = time.perf_counter()
        try:
            self._parser.feed_data(data)
            if self.is_stream:
                self._read_events()
        except httptools.HttpParserError as error:
            self._end(RequestFailed("malformed", f"this is not HTTP: {data[:80]!r} ({error})"))
        except RequestFailed as error:
            self._end(error)
        else:
            if self._is_complete:
                self._end(None)

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"content-type" and value.startswith(b"text/event-stream"):
            self.is_stream = self._on_event is not None

    def on_headers_complete(self) -> None:
        self._status = self._parser.get_status_code()
        self.is_stream = self.is_stream and self._status == 200

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        self._is_complete = True

    def _read_events(self) -> None:
        assert self._on_event is not None
        *lines, self.body = self.body.split(b"\n")
        for line in lines:
            if line.startswith(b"data:"):
                self._on_event(line[5:].strip(), self._heard)

    def connection_lost(self, exc: Exception | None) -> None:
        """Whether an answer that ends with its connection is whole, its reader knows."""
        if exc is not None or not self._status:
            self._end(RequestFailed("cut off", f"the connection broke off before the answer's end{f': {exc}' if exc else ''}"))
        self._end(None)

    def _end(self, failure: RequestFailed | None) -> None:
        self._silence.cancel()
        if self.done.done():
            return
        if failure is None and self._status != 200:
            failure = RequestFailed(f"HTTP {self._status}", _message(self.body))
        if failure is None:
            self.done.set_result(None)
        else:
            self.done.set_exception(failure)

    def _check_silence(self) -> None:
        left = self._heard + SILENCE_SECONDS - time.perf_counter()
        if left > 0:
            self._silence = asyncio.get_running_loop().call_later(left, self._check_silence)
        else:
            self._end(RequestFailed("silence", f"the server said nothing for {SILENCE_SECONDS:g} s"))


def message_of(error: Any) -> str:
    """What a server says of an error: TGI's form, OpenAI's, FastAPI's, or whatever it is."""
    if isinstance(error, dict):
        error = next((error[name] for name in ("error", "message", "detail") if error.get(name)), error)
        return message_of(error) if isinstance(error, dict) and "message" in error else str(error)[:MESSAGE_LENGTH]
    return str(error)[:MESSAGE_LENGTH]


def _message(body: bytes) -> str:
    try:
        return message_of(orjson.loads(body))
    except orjson.JSONDecodeError:
        return body[:MESSAGE_LENGTH].decode(errors="replace")
