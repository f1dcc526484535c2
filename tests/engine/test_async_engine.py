"""The border between the event loop and the engine's thread: every accepted request ends once, and nothing is lost on the way."""

import asyncio
import contextlib
import functools
import itertools
import random
import threading
from collections import Counter
from collections.abc import Callable, Coroutine

import pytest

from app.engine import async_engine as module
from app.engine.async_engine import AsyncEngine, Mailbox
from app.engine.engine import Engine
from app.engine.scheduler import Scheduler
from app.engine.sequence import EngineRequest, FinishReason, TokenOutput
from app.errors import GenerationFailed, NotReady, QueueFull
from model.batch import ForwardBatch, SamplingParams, StepOutput

ENDLESS = 10_000


def in_event_loop(test: Callable[..., Coroutine]) -> Callable[..., None]:
    @functools.wraps(test)
    def run(**fixtures) -> None:
        asyncio.run(asyncio.wait_for(test(**fixtures), 120))  # a hang shall not last for ever

    return run


@pytest.fixture
def runner(make_runner):
    return make_runner(num_slots=2, max_positions=ENDLESS + 100)


@contextlib.asynccontextmanager
async def started(runner, max_waiting: int = 100, on_step=None):
    engine = AsyncEngine(Engine(runner, Scheduler(runner.num_slots, 4, 16)), max_waiting, on_step)
    await engine.start()
    try:
        yield engine
    finally:
        runner.may_run.set()
        await engine.stop()


def request(max_new_tokens: int = 3, prompt_ids=(1, 2, 3)) -> EngineRequest:
    return EngineRequest(-1, tuple(prompt_ids), SamplingParams(), max_new_tokens)


async def read(mailbox: Mailbox) -> list[TokenOutput]:
    outputs: list[TokenOutput] = []
    while not outputs or outputs[-1].finish_reason is None:
        outputs += await mailbox.get()
    return outputs


async def held(runner) -> None:
    """Wait until the engine's thread stands inside a step."""
    assert await asyncio.to_thread(runner.is_held.wait, 60)


# The way of a request.


@in_event_loop
async def test_all_tokens_arrive_and_the_last_says_why(runner):
    async with started(runner) as engine:
        outputs = await read(engine.submit(request(5)))
        assert [output.finish_reason for output in outputs] == [None] * 4 + [FinishReason.LENGTH]
        assert engine.num_unfinished == 0


@in_event_loop
async def test_many_requests_get_the_tokens_they_would_get_alone(runner):
    async with started(runner) as engine:
        prompts = [tuple(range(i, i + 1 + i % 9)) for i in range(12)]
        together = await asyncio.gather(*(read(engine.submit(request(4, prompt))) for prompt in prompts))
        alone = [await read(engine.submit(request(4, prompt))) for prompt in prompts]
        assert [[o.token_id for o in outputs] for outputs in together] == [[o.token_id for o in outputs] for outputs in alone]


@in_event_loop
async def test_beyond_slots_and_queue_a_request_is_refused_until_another_ends(runner):
    runner.hold()
    async with started(runner, max_waiting=1) as engine:
        mailboxes = [engine.submit(request()) for _ in range(3)]
        with pytest.raises(QueueFull) as refusal:
            engine.submit(request())
        assert refusal.value.retry_after >= 1
        engine.abort(mailboxes.pop())
        mailboxes.append(engine.submit(request()))
        runner.may_run.set()
        await asyncio.gather(*map(read, mailboxes))
        await read(engine.submit(request()))


@in_event_loop
async def test_with_no_queue_only_the_slots_are_filled(runner):
    runner.hold()
    async with started(runner, max_waiting=0) as engine:
        for _ in range(2):
            engine.submit(request())
        with pytest.raises(QueueFull):
            engine.submit(request())


@in_event_loop
async def test_the_time_to_retry_after_stays_between_a_second_and_a_minute(runner):
    async with started(runner, max_waiting=1) as engine:
        for _ in range(3):
            await read(engine.submit(request(1)))
        assert 1 <= engine._retry_after(0) <= engine._retry_after(10**9) == 60


@in_event_loop
async def test_an_aborted_sequence_leaves_its_slot_by_the_next_step(make_runner):
    runner = make_runner(num_slots=1, max_positions=ENDLESS + 100)
    runner.hold()
    async with started(runner) as engine:
        first, second = engine.submit(request(ENDLESS)), engine.submit(request(1, (7, 8)))
        await held(runner)
        engine.abort(first)
        runner.may_run.set()
        assert len(await read(second)) == 1
        assert [chunk.token_ids for batch in runner.batches for chunk in batch.chunks] == [(1, 2, 3), (7, 8)]


@in_event_loop
async def test_what_an_aborted_sequence_computed_meanwhile_is_dropped(runner):
    runner.hold()
    async with started(runner) as engine:
        mailbox = engine.submit(request(ENDLESS))
        await held(runner)
        engine.abort(mailbox)
        engine.abort(mailbox)
        runner.may_run.set()
        await read(engine.submit(request(2)))
        assert await mailbox.get(patience=0.001) == []
        assert engine.num_unfinished == 0


@in_event_loop
async def test_a_runners_exception_fails_the_sequences_of_its_step_alone(make_runner):
    runner = make_runner(num_slots=1)
    runner.hold()
    async with started(runner) as engine:
        first, second = engine.submit(request()), engine.submit(request())
        await held(runner)
        runner.fail_next = "execute"
        runner.may_run.set()
        with pytest.raises(GenerationFailed, match="RuntimeError: out of memory"):
            await read(first)
        assert len(await read(second)) == 3
        engine.check_ready()


@in_event_loop
async def test_each_step_is_reported_on_the_event_loop(runner):
    results, threads = [], set()

    def on_step(result) -> None:
        results.append(result)
        threads.add(threading.current_thread())

    async with started(runner, on_step=on_step) as engine:
        await asyncio.gather(*(read(engine.submit(request(4))) for _ in range(5)))
    assert threads == {threading.main_thread()}
    assert sum(result.stats.num_generated_tokens for result in results) == 20


@in_event_loop
async def test_an_idle_engine_keeps_saying_that_it_lives(runner, monkeypatch):
    monkeypatch.setattr(module, "IDLE_SECONDS", 0.001)
    beats = asyncio.Semaphore(0)
    async with started(runner, on_step=lambda _: beats.release()):
        for _ in range(3):
            await beats.acquire()
    assert runner.batches == []


# Being ready, and the end.


@in_event_loop
async def test_an_engine_takes_nothing_before_it_has_started(runner):
    engine = AsyncEngine(Engine(runner, Scheduler(2, 4, 16)), 10)
    with pytest.raises(NotReady, match="has not started"):
        engine.submit(request())
    await engine.stop()


@in_event_loop
async def test_an_engine_that_gives_no_sign_of_life_is_not_ready(runner):
    runner.hold()
    async with started(runner) as engine:
        engine.submit(request())
        await held(runner)
        engine._beat -= 2 * module.STALL_SECONDS
        with pytest.raises(NotReady, match="no sign of life"):
            engine.check_ready()
        runner.may_run.set()


@pytest.mark.parametrize("error", [RuntimeError("a bug"), KeyboardInterrupt()], ids=["exception", "interrupt"])
@in_event_loop
async def test_when_the_engines_thread_breaks_all_requests_hear_of_it_and_none_is_taken(runner, monkeypatch, error):
    runner.hold()
    async with started(runner) as engine:
        mailboxes = [engine.submit(request(ENDLESS)) for _ in range(4)]
        await held(runner)

        def broken(now: float) -> None:
            raise error

        monkeypatch.setattr(engine.engine.scheduler, "schedule", broken)
        runner.may_run.set()
        for mailbox in mailboxes:
            with pytest.raises(NotReady, match="the engine has stopped"):
                await read(mailbox)
        with pytest.raises(NotReady, match="the engine has stopped"):
            engine.submit(request())
        assert engine.num_unfinished == 0


@in_event_loop
async def test_draining_waits_for_what_runs_and_takes_nothing_new(runner):
    runner.hold()
    async with started(runner) as engine:
        mailboxes = [engine.submit(request(20)) for _ in range(5)]
        await held(runner)
        drained = asyncio.create_task(engine.drain(100))
        await asyncio.sleep(0)
        with pytest.raises(NotReady, match="shutting down"):
            engine.submit(request())
        assert not drained.done()
        runner.may_run.set()
        assert await drained == 0
        assert [len(await read(mailbox)) for mailbox in mailboxes] == [20] * 5


@in_event_loop
async def test_draining_cuts_off_what_does_not_end_in_time(runner):
    runner.hold()
    async with started(runner) as engine:
        mailboxes = [engine.submit(request(ENDLESS)) for _ in range(3)]
        await held(runner)
        assert await engine.drain(0.001) == 3
        for mailbox in mailboxes:
            with pytest.raises(NotReady, match="time limit"):
                await read(mailbox)


@in_event_loop
async def test_stopping_ends_the_thread_and_tells_those_who_still_wait(runner):
    async with started(runner) as engine:
        mailboxes = [engine.submit(request(ENDLESS)) for _ in range(3)]
        await mailboxes[0].get()
        await engine.stop()
        assert not engine._thread.is_alive()
        for mailbox in mailboxes:
            with pytest.raises(NotReady, match="shutting down"):
                await read(mailbox)
        with pytest.raises(NotReady):
            engine.submit(request())


async def client(engine: AsyncEngine, chance: random.Random, counts: Counter) -> None:
    """Submit until accepted, then read to the end or leave early."""
    asked = request(chance.randrange(1, 12), [chance.randrange(2) for _ in range(chance.randrange(1, 20))])
    mailbox = None
    while mailbox is None:
        mailbox = try_submit(engine, asked, counts)
        await asyncio.sleep(0 if mailbox else 0.001)
    num_wanted, num_read = chance.choice([0, 1, 3, ENDLESS, ENDLESS]), 0
    try:
        while num_read < num_wanted:
            outputs = await mailbox.get()
            assert outputs
            num_read += len(outputs)
            if outputs[-1].finish_reason is not None:
                counts["completed"] += 1
                return
        counts["aborted"] += 1
    except GenerationFailed:
        counts["failed"] += 1
    finally:
        engine.abort(mailbox)


def try_submit(engine: AsyncEngine, asked: EngineRequest, counts: Counter) -> Mailbox | None:
    try:
        mailbox = engine.submit(asked)
    except QueueFull:
        counts["refused"] += 1
        return None
    counts["submitted"] += 1
    return mailbox


@in_event_loop
async def test_of_200_clients_each_ends_exactly_once_whatever_happens(make_runner, monkeypatch):
    runner = make_runner(num_slots=5)
    execute, steps = runner.execute, itertools.count(1)

    def disturbed(batch: ForwardBatch) -> StepOutput:
        step = next(steps)
        runner.fail_next = {0: "execute", 5: "copy_prefix"}.get(step % 11)
        runner.nan_slots = {step % 5} if step % 3 == 0 else set()
        return execute(batch)

    monkeypatch.setattr(runner, "execute", disturbed)
    counts: Counter = Counter()
    async with started(runner, max_waiting=60) as engine:
        await asyncio.gather(*(client(engine, random.Random(i), counts) for i in range(200)))
        assert engine.num_unfinished == 0
        monkeypatch.setattr(runner, "execute", execute)
        runner.fail_next, runner.nan_slots = None, set()
        await read(engine.submit(request(2)))
    assert counts["submitted"] == 200 == counts["completed"] + counts["failed"] + counts["aborted"]
    assert min(counts[how] for how in ("completed", "failed", "aborted", "refused")) > 0
    assert engine.engine.scheduler.slots.num_used == 0
    assert not engine.engine.has_work


def test_the_runner_is_warm_on_the_engines_own_thread_before_requests_are_taken_in(runner):
    threads = []
    runner.warm_up = lambda: threads.append(threading.current_thread().name)

    async def scenario():
        async with started(runner) as engine:
            engine.check_ready()

    asyncio.run(scenario())
    assert threads == ["gpt2-engine"]


def test_a_runner_that_cannot_be_warmed_up_keeps_the_engine_from_starting(runner):
    def fail():
        raise MemoryError("no room")

    runner.warm_up = fail

    async def scenario():
        with pytest.raises(MemoryError, match="no room"):
            async with started(runner):
                pass

    asyncio.run(scenario())
