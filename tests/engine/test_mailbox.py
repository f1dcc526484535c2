"""The outputs of one request, for one reader who may be slow: fewer wake-ups than outputs, and none lost."""

import asyncio

import pytest

from app.engine.mailbox import Mailbox
from app.engine.sequence import TokenOutput
from app.errors import GenerationFailed
from tests.engine.event_loop import in_event_loop


def token(i: int) -> TokenOutput:
    return TokenOutput(0, 0, i, -1.0, (), None, 0.0, 0.0, 0)


@in_event_loop
async def test_a_slow_reader_finds_all_outputs_at_once_and_in_order():
    mailbox = Mailbox(range(1))
    for i in range(3):
        mailbox.put(token(i))
    assert [output.token_id for output in await mailbox.get()] == [0, 1, 2]
    mailbox.put(token(3))
    assert [output.token_id for output in await mailbox.get()] == [3]


@in_event_loop
async def test_a_reader_that_waits_wakes_up_once_for_all_outputs_of_a_moment():
    mailbox = Mailbox(range(1))
    reader = asyncio.create_task(mailbox.get())
    await asyncio.sleep(0)
    mailbox.put(token(0))
    mailbox.put(token(1))
    assert [output.token_id for output in await reader] == [0, 1]


@in_event_loop
async def test_an_error_comes_after_the_outputs_before_it_and_stays():
    mailbox = Mailbox(range(1))
    mailbox.put(token(0))
    mailbox.fail(GenerationFailed("why"))
    assert len(await mailbox.get()) == 1
    for _ in range(2):
        with pytest.raises(GenerationFailed, match="why"):
            await mailbox.get()


@in_event_loop
async def test_a_reader_that_is_cancelled_loses_no_output():
    mailbox = Mailbox(range(1))
    reader = asyncio.create_task(mailbox.get())
    await asyncio.sleep(0)
    mailbox.put(token(0))
    reader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reader
    assert [output.token_id for output in await mailbox.get()] == [0]


@in_event_loop
async def test_a_reader_with_little_patience_gets_nothing_and_may_come_again():
    mailbox = Mailbox(range(1))
    assert await mailbox.get(patience=0.001) == []
    mailbox.put(token(0))
    assert len(await mailbox.get(patience=60)) == 1
