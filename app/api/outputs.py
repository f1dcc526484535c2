"""Waits for an engine's outputs and for the client's departure together, for streamed and unstreamed answers alike."""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from fastapi import Request
from starlette.responses import Response

from app.errors import ClientLeft, GenerationFailed, ServiceError
from app.generation import Generation, off_loop
from app.inspection.work import Inspection
from app.logs import traceback_of
from app.sample import TextToken
from app.scoring import Scoring
from app.sse import PING

if TYPE_CHECKING:
    from app.tracing import RequestSpan

PING_SECONDS = 15.0
OUTCOMES = {499: "aborted", 504: "expired"}  # of streams that end by an error, but for those that failed
log = logging.getLogger("gpt2.streams")


Work = Generation | Scoring | Inspection  # what is done for a request


@asynccontextmanager
async def watched(request: Request, work: Work) -> AsyncIterator[None]:
    """Abort the work when this ends, however that is, and as soon as the client is gone: who waits for it then gets ClientLeft.

    A handler is not cancelled by itself when its client leaves, hence the watcher. What the engine fails by is told, and logged,
    with the request's id. Where requests are traced, their spans are told of it.
    """
    span: RequestSpan | None = request.scope["state"].get("span")
    watcher = asyncio.create_task(_abort_when_client_leaves(request, work))
    try:
        yield
    except GenerationFailed as error:
        log.error("%s failed: %s", request.state.request_id, error)
        raise GenerationFailed(f"{error}; the log has it under {request.state.request_id}") from None
    finally:
        watcher.cancel()
        work.abort()
        if span is not None:
            span.take(work)


async def outputs(request: Request, generation: Generation) -> AsyncGenerator[list[TextToken], None]:
    """Yield the tokens as they come, an empty list after 15 s of silence; raise ClientLeft as soon as the client is gone.

    However this ends, the generation is aborted, and its slots free by the next step.
    """
    async with watched(request, generation):
        while not generation.is_finished:
            yield await generation.next(PING_SECONDS)


async def all_tokens(request: Request, generation: Generation) -> list[list[TextToken]]:
    """Each sample's tokens, once all are there."""
    tokens: list[list[TextToken]] = [[] for _ in generation.samples]
    async for batch in outputs(request, generation):
        for token in batch:
            tokens[token.sample].append(token)
    return tokens


async def in_time(work: Work, size: int, answer: Callable[[], Response]) -> Response:
    """A complete answer, written on the event loop or off it by its size; one that is late is none: raises DeadlinePassed."""
    response = await off_loop(size, answer)
    if work.deadline is not None:
        work.deadline.check()
    return response


async def framed(
    request: Request,
    generation: Generation,
    first: list[TextToken],
    batches: AsyncGenerator[list[TextToken], None],
    frame: Callable[[TextToken], bytes],
    frame_error: Callable[[ServiceError], bytes],
    prepare: Callable[[list[TextToken]], Awaitable[object]] | None = None,
) -> AsyncGenerator[bytes, None]:
    """The events of `first` and of the batches after it, one a token, a ping for silence, an error event if it fails.

    `prepare` may do elsewhere what would keep the event loop busy before a batch is framed.
    """
    try:
        batch: list[TextToken] | None = first
        while batch is not None:
            if batch:
                if prepare is not None:
                    await prepare(batch)
                yield b"".join([frame(token) for token in batch])
            elif not generation.is_finished:
                yield PING
            batch = await anext(batches, None)
    except ServiceError as error:
        request.state.outcome = OUTCOMES.get(error.status, "failed")
        yield frame_error(error)
    except Exception as error:  # the status went out long ago: an event is what is left to tell it by
        request.state.outcome = "failed"
        log.error("a stream broke under %s:\n%s", request.state.request_id, traceback_of(error))
        yield frame_error(ServiceError(f"something broke here; the log has it under {request.state.request_id}"))


async def _abort_when_client_leaves(request: Request, work: Work) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
    request.state.outcome = "aborted"
    work.abort(ClientLeft("the client left"))
