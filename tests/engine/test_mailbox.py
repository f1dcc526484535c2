"""The outputs of one request, for one reader who may be slow: fewer wake-ups than outputs, and none lost."""

import asyncio

import pytest

from app.engine.mailbox import Mailbox
from app.engine.sequence import TokensOutput
from app.errors import GenerationFailed
from model.batch import SampledToken
from tests.engine.event_loop import in_event_loop


def token(i: int) -> TokensOutput:
    return TokensOutput(0, 0, (SampledToken(i, -1.0),), None, 0.0, 0.0, 0)


@in_event_loop
async def test_a_slow_reader_finds_all_outputs_at_once_and_in_order():
    mailbox = Mailbox(range(1))
    for i in range(3):
        mailbox.put(token(i))
    assert [token_id for output in await mailbox.get() for token_id in output.token_ids] == [0, 1, 2]
    mailbox.put(token(3))
    assert [token_id for output in await mailbox.get() for token_id in output.token_ids] == [3]


@in_event_loop
async def test_a_reader_that_waits_wakes_up_once_for_all_outputs_of_a_moment():
    mailbox = Mailbox(range(1))
    reader = asyncio.create_task(mailbox.get())
    await asyncio.sleep(0)
    mailbox.put(token(0))
    mailbox.put(token(1))
    assert [token_id for output in await reader for token_id in output.token_ids] == [0, 1]


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
    assert [token_id for output in await mailbox.get() for token_id in output.token_ids] == [0]


@in_event_loop
async def test_a_reader_with_little_patience_gets_nothing_and_may_come_again():
    mailbox = Mailbox(range(1))
    assert await mailbox.get(patience=0.001) == []
    mailbox.put(token(0))
    assert len(await mailbox.get(patience=60)) == 1


@in_event_loop
async def test_each_wait_has_all_of_its_patience_however_many_came_before():
    mailbox, loop = Mailbox(range(1)), asyncio.get_running_loop()
    for i in range(3):
        loop.call_later(0.05, mailbox.put, token(i))
        assert await mailbox.get(patience=0.1) != []
    began = loop.time()
    assert await mailbox.get(patience=0.1) == []
    assert loop.time() - began > 0.09
    assert await mailbox.get(patience=0.01) == [], "a shorter one is kept to as well"


@in_event_loop
async def test_a_reader_without_a_limit_is_woken_by_an_output_alone():
    mailbox, loop = Mailbox(range(1)), asyncio.get_running_loop()
    loop.call_later(0.01, mailbox.put, token(0))
    assert len(await mailbox.get(patience=0.05)) == 1
    loop.call_later(0.15, mailbox.put, token(1))
    assert len(await mailbox.get()) == 1
