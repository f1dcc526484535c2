"""The tokens of a text as `/tokenize` tells them: written a thousand at a time, since a body may hold a million."""

import contextlib
from collections.abc import Callable, Iterator

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from app.api.responses import JSON
from app.long_texts import LongTexts
from model.token_spans import TokenSpans

TOKENS_AT_ONCE = 1024  # half a millisecond, which others wait for the interpreter
PIECE_BYTES = 1 << 16  # sent at once


def written(spans: TokenSpans) -> Iterator[bytes]:
    """The JSON list in pieces."""
    separator = b"["
    for first in range(0, len(spans), TOKENS_AT_ONCE):
        tokens = spans[first : first + TOKENS_AT_ONCE]
        yield separator + orjson.dumps([{"id": i, "text": text, "start": a, "stop": b} for i, text, a, b in tokens.rows()])[1:-1]
        separator = b","
    yield b"]" if len(spans) else b"[]"


class LongAnswer(Response):
    """Sends what is written of a long text as fast as the client reads it, in a room that is not the queue's."""

    media_type = JSON.media_type

    def __init__(self, first: bytes, rest: Iterator[bytes], texts: LongTexts, room: contextlib.ExitStack) -> None:
        super().__init__()
        del self.headers["content-length"]
        self._first, self._rest, self._texts, self._room = first, rest, texts, room

    @classmethod
    async def of(cls, texts: LongTexts, size: int, write: Callable[[], Iterator[bytes]]) -> "LongAnswer":
        """The text is read, and the first piece written, before anything is sent: what fails then has a status of its own."""
        with contextlib.ExitStack() as room:
            room.enter_context(texts.answering(size))

            def begin() -> tuple[bytes, Iterator[bytes]]:
                pieces = write()
                return next(pieces), pieces

            with texts.admitted(size):
                first, rest = await texts.turn(begin)
            return cls(first, rest, texts, room.pop_all())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._room:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            piece, request = self._first, Request(scope, receive)
            while piece and not await request.is_disconnected():
                await send({"type": "http.response.body", "body": piece, "more_body": True})
                piece = await self._texts.turn(self._next_piece)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    def _next_piece(self) -> bytes:
        piece = bytearray()
        while len(piece) < PIECE_BYTES and (more := next(self._rest, b"")):
            piece += more
        return bytes(piece)
