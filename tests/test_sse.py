"""The response that streams events."""

import asyncio

import pytest

from app.sse import EventStream


def test_a_client_that_is_gone_before_the_first_event_leaves_nothing_open() -> None:
    closed = []

    async def source():
        try:
            yield 1
            yield 2
        finally:
            closed.append("source")

    async def events(batches):
        async for _ in batches:
            yield b"data: {}\n\n"

    async def broken_send(message):
        raise OSError("the connection is gone")

    async def scenario():
        batches = source()
        await anext(batches)  # as a handler does, to answer with a status if that fails
        response = EventStream(events(batches), batches, {})
        with pytest.raises(OSError, match="gone"):
            await response({}, None, broken_send)
        return list(closed)

    assert asyncio.run(scenario()) == ["source"]
