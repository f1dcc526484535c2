"""One request and its answer on a connection: uvicorn's cycle, mended where it leaves HTTP or the contract."""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

if TYPE_CHECKING:
    from uvicorn._types import ASGISendEvent


class Outlet:
    """What a cycle sees of its connection: it writes straight into the transport, and closes as the protocol wants it."""

    __slots__ = ("close", "is_closing", "write")

    def __init__(self, transport: asyncio.Transport, close: Callable[[], None]) -> None:
        self.write, self.is_closing, self.close = transport.write, transport.is_closing, close


def cut_off(cycle: RequestResponseCycle) -> None:
    """The rest of the request will not come, or nobody reads the answer."""
    if not cycle.response_complete:
        cycle.disconnected = True
        # The application may have nothing left but to send, and would never hear of it.
        cycle.scope["state"].setdefault("outcome", "aborted")
    cycle.message_event.set()


class ExpectingCycle(RequestResponseCycle):
    """The client waits for 100 Continue before it sends the body."""

    async def send(self, message: "ASGISendEvent") -> None:
        if self.waiting_for_100_continue and message["type"] == "http.response.start":
            self.keep_alive = False  # the body was never asked for: whether it comes nonetheless, nobody knows
        await super().send(message)


class UnchunkedCycle(ExpectingCycle):
    """HTTP/1.0 knows no chunks (RFC 9112, section 6.1): an answer without a length ends with its connection there.

    uvicorn closes the connection after any answer to HTTP/1.0 by itself.
    """

    async def send(self, message: "ASGISendEvent") -> None:
        if message["type"] == "http.response.start":
            if all(name.lower() != b"content-length" for name, _ in message.get("headers", [])):
                self.chunked_encoding = False
        elif message["type"] == "http.response.body" and self.chunked_encoding is False and not self.expected_content_length:
            self.expected_content_length = len(message.get("body", b""))  # no length was told, so each part has the right one
        await super().send(message)
