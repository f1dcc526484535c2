"""Waits for a generation's tokens and for the client's departure together, for streamed and unstreamed answers alike."""

import asyncio
from collections.abc import AsyncGenerator, Callable

from fastapi import Request

from app.errors import ClientLeft, ServiceError
from app.generation import Generation, TextToken
from app.sse import PING

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


async def framed(
    request: Request,
    generation: Generation,
    first: list[TextToken],
    batches: AsyncGenerator[list[TextToken], None],
    frame: Callable[[int, TextToken, Generation | None], bytes],
    frame_error: Callable[[ServiceError], bytes],
) -> AsyncGenerator[bytes, None]:
    """The events of `first` and of the batches after it, one a token, a ping for silence, an error event if it fails.

    `frame` gets a token's index, from 1 on, and with the last token the finished generation.
    """
    index = 0
    try:
        batch: list[TextToken] | None = first
        while batch is not None:
            events = []
            for token in batch:
                index += 1
                is_last = index == generation.num_generated and generation.finish_reason is not None
                events.append(frame(index, token, generation if is_last else None))
            yield b"".join(events) or PING
            batch = await anext(batches, None)
    except ServiceError as error:
        request.state.outcome = "aborted" if error.status == 499 else "failed"
        yield frame_error(error)


async def _abort_when_client_leaves(request: Request, generation: Generation) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
    request.state.outcome = "aborted"
    generation.abort(ClientLeft("the client left"))
