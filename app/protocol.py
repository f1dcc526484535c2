"""uvicorn's HTTP protocol, which would send chunks to HTTP/1.0 clients as well. Knows nothing of what is sent."""

from typing import TYPE_CHECKING

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

if TYPE_CHECKING:
    from uvicorn._types import ASGISendEvent


class HttpProtocol(HttpToolsProtocol):
    """HTTP/1.0 knows no chunks (RFC 9112, section 6.1): an answer without a length ends with its connection there."""

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        if self.scope["http_version"] == "1.0":
            self.cycle.__class__ = _UnchunkedCycle  # uvicorn has no place for a class of its cycles; it begins in a task, later


class _UnchunkedCycle(RequestResponseCycle):
    """uvicorn closes the connection after any answer to HTTP/1.0 by itself."""

    async def send(self, message: "ASGISendEvent") -> None:
        if message["type"] == "http.response.start":
            if all(name.lower() != b"content-length" for name, _ in message.get("headers", [])):
                self.chunked_encoding = False
        elif message["type"] == "http.response.body" and self.chunked_encoding is False and not self.expected_content_length:
            self.expected_content_length = len(message.get("body", b""))  # no length was told, so each part has the right one
        await super().send(message)
