"""The border between the event loop and the engine's thread: every accepted request ends once, and nothing is lost on the way."""

import asyncio
import contextlib
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
from app.errors import GenerationFailed, NotReady, QueueFull, ServiceError
from model.batch import SamplingParams

ENDLESS = 10_000


def run(test: Callable[[], Coroutine]) -> None:
    async def guarded() -> None:
        await asyncio.wait_for(test(), 120)  # a hang shall not last for ever

    asyncio.run(guarded())


@pytest.fixture
def runner(make_runner):
    return make_runner(num_slots=2, max_positions=ENDLESS + 100)


@contextlib.asynccontextmanager
async def started(runner, max_waiting: int = 100, on_step=None):
    engine = AsyncEngine(Engine(runner, Scheduler(runner.num_slots, 4, 16)), max_waiting, on_step)
    engine.start()
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


def token(i: int) -> TokenOutput:
    return TokenOutput(0, i, -1.0, None, 0.0, 0)


# The mailbox.


def test_a_slow_reader_finds_all_outputs_at_once_and_in_order():
    async def test() -> None:
        mailbox = Mailbox(0)
        for i in range(3):
            mailbox.put(token(i))
        assert [output.token_id for output in await mailbox.get()] == [0, 1, 2]
        mailbox.put(token(3))
        assert [output.token_id for output in await mailbox.get()] == [3]

    run(test)


def test_a_reader_that_waits_wakes_up_once_for_all_outputs_of_a_moment():
    async def test() -> None:
        mailbox = Mailbox(0)
        reader = asyncio.create_task(mailbox.get())
        await asyncio.sleep(0)
        mailbox.put(token(0))
        mailbox.put(token(1))
        assert [output.token_id for output in await reader] == [0, 1]

    run(test)


def test_an_error_comes_after_the_outputs_before_it_and_stays():
    async def test() -> None:
        mailbox = Mailbox(0)
        mailbox.put(token(0))
        mailbox.fail(GenerationFailed("why"))
        assert len(await mailbox.get()) == 1
        for _ in range(2):
            with pytest.raises(GenerationFailed, match="why"):
                await mailbox.get()

    run(test)


def test_a_reader_that_is_cancelled_loses_no_output():
    async def test() -> None:
        mailbox = Mailbox(0)
        reader = asyncio.create_task(mailbox.get())
        await asyncio.sleep(0)
        mailbox.put(token(0))
        reader.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reader
        assert [output.token_id for output in await mailbox.get()] == [0]

    run(test)


def test_a_reader_with_little_patience_gets_nothing_and_may_come_again():
    async def test() -> None:
        mailbox = Mailbox(0)
        assert await mailbox.get(patience=0.001) == []
        mailbox.put(token(0))
        assert len(await mailbox.get(patience=60)) == 1

    run(test)


# The way of a request.


def test_all_tokens_arrive_and_the_last_says_why(runner):
    async def test() -> None:
        async with started(runner) as engine:
            outputs = await read(engine.submit(request(5)))
            assert [output.finish_reason for output in outputs] == [None] * 4 + [FinishReason.LENGTH]
            assert engine.num_unfinished == 0

    run(test)


def test_many_requests_get_the_tokens_they_would_get_alone(runner):
    async def test() -> None:
        async with started(runner) as engine:
            prompts = [tuple(range(i, i + 1 + i % 9)) for i in range(12)]
            together = await asyncio.gather(*(read(engine.submit(request(4, prompt))) for prompt in prompts))
            alone = [await read(engine.submit(request(4, prompt))) for prompt in prompts]
            assert [[o.token_id for o in outputs] for outputs in together] == [[o.token_id for o in outputs] for outputs in alone]

    run(test)


def test_beyond_slots_and_queue_a_request_is_refused_until_another_ends(runner):
    async def test() -> None:
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

    run(test)


def test_with_no_queue_only_the_slots_are_filled(runner):
    async def test() -> None:
        runner.hold()
        async with started(runner, max_waiting=0) as engine:
            for _ in range(2):
                engine.submit(request())
            with pytest.raises(QueueFull):
                engine.submit(request())

    run(test)


def test_the_time_to_retry_after_stays_between_a_second_and_a_minute(runner):
    async def test() -> None:
        async with started(runner, max_waiting=1) as engine:
            for _ in range(3):
                await read(engine.submit(request(1)))
            assert 1 <= engine._retry_after(0) <= engine._retry_after(10**9) == 60

    run(test)


def test_an_aborted_sequence_leaves_its_slot_by_the_next_step(make_runner):
    async def test() -> None:
        runner = make_runner(num_slots=1, max_positions=ENDLESS + 100)
        runner.hold()
        async with started(runner) as engine:
            first, second = engine.submit(request(ENDLESS)), engine.submit(request(1, (7, 8)))
            await held(runner)
            engine.abort(first)
            runner.may_run.set()
            assert len(await read(second)) == 1
            assert [chunk.token_ids for batch in runner.batches for chunk in batch.chunks] == [(1, 2, 3), (7, 8)]

    run(test)


def test_what_an_aborted_sequence_computed_meanwhile_is_dropped(runner):
    async def test() -> None:
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

    run(test)


def test_a_runners_exception_fails_the_sequences_of_its_step_alone(make_runner):
    async def test() -> None:
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

    run(test)


def test_each_step_is_reported_on_the_event_loop(runner):
    async def test() -> None:
        results, threads = [], set()

        def on_step(result) -> None:
            results.append(result)
            threads.add(threading.current_thread())

        async with started(runner, on_step=on_step) as engine:
            await asyncio.gather(*(read(engine.submit(request(4))) for _ in range(5)))
        assert threads == {threading.main_thread()}
        assert sum(result.stats.num_generated_tokens for result in results) == 20

    run(test)


def test_an_idle_engine_keeps_saying_that_it_lives(runner, monkeypatch):
    monkeypatch.setattr(module, "IDLE_SECONDS", 0.001)

    async def test() -> None:
        beats = asyncio.Semaphore(0)
        async with started(runner, on_step=lambda _: beats.release()):
            for _ in range(3):
                await beats.acquire()
        assert runner.batches == []

    run(test)


# Being ready, and the end.


def test_an_engine_takes_nothing_before_it_has_started(runner):
    async def test() -> None:
        engine = AsyncEngine(Engine(runner, Scheduler(2, 4, 16)), 10)
        with pytest.raises(NotReady, match="has not started"):
            engine.submit(request())
        await engine.stop()

    run(test)


def test_an_engine_that_gives_no_sign_of_life_is_not_ready(runner):
    async def test() -> None:
        runner.hold()
        async with started(runner) as engine:
            engine.submit(request())
            await held(runner)
            engine._beat -= 2 * module.STALL_SECONDS
            with pytest.raises(NotReady, match="no sign of life"):
                engine.check_ready()
            runner.may_run.set()

    run(test)


@pytest.mark.parametrize("error", [RuntimeError("a bug"), KeyboardInterrupt()], ids=["exception", "interrupt"])
def test_when_the_engines_thread_breaks_all_requests_hear_of_it_and_none_is_taken(runner, monkeypatch, error):
    async def test() -> None:
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

    run(test)


def test_draining_waits_for_what_runs_and_takes_nothing_new(runner):
    async def test() -> None:
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

    run(test)


def test_draining_cuts_off_what_does_not_end_in_time(runner):
    async def test() -> None:
        runner.hold()
        async with started(runner) as engine:
            mailboxes = [engine.submit(request(ENDLESS)) for _ in range(3)]
            await held(runner)
            assert await engine.drain(0.001) == 3
            for mailbox in mailboxes:
                with pytest.raises(NotReady, match="time limit"):
                    await read(mailbox)

    run(test)


def test_stopping_ends_the_thread_and_tells_those_who_still_wait(runner):
    async def test() -> None:
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

    run(test)


def test_of_200_clients_each_ends_exactly_once_whatever_happens(make_runner):
    async def client(engine: AsyncEngine, chance: random.Random, counts: Counter) -> None:
        for _ in range(chance.randrange(20)):
            await asyncio.sleep(0)
        try:
            mailbox = engine.submit(request(chance.randrange(1, 12), [chance.randrange(2) for _ in range(chance.randrange(1, 20))]))
        except QueueFull:
            counts["refused"] += 1
            return
        counts["submitted"] += 1
        patience = chance.choice([0, 1, 3, ENDLESS, ENDLESS])
        num_read = 0
        try:
            while num_read < patience:
                outputs = await mailbox.get()
                assert outputs
                num_read += len(outputs)
                if outputs[-1].finish_reason is not None:
                    counts["completed"] += 1
                    return
            counts["aborted"] += 1
        except ServiceError:
            counts["failed"] += 1
        finally:
            engine.abort(mailbox)

    async def test() -> None:
        chance = random.Random(0)
        runner = make_runner(num_slots=5)

        def disturb(_) -> None:
            runner.fail_next = chance.choice([None] * 8 + ["execute", "copy_prefix"])
            runner.nan_slots = {chance.randrange(40)}

        counts: Counter = Counter()
        async with started(runner, max_waiting=60, on_step=disturb) as engine:
            await asyncio.gather(*(client(engine, random.Random(i), counts) for i in range(200)))
            assert engine.num_unfinished == 0
            runner.fail_next, runner.nan_slots, engine.on_step = None, set(), None
            await read(engine.submit(request(2)))
            engine.check_ready()
        assert counts["submitted"] == counts["completed"] + counts["failed"] + counts["aborted"]
        assert counts["submitted"] + counts["refused"] == 200
        assert min(counts[end] for end in ("completed", "failed", "aborted")) > 0
        assert engine.engine.scheduler.slots.num_used == 0
        assert not engine.engine.has_work

    run(test)
