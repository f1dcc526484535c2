"""Waits for a generation's tokens and for the client's departure together, for streamed and unstreamed answers alike."""

import asyncio
from collections.abc import AsyncGenerator

from fastapi import Request

from app.errors import ClientLeft
from app.generation import Generation, TextToken

PING_SECONDS = 15.0


async def outputs(request: Request, generation: Generation) -> AsyncGenerator[list[TextToken], None]:
    """Yield the tokens as they come, an empty list after 15 s of silence; raise ClientLeft as soon as the client is gone.

    A handler is not cancelled by itself when its client leaves, hence the watcher. However this ends, the sequence is aborted, and
    its slot free by the next step.
    """
    watcher = asyncio.create_task(_abort_when_client_leaves(request, generation))
    try:
        while generation.finish_reason is None:
            yield await generation.next(PING_SECONDS)
    finally:
        watcher.cancel()
        generation.abort()


async def _abort_when_client_leaves(request: Request, generation: Generation) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
    request.state.outcome = "aborted"
    generation.abort(ClientLeft("the client left"))
