"""Server-sent events (WHATWG HTML, section 9.2): framing, and a response that cleans up behind itself."""

import contextlib
from collections.abc import AsyncGenerator, Mapping
from typing import Any

import orjson
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

PING = b": ping\n\n"  # a comment: clients pass it over, proxies see that the connection lives
DONE = b"data: [DONE]\n\n"


def event(data: Mapping[str, Any]) -> bytes:
    """One event with a JSON object as its data."""
    return b"data: " + orjson.dumps(data) + b"\n\n"


class EventStream(Response):
    """Sends ready-made events, and always closes them and the `source` that they are made from.

    Thus the source's `finally` runs the moment the client is gone, even before the first event: a generator that has not begun
    runs no `finally`, and its source would be left as it is.
    """

    media_type = "text/event-stream"

    def __init__(
        self, events: AsyncGenerator[bytes, None], source: AsyncGenerator[object, None], headers: Mapping[str, str]
    ) -> None:
        fixed = {"cache-control": "no-cache, no-transform", "x-accel-buffering": "no"}
        super().__init__(headers={**fixed, **headers})
        del self.headers["content-length"]
        self._events, self._source = events, source

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with contextlib.aclosing(self._source), contextlib.aclosing(self._events) as events:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            async for chunk in events:
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})
