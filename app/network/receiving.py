"""Reads requests off a connection: how much of one the parser may see, what of it is HTTP. Knows nothing of time and answers."""

import asyncio
import re
from typing import Any, Never

import httptools
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from app.errors import HeadTooLarge, MalformedRequest, MethodUnknown, ServiceError, UrlTooLong, VersionUnknown
from app.network.answers import parser_error
from app.network.limits import MAX_HEAD_BYTES, MAX_HEADERS, MAX_TRAILERS, MAX_URL_BYTES

HOST = re.compile(rb"[\w.~!$&'()*+,;=%:\[\]-]*", re.ASCII)  # RFC 9110, section 7.2; which of these names it is, nobody here asks
CHECKED_HEADERS = {b"host", b"expect", b"transfer-encoding"}
UPGRADE_TOKENS = {b"upgrade", b"http2-settings"}


class LimitedReader(HttpToolsProtocol):
    """`read` raises a ServiceError at what is beyond a limit or no HTTP, and reads nothing of the connection any more after that.

    A connection is between two requests, in a head or in a body: `_has_begun` and `_in_body` say which.
    """

    # With uvicorn's own there would be more attributes than Python finds fast.
    __slots__ = (
        "_fault", "_has_begun", "_has_host", "_in_body", "_num_body_bytes", "_num_framing_bytes", "_num_head_bytes", "_num_parsed",
        "_num_received", "_num_trailers",
    )  # fmt: skip

    def __init__(
        self, config: Config, server_state: ServerState, app_state: dict[str, Any], _loop: asyncio.AbstractEventLoop | None = None
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.url, self.headers = b"", []
        self._has_begun = self._in_body = self._has_host = False
        self._num_received = self._num_parsed = 0  # the bytes that came last, and those of them that the parser had last
        self._num_head_bytes = self._num_body_bytes = self._num_framing_bytes = self._num_trailers = 0
        self._fault: ServiceError | None = None  # why a callback stopped the parser

    def read(self, data: bytes) -> None:
        self._num_received = len(data)
        try:
            if self._in_body or self._num_head_bytes + len(data) <= MAX_HEAD_BYTES:
                self._parse(data)
            else:
                self._feed(data)
        except httptools.HttpParserError as error:
            raise self._fault or parser_error(error) from None
        if self._in_body:
            self._num_framing_bytes += len(data)
            if self._num_framing_bytes > 65_536 + 6 * self._num_body_bytes:  # chunks of one byte have five beside it
                raise MalformedRequest("its chunks are all but empty")

    def _feed(self, data: bytes) -> None:
        """Let the parser see no more of a head than a head may have."""
        while not self._in_body and self._num_head_bytes + len(data) > MAX_HEAD_BYTES:
            room = MAX_HEAD_BYTES - self._num_head_bytes
            self._parse(data[:room])
            data = data[room:]
            if not self._in_body and self._num_head_bytes >= MAX_HEAD_BYTES:
                raise _head_too_large()
        if data:
            self._parse(data)

    def _parse(self, data: bytes) -> None:
        self._num_parsed = len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as offer:
            self._parse_without_offer(data[offer.args[0] :])
            return
        if not self._in_body:
            self._num_head_bytes += len(data)

    def _parse_without_offer(self, rest: bytes) -> None:
        """An offer to go on in another protocol is declined; the parser would leave the body to that protocol."""
        version = self.parser.get_http_version().encode()
        head = [self.parser.get_method(), b" ", self.url, b" HTTP/", version, b"\r\n"]
        for name, value in self.headers:
            if name == b"connection":
                value = b",".join(token for token in value.split(b",") if token.strip().lower() not in UPGRADE_TOKENS)
            if name not in UPGRADE_TOKENS and (value or name != b"connection"):
                head += [name, b": ", value, b"\r\n"]
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn has it
        self._num_head_bytes = 0
        self._parse(b"".join([*head, b"\r\n"]))
        if rest:
            self._parse(rest)

    # The parser's callbacks. An exception stops it.

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._has_begun, self._has_host = True, False
        self._num_body_bytes = self._num_trailers = 0

    def on_url(self, url: bytes) -> None:
        self.url += url
        if len(self.url) > MAX_URL_BYTES:
            self._fail(UrlTooLong(MAX_URL_BYTES))

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_body:
            self._drop_trailer()
            return
        if len(self.headers) == MAX_HEADERS:
            self._fail(HeadTooLarge(f"the request has more than {MAX_HEADERS} headers, the most that are read"))
        name, value = name.lower(), value.rstrip(b" \t")  # what stands behind a value is no part of it (RFC 9112, section 5.1)
        if name in CHECKED_HEADERS:
            self._check_header(name, value)
        self.headers.append((name, value))

    def _drop_trailer(self) -> None:
        self._num_trailers += 1
        if self._num_trailers > MAX_TRAILERS:
            self._fail(HeadTooLarge(f"the request has more than {MAX_TRAILERS} trailers, the most that are read"))

    def _check_header(self, name: bytes, value: bytes) -> None:
        if name == b"expect":
            self.expect_100_continue = value.lower() == b"100-continue"
        elif name == b"transfer-encoding" and value.lower() != b"chunked":
            self._fail(MethodUnknown("the request's body has a transfer coding other than chunked"))
        elif name == b"host":
            if self._has_host or not HOST.fullmatch(value):
                self._fail(MalformedRequest("it has two Host headers" if self._has_host else "its Host header names no host"))
            self._has_host = True

    def on_headers_complete(self) -> None:
        self._check_head()
        if not self.parser.should_upgrade():  # else see _parse_without_offer
            super().on_headers_complete()
            self._in_body = True
            self._num_framing_bytes = -self._num_received  # it may hold the rest of another request: what comes later counts

    def _check_head(self) -> None:
        version = self.parser.get_http_version()
        if version == "1.1":
            if not self._has_host:  # RFC 9112, section 3.2
                self._fail(MalformedRequest("it has no Host header"))
        elif version != "1.0":
            self._fail(VersionUnknown())
        elif any(name == b"transfer-encoding" for name, _ in self.headers):  # section 6.1
            self._fail(MalformedRequest("HTTP/1.0 has no chunks"))
        if self.parser.get_method() == b"CONNECT":
            self._fail(MethodUnknown("CONNECT: this server is no proxy"))
        # A head that began behind another request's body may be larger than `_feed` knew.
        if self._num_parsed > MAX_HEAD_BYTES and len(self.url) + sum(len(n) + len(v) + 4 for n, v in self.headers) > MAX_HEAD_BYTES:
            self._fail(_head_too_large())

    def on_body(self, body: bytes) -> None:
        self._num_body_bytes += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        if self._in_body:  # else see _parse_without_offer
            super().on_message_complete()
            self._has_begun = self._in_body = False
            self._num_head_bytes = -self._num_parsed  # how much of that came before this, nobody knows: none of it counts

    def _fail(self, error: ServiceError) -> Never:
        self._fault = error
        raise error


def _head_too_large() -> HeadTooLarge:
    return HeadTooLarge(f"the request's line and headers have more than {MAX_HEAD_BYTES} bytes, the most that are read")
