"""What the service sees of the engine: every accepted request ends once, and nothing is lost on the way."""

import asyncio
import contextlib
import itertools
import logging
import random
import threading
import time
from collections import Counter

import pytest

from app.engine import room, supervised_worker
from app.engine import worker as worker_module
from app.engine.client import ENDS, EngineClient, Limits
from app.engine.engine import Engine, StepResult
from app.engine.mailbox import Mailbox
from app.engine.scheduler import Scheduler
from app.engine.sequence import EngineRequest, FinishReason, PromptScores, ScoresOutput, TokensOutput
from app.engine.supervisor import MAX_FAILURES
from app.engine.worker import Command, Publish, Stop, ThreadWorker, Worker
from app.errors import GenerationFailed, NotReady, QueueFull, ServiceError
from model.batch import ForwardBatch, RunnerLost, SamplingParams, StepOutput
from tests.engine.event_loop import in_event_loop

ENDLESS = 10_000


@pytest.fixture
def runner(make_runner):
    return make_runner(num_slots=2, max_positions=ENDLESS + 100)


class Engines:
    """Starts engines in threads, and remembers them."""

    def __init__(self, runner) -> None:
        self.runner, self.engines = runner, []

    def __call__(self, publish: Publish) -> ThreadWorker:
        scheduler = Scheduler(self.runner.num_slots, 4, 16, self.runner.capabilities)
        self.engines.append(Engine(self.runner, scheduler))
        return ThreadWorker(self.engines[-1], publish)


def client_of(start_worker, runner, max_waiting: int = 100, **options) -> EngineClient:
    return EngineClient(start_worker, Limits(runner.max_positions, runner.vocab_size, runner.num_slots), max_waiting, **options)


def conserved(engine: EngineClient) -> None:
    """Every request that was accepted has ended in one way, or is inside."""
    assert engine.counts["accepted"] == sum(engine.counts[how] for how in ENDS) + engine.num_unfinished


@contextlib.asynccontextmanager
async def started(runner, max_waiting: int = 100, start_worker=None, **options):
    engine = client_of(start_worker or Engines(runner), runner, max_waiting, **options)
    await engine.start()
    try:
        yield engine
    finally:
        runner.may_run.set()
        await engine.stop()


def request(max_new_tokens: int = 3, prompt_ids=(1, 2, 3), seed: int = 0, **options) -> EngineRequest:
    return EngineRequest(tuple(prompt_ids), SamplingParams(seed=seed), max_new_tokens, **options)


async def read(mailbox: Mailbox, num_samples: int = 1) -> list[TokensOutput]:
    outputs: list[TokensOutput] = []
    while sum(output.finish_reason is not None for output in outputs) < num_samples:
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
        assert [[o.token_ids for o in outputs] for outputs in together] == [[o.token_ids for o in outputs] for outputs in alone]


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
async def test_a_request_that_the_runner_fails_by_is_the_only_one_to_fail(make_runner):
    runner = make_runner(num_slots=4)
    runner.bad_seeds = {7}
    async with started(runner) as engine:
        bad, *others = (engine.submit(request(prompt_ids=(i, 2), seed=seed)) for i, seed in enumerate((7, 8, 9)))
        with pytest.raises(GenerationFailed, match=r"the step failed: RuntimeError$"):
            await read(bad)
        assert [len(await read(other)) for other in others] == [3, 3]
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
    monkeypatch.setattr(worker_module, "IDLE_SECONDS", 0.001)
    beats = asyncio.Semaphore(0)
    async with started(runner, on_step=lambda _: beats.release()):
        for _ in range(3):
            await beats.acquire()
    assert runner.batches == []


# Groups and scores.


@in_event_loop
async def test_a_requests_samples_and_scores_come_into_one_mailbox(runner):
    async with started(runner) as engine:
        outputs, num_ended = [], 0
        mailbox = engine.submit(request(3, range(10), num_samples=4, scores=PromptScores()))
        while num_ended < 4:
            outputs += await mailbox.get()
            num_ended = sum(isinstance(output, TokensOutput) and output.finish_reason is not None for output in outputs)
        assert engine.num_unfinished == 0
    assert sum(len(output.scores) for output in outputs if isinstance(output, ScoresOutput)) == 9
    for i in range(4):
        samples = [
            token_id
            for output in outputs
            if isinstance(output, TokensOutput) and output.sample == i
            for token_id in output.token_ids
        ]
        async with started(runner) as engine:
            assert [
                token_id for output in await read(engine.submit(request(3, range(10), seed=i))) for token_id in output.token_ids
            ] == samples


@in_event_loop
async def test_a_request_that_is_only_scored_ends_too(runner):
    async with started(runner) as engine:
        mailbox, outputs = engine.submit(request(0, range(10), scores=PromptScores())), []
        while not outputs or not outputs[-1].is_last:
            outputs += await mailbox.get()
        assert engine.num_unfinished == 0


@in_event_loop
async def test_a_sample_whose_text_is_complete_is_ended_alone(runner):
    async with started(runner) as engine:
        mailbox = engine.submit(request(ENDLESS, num_samples=2))
        await mailbox.get()
        for _ in range(2):
            engine.end_sample(mailbox.request_ids[0], 0)
        while {output.sample for output in await mailbox.get()} != {1}:
            pass
        assert engine.num_unfinished == 1
        engine.end_sample(mailbox.request_ids[0], 1)
        assert engine.num_unfinished == 0


@in_event_loop
async def test_samples_count_as_much_as_requests_at_the_door(runner):
    runner.hold()
    async with started(runner, max_waiting=3) as engine:
        engine.submit(request(num_samples=5))
        with pytest.raises(QueueFull, match="3 samples wait already"):
            engine.submit(request())


@in_event_loop
async def test_requests_that_belong_together_are_taken_in_all_or_none(runner):
    runner.hold()
    async with started(runner, max_waiting=1) as engine:
        assert len(engine.submit(*(request() for _ in range(5))).request_ids) == 5
        with pytest.raises(QueueFull):
            engine.submit(*([request()] * 2))
        assert engine.num_unfinished == 5


@in_event_loop
async def test_a_worker_that_has_not_ended_is_not_replaced(runner):
    async with started(runner) as engine:
        with pytest.raises(AssertionError, match="not replaced"):
            await engine.start()


@in_event_loop
async def test_outputs_carry_the_time_at_which_they_were_computed_not_read(runner):
    async with started(runner) as engine:
        mailbox = engine.submit(request(3))
        await asyncio.to_thread(time.sleep, 0.1)  # a reader that is busy elsewhere
        outputs = await mailbox.get()
        stamps = [output.published_at for output in outputs]
        assert stamps == sorted(set(stamps))
        assert stamps[-1] < time.monotonic()
        assert len(stamps) == 3


# In a test's own thread.


class Inline:
    """A worker that runs when it is told to."""

    is_alive = True

    def __init__(self, runner, publish: Publish) -> None:
        self.worker = Worker(Engine(runner, Scheduler(runner.num_slots, 4, 16, runner.capabilities)), publish)
        self.worker.warm_up()

    def send(self, command: Command) -> None:
        self.worker.commands.put(command)

    def join(self, seconds: float) -> bool:
        return not self.worker.turn(0)


@in_event_loop
async def test_a_worker_may_run_in_the_event_loops_own_thread(runner):
    workers = []

    def start_worker(publish: Publish) -> Inline:
        workers.append(Inline(runner, publish))
        return workers[-1]

    async with started(runner, start_worker=start_worker) as engine:
        mailbox = engine.submit(request(2))
        for expected in (None, FinishReason.LENGTH):
            assert workers[0].worker.turn(0)
            (output,) = await mailbox.get()
            assert output.finish_reason is expected


# Being ready, and the end.


@in_event_loop
async def test_an_engine_takes_nothing_before_it_has_started(runner):
    engine = client_of(Engines(runner), runner)
    with pytest.raises(NotReady, match="has not started"):
        engine.submit(request())
    await engine.stop()


@in_event_loop
async def test_those_who_wait_for_an_engine_that_hangs_are_told_and_only_another_process_can_help(runner, caplog):
    runner.hold()
    async with started(runner, stall_seconds=0.5) as engine:
        mailboxes = [engine.submit(request()) for _ in range(4)]
        errors = []
        for mailbox in mailboxes:
            with pytest.raises(NotReady, match="no sign of life") as caught:
                await read(mailbox)
            errors.append(caught.value)
        assert len({id(error) for error in errors}) == 4, "each reader has an error of its own"
        with pytest.raises(NotReady, match="no sign of life"):
            engine.submit(request())
        assert engine.num_unfinished == 0
        assert engine.lost.is_set()
    assert any("thread gpt2-engine" in record.getMessage() and "may_run.wait" in record.getMessage() for record in caplog.records)


@in_event_loop
async def test_an_engine_that_hangs_does_not_keep_the_service_from_ending(runner, monkeypatch):
    monkeypatch.setattr(supervised_worker, "STOP_SECONDS", 0.05)
    runner.hold()
    engine = client_of(Engines(runner), runner)
    await engine.start()
    mailbox = engine.submit(request())
    await held(runner)
    await engine.stop()
    with pytest.raises(NotReady, match="shutting down"):
        await read(mailbox)
    runner.may_run.set()


async def ready(engine: EngineClient) -> None:
    while True:
        with contextlib.suppress(NotReady):
            engine.check_ready()
            return
        await asyncio.sleep(0.01)


def breaks(engine: Engine, error: BaseException, monkeypatch) -> None:
    def broken(now: float) -> None:
        raise error

    monkeypatch.setattr(engine.scheduler, "schedule", broken)


@pytest.mark.parametrize("is_asynchronous", [False, True], ids=["step by step", "overlapping"])
@pytest.mark.parametrize("error", [RuntimeError("a bug"), SystemExit(3), KeyboardInterrupt()], ids=["bug", "exit", "interrupt"])
@in_event_loop
async def test_an_engine_that_crashes_is_replaced_in_place(make_runner, monkeypatch, error, is_asynchronous):
    runner = make_runner(num_slots=2, max_positions=ENDLESS + 100, is_asynchronous=is_asynchronous)
    start_worker = Engines(runner)
    async with started(runner, start_worker=start_worker) as engine:
        expected = [output.token_ids for output in await read(engine.submit(request(4)))]
        going = engine.submit(request(ENDLESS, (7, 8)))
        await going.get()
        breaks(start_worker.engines[0], error, monkeypatch)
        with pytest.raises(NotReady, match="the engine has stopped"):
            await read(going)
        with pytest.raises(NotReady, match="the engine has stopped"):
            engine.submit(request())
        await ready(engine)
        assert [output.token_ids for output in await read(engine.submit(request(4)))] == expected
        assert engine.num_unfinished == 0
        assert engine.counts["failed"] == engine.num_crashes == 1
        conserved(engine)
        assert not engine.lost.is_set()
    assert len(start_worker.engines) == 2


@in_event_loop
async def test_what_a_library_says_of_its_error_is_neither_told_nor_logged_but_where_it_broke_is(make_runner, monkeypatch, caplog):
    runner, error = make_runner(num_slots=1, max_positions=ENDLESS + 100), ValueError("canary-sings in 'canary-sings'")
    start_worker = Engines(runner)
    async with started(runner, start_worker=start_worker) as engine:

        def broken(batch: ForwardBatch) -> StepOutput:
            raise error

        with monkeypatch.context() as patched:
            patched.setattr(runner, "compute", broken)
            with pytest.raises(GenerationFailed, match=r"the step failed: ValueError$"):
                await read(engine.submit(request()))
        breaks(start_worker.engines[0], error, monkeypatch)
        with pytest.raises(NotReady, match=r"the engine has stopped: ValueError$"):
            await read(engine.submit(request()))
        with pytest.raises(NotReady, match=r"the engine has stopped: ValueError$"):
            engine.check_ready()
        await ready(engine)
    assert "canary-sings" not in caplog.text
    assert ["in broken\n" in record.getMessage() for record in caplog.records] == [True, True, False]


@in_event_loop
async def test_a_thread_that_ends_without_a_word_is_replaced_too(runner, monkeypatch):
    start_worker = Engines(runner)
    async with started(runner, start_worker=start_worker) as engine:
        mailbox = engine.submit(request(ENDLESS))
        await mailbox.get()
        engine._worker.send(Stop())
        with pytest.raises(NotReady, match="its thread has ended"):
            await read(mailbox)
        await ready(engine)
        assert len(await read(engine.submit(request(4)))) == 4
    assert len(start_worker.engines) == 2


@in_event_loop
async def test_an_engine_that_crashes_again_and_again_is_lost(runner, monkeypatch):
    start_worker = Engines(runner)
    async with started(runner, start_worker=start_worker) as engine:
        while not engine.lost.is_set():
            breaks(start_worker.engines[-1], RuntimeError("a bug"), monkeypatch)
            with pytest.raises(NotReady, match="the engine has stopped"):
                await read(engine.submit(request()))
            if not engine.lost.is_set():
                await ready(engine)
        with pytest.raises(NotReady, match="the engine has stopped"):
            engine.check_ready()
    assert len(start_worker.engines) == MAX_FAILURES + 1


@in_event_loop
async def test_an_engine_for_which_no_thread_is_left_to_replace_it_is_lost(runner, monkeypatch, caplog):
    start_worker = Engines(runner)
    async with started(runner, start_worker=start_worker) as engine:

        def refused(*_):
            raise RuntimeError("can't start new thread")

        monkeypatch.setattr(supervised_worker.SupervisedWorker, "_start_one", refused)
        breaks(start_worker.engines[0], RuntimeError("a bug"), monkeypatch)
        with pytest.raises(NotReady, match="the engine has stopped"):
            await read(engine.submit(request()))
        await asyncio.wait_for(engine.lost.wait(), 60)
    assert "no other engine could be started" in caplog.text


@in_event_loop
async def test_a_runner_that_cannot_be_warmed_up_again_is_lost(runner, monkeypatch):
    start_worker = Engines(runner)
    async with started(runner, start_worker=start_worker) as engine:
        monkeypatch.setattr(runner, "warm_up", lambda: 1 / 0)
        breaks(start_worker.engines[0], RuntimeError("a bug"), monkeypatch)
        await engine.lost.wait()
    assert len(start_worker.engines) == MAX_FAILURES + 1


@in_event_loop
async def test_a_runner_that_fails_whoever_comes_is_not_kept_as_if_it_were_ready(make_runner, monkeypatch):
    runner = make_runner(num_slots=8)
    start_worker = Engines(runner)
    async with started(runner, start_worker=start_worker) as engine:
        runner.bad_slots = set(range(8))
        mailboxes = [engine.submit(request(prompt_ids=(i, 2))) for i in range(16)]
        for mailbox in mailboxes:
            with pytest.raises(ServiceError):
                await read(mailbox)
        runner.bad_slots = set()
        await ready(engine)
        assert len(await read(engine.submit(request(4)))) == 4
    assert len(start_worker.engines) > 1


@in_event_loop
async def test_an_engine_that_crashes_while_the_service_ends_is_not_replaced(runner, monkeypatch):
    start_worker = Engines(runner)
    runner.hold()
    engine = client_of(start_worker, runner)
    await engine.start()
    engine.submit(request())
    await held(runner)
    breaks(start_worker.engines[0], RuntimeError("a bug"), monkeypatch)
    stopped = asyncio.create_task(engine.stop())
    await asyncio.sleep(0)
    runner.may_run.set()
    await stopped
    assert len(start_worker.engines) == 1


@pytest.mark.parametrize("error", [RuntimeError("a bug"), KeyboardInterrupt()], ids=["exception", "interrupt"])
@in_event_loop
async def test_when_the_engines_thread_breaks_all_requests_hear_of_it_and_none_is_taken(runner, monkeypatch, error):
    runner.hold()
    start_worker = Engines(runner)
    async with started(runner, start_worker=start_worker) as engine:
        mailboxes = [engine.submit(request(ENDLESS)) for _ in range(4)]
        await held(runner)

        def broken(now: float) -> None:
            raise error

        monkeypatch.setattr(start_worker.engines[0].scheduler, "schedule", broken)
        runner.may_run.set()
        for mailbox in mailboxes:
            with pytest.raises(NotReady, match="the engine has stopped"):
                await read(mailbox)
        with pytest.raises(NotReady, match="the engine has stopped"):
            engine.submit(request())
        assert engine.num_unfinished == 0


@pytest.mark.parametrize("is_asynchronous", [False, True], ids=["step by step", "overlapping"])
@in_event_loop
async def test_a_lost_runner_is_told_to_all_and_known_to_be_lost(make_runner, monkeypatch, is_asynchronous):
    runner = make_runner(num_slots=2, max_positions=ENDLESS + 100, is_asynchronous=is_asynchronous)
    runner.hold()
    async with started(runner) as engine:
        mailboxes = [engine.submit(request(ENDLESS)) for _ in range(4)]
        await held(runner)

        def lose(batch: ForwardBatch) -> StepOutput:
            raise RunnerLost("the device is gone")

        monkeypatch.setattr(runner, "compute", lose)
        assert not engine.lost.is_set()
        runner.may_run.set()
        for mailbox in mailboxes:
            with pytest.raises(NotReady, match="the engine has stopped: RunnerLost"):
                await read(mailbox)
        with pytest.raises(NotReady, match="the engine has stopped"):
            engine.check_ready()
        await engine.lost.wait()
        assert engine.num_unfinished == 0


@in_event_loop
async def test_the_log_says_when_memory_is_short_and_when_it_suffices_again(runner, monkeypatch, caplog):
    monkeypatch.setattr(room, "GROW_SECONDS", 0.2)
    monkeypatch.setattr(worker_module, "IDLE_SECONDS", 0.01)
    caplog.set_level(logging.INFO, logger="gpt2.engine")
    are_both_there = asyncio.Event()

    def look(_: StepResult) -> None:
        if len(caplog.records) == 2:
            are_both_there.set()

    async with started(runner, on_step=look) as engine:
        runner.fail_next = "memory"
        mailboxes = [engine.submit(request(2, (i, 2, 3))) for i in range(2)]
        assert [len(await read(mailbox)) for mailbox in mailboxes] == [2, 2]
        await are_both_there.wait()
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
    assert "found no memory" in caplog.records[0].message
    assert "suffices again" in caplog.records[1].message


@in_event_loop
async def test_what_comes_while_a_step_is_under_way_takes_part_in_the_next(make_runner):
    runner = make_runner(num_slots=2, max_positions=ENDLESS + 100, is_asynchronous=True)
    runner.hold()
    async with started(runner) as engine:
        engine.submit(request(ENDLESS))
        await held(runner)
        second = engine.submit(request(1, (7, 8)))
        runner.may_run.set()
        await read(second)
        assert [chunk.token_ids for chunk in runner.batches[1].chunks][1:] == [(7, 8)]


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
        assert not any(thread.name == "gpt2-engine" for thread in threading.enumerate())
        for mailbox in mailboxes:
            with pytest.raises(NotReady, match="shutting down"):
                await read(mailbox)
        with pytest.raises(NotReady):
            engine.submit(request())


async def client(engine: EngineClient, chance: random.Random, counts: Counter) -> None:
    """Submit until accepted, then read to the end or leave early."""
    num_samples = chance.choice([1, 1, 3])
    prompt_ids = [chance.randrange(2) for _ in range(chance.randrange(1, 20))]
    asked = request(chance.randrange(1, 12), prompt_ids, num_samples=num_samples)
    mailbox = None
    while mailbox is None:
        mailbox = try_submit(engine, asked, counts)
        await asyncio.sleep(0 if mailbox else 0.001)
    num_wanted, num_read, num_ended = chance.choice([0, 1, 3, ENDLESS, ENDLESS]), 0, 0
    try:
        while num_read < num_wanted:
            outputs = await mailbox.get()
            assert outputs
            num_read += len(outputs)
            num_ended += sum(output.finish_reason is not None for output in outputs)
            if num_ended == num_samples:
                counts["completed"] += 1
                return
        counts["aborted"] += 1
    except GenerationFailed:
        counts["failed"] += 1
    finally:
        engine.abort(mailbox)


def try_submit(engine: EngineClient, asked: EngineRequest, counts: Counter) -> Mailbox | None:
    try:
        mailbox = engine.submit(asked)
    except QueueFull:
        counts["refused"] += 1
        return None
    counts["submitted"] += 1
    return mailbox


@pytest.mark.parametrize("kind", [{}, {"is_asynchronous": True, "num_steps": 8}], ids=["step by step", "overlapping"])
@in_event_loop
async def test_of_200_clients_each_ends_exactly_once_whatever_happens(make_runner, monkeypatch, kind):
    runner = make_runner(num_slots=5, **kind)
    execute, steps = runner.execute, itertools.count(1)

    def disturbed(batch: ForwardBatch) -> StepOutput:
        step = next(steps)
        runner.fail_next = {0: "execute", 5: "copy_prefix", 8: "memory"}.get(step % 11)
        runner.nan_slots = {step % 5} if step % 3 == 0 else set()
        runner.bad_slots = {step % 5} if step % 7 == 0 else set()
        return execute(batch)

    monkeypatch.setattr(runner, "execute", disturbed)
    counts: Counter = Counter()
    start_worker = Engines(runner)
    async with started(runner, max_waiting=60, start_worker=start_worker) as engine:
        await asyncio.gather(*(client(engine, random.Random(i), counts) for i in range(200)))
        assert engine.num_unfinished == 0
        monkeypatch.setattr(runner, "execute", execute)
        runner.fail_next, runner.nan_slots, runner.bad_slots = None, set(), set()
        await read(engine.submit(request(2)))
    assert engine.counts["accepted"] == 201 == sum(engine.counts[how] for how in ENDS)
    assert engine.num_queued_tokens == engine.wait_seconds == 0
    assert counts["submitted"] == 200 == counts["completed"] + counts["failed"] + counts["aborted"]
    assert min(counts[how] for how in ("completed", "failed", "aborted", "refused")) > 0
    assert start_worker.engines[0].scheduler.slots.num_used == 0
    assert not start_worker.engines[0].has_work
    conserved(engine)


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
