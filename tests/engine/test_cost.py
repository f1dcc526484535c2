"""Who owes what of the steps: nothing is lost, nothing is billed twice, and nobody owes for a step in which it did not run."""

from collections import defaultdict

import pytest
from hypothesis.stateful import invariant, run_state_machine_as_test

from app.engine.engine import Engine
from app.engine.meter import Meter
from app.engine.scheduler import Scheduler
from app.engine.sequence import EngineRequest, PromptScores, Sequence
from app.engine.step import Step
from app.engine.work import NO_WORK, Share, Work
from model.batch import SamplingParams
from tests.engine.test_scheduler import Engines, RecordingScheduler, so_many

TICK = 0.25  # of the clock, each time that it is asked: a power of two, so that sums are exact


class Ledger:
    """The same accounts, kept row by row and token by token, as nobody would in a fast engine."""

    def __init__(self) -> None:
        self.shares: dict[Sequence, Share] = defaultdict(Share)
        self.work: dict[Sequence, Work] = defaultdict(Work)
        self.closed: dict[Sequence, Work] = {}
        self.seconds = self.late = 0.0  # those of who had ended when the step had

    def charge(self, step: Step, seconds: float) -> None:
        batch = step.plan.batch
        parts = [len(c.token_ids) + (batch.num_steps - 1) * c.goes_on for c in batch.chunks]
        draws = any(c.draws or c.scores for c in batch.chunks)
        for (owner, *_), part in zip(step.plan.groups, parts, strict=True):
            share = part / sum(parts)
            self.shares[owner] = self.shares[owner].plus(Share(batch.num_steps, batch.num_steps * draws, seconds).times(share))
            self.late += seconds * share * owner.has_ended
        self.seconds += seconds if parts else 0.0

    def run(self, owner: Sequence, chunk, out) -> None:
        num_scored, num_drawn = (len(chunk.scores.token_ids) if chunk.scores else 0), len(out.tokens[0]) if out.tokens else 0
        decoded = range(chunk.end, chunk.end + max(num_drawn - 1, 0))
        positions = [*range(chunk.start, chunk.end), *decoded]
        read = chunk.end + sum(p + 1 for p in decoded)
        work = Work(len(positions), sum(p + 1 for p in positions), read, num_scored + num_drawn)
        self.work[owner] = self.work[owner].plus(work)


class LedgerMeter(Meter):
    def __init__(self, ledger: Ledger) -> None:
        super().__init__()
        self.ledger = ledger

    def charge(self, step: Step, seconds: float) -> None:
        super().charge(step, seconds)
        self.ledger.charge(step, seconds)

    def close(self, sequence: Sequence) -> None:
        super().close(sequence)
        self.ledger.closed[sequence] = self.work_of(sequence)


class LedgerEngine(Engine):
    def __init__(self, runner, scheduler, clock, ledger: Ledger) -> None:
        super().__init__(runner, scheduler, clock)
        self.ledger = ledger
        self._meter = LedgerMeter(ledger)

    def _take_chunk(self, group, chunk, out, now):
        if not group[0].has_ended:
            self.ledger.run(group[0], chunk, out)
        return super()._take_chunk(group, chunk, out, now)


def same(told: Work, expected: Work, share: Share) -> bool:
    """All counts to the last one, shares to rounding. What a chunk that is run again reads, it reads twice."""
    counts = told.num_tokens, told.num_attended, told.num_heads
    return (
        counts == (expected.num_tokens, expected.num_attended, expected.num_heads)
        and told.num_read >= expected.num_read
        and told.share == pytest.approx(share, abs=1e-9)
    )


class Billed(Engines):
    """The scheduler's own machine, whatever may happen to requests in it, with accounts kept twice."""

    def begin(self) -> None:
        self.scheduler = RecordingScheduler(*self.sizes, self.runner.capabilities)
        self.scheduler.slots.min_shared = 2 if self.cut_freely else self.scheduler.chunk_size
        self.scheduler.rows_a_step = self.rows_a_step
        self.ledger = Ledger()
        self.told_seconds, self.told = 0.0, NO_WORK
        self.engine = LedgerEngine(self.runner, self.scheduler, self.tick, self.ledger)

    def tick(self) -> float:
        self.now += TICK
        return self.now

    def take(self, result) -> None:
        super().take(result)
        self.told_seconds += result.stats.compute_seconds
        self.told = self.told.plus(result.stats.work)

    @invariant()
    def who_runs_owes_what_it_has_taken(self) -> None:
        for sequence in self.scheduler.running:
            told = self.engine._meter.work_of(sequence)
            assert same(told, self.ledger.work[sequence], self.ledger.shares[sequence])

    @invariant()
    def who_waits_owes_nothing(self) -> None:
        assert all(self.engine._meter.work_of(sequence) == NO_WORK for sequence in self.scheduler.waiting)

    def teardown(self) -> None:
        super().teardown()
        if not hasattr(self, "engine"):
            return
        ledger, owed = self.ledger, NO_WORK
        for work in ledger.closed.values():
            owed = owed.plus(work)
        assert self.told_seconds == pytest.approx(ledger.seconds), "the steps' seconds are all told"
        assert owed.share.compute_seconds + ledger.late == pytest.approx(ledger.seconds, abs=1e-9), "and all owed"
        assert self.told[:5] == owed[:5], "and so is the work"


@pytest.mark.parametrize("overlapping", [False, True], ids=["step_by_step", "overlapping"])
@pytest.mark.parametrize("freely", [False, True], ids=["cut_at_multiples", "cut_freely"])
def test_all_that_steps_take_is_owed_once_whatever_happens(make_runner, freely, overlapping):
    class Machine(Billed):
        cut_freely, is_asynchronous = freely, overlapping

    Machine.make_runner = staticmethod(make_runner)
    run_state_machine_as_test(Machine, settings=so_many(100))


# By example: steps of one second each.


class Clock:
    """Moves by a second whenever a runner of its own computes."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def make_engine(make_runner):
    def make(num_slots: int = 4, max_batch_tokens: int = 64, **kind) -> Engine:
        clock = Clock()
        runner = make_runner(num_slots, exact_at_any_cut=True, **kind)
        compute = runner.compute

        def a_second(batch):
            clock.now += 1
            return compute(batch)

        runner.compute = a_second
        return Engine(runner, Scheduler(num_slots, 4, max_batch_tokens, runner.capabilities), clock)

    return make


def submit(engine: Engine, request_id: int, num_prompt: int, max_new_tokens: int, **options) -> None:
    prompt_ids = tuple((7 * request_id + i) % 50 for i in range(num_prompt))
    engine.submit(request_id, EngineRequest(prompt_ids, SamplingParams(), max_new_tokens, tells_work=True, **options))


def finished(engine: Engine) -> dict[tuple[int, int], Work]:
    """What the last outputs of all samples tell, once nobody is left."""
    told = {}
    while engine.has_work:
        for output in engine.step().outputs:
            told[output.request_id, getattr(output, "sample", 0)] = output.work
    return told


def test_one_alone_owes_all_of_its_steps(make_engine):
    engine = make_engine()
    submit(engine, 0, num_prompt=3, max_new_tokens=4)
    told = finished(engine)[0, 0]
    # The prompt's three rows, then three tokens more; the fourth is drawn and goes nowhere.
    assert told == Work(6, 1 + 2 + 3 + 4 + 5 + 6, 3 + 4 + 5 + 6, num_heads=4, share=Share(4, 4, 4.0))


def test_those_who_decode_together_halve_what_a_step_takes(make_engine):
    engine = make_engine()
    submit(engine, 0, 1, 3)
    submit(engine, 1, 1, 3)
    assert [work.share for work in finished(engine).values()] == [Share(1.5, 1.5, 1.5)] * 2


def test_a_prompt_owes_by_its_tokens_beside_one_that_decodes(make_engine):
    engine = make_engine()
    submit(engine, 0, 1, 2)
    engine.step()
    submit(engine, 1, 3, 1)
    assert {i: work.share.compute_seconds for (i, _), work in finished(engine).items()} == {0: 1.25, 1: 0.75}


def test_who_sits_steps_out_while_memory_is_short_owes_nothing_for_them(make_engine):
    engine = make_engine()
    for i in range(4):
        submit(engine, i, 1, 3)
    engine.step()
    engine.runner.max_tokens = 2
    engine.step()  # finds no memory, and is owed by all four
    told = finished(engine)
    # A quarter of the first and of that one, then halves of two of the four in which they took turns.
    assert [work.share.compute_seconds for work in told.values()] == [0.25 + 0.25 + 2 * 0.5] * 4


def test_what_is_reused_costs_nothing_but_the_look_at_it(make_engine):
    engine = make_engine()
    submit(engine, 0, 20, 1)
    finished(engine)
    submit(engine, 0, 20, 1)
    assert finished(engine)[0, 0] == Work(1, 20, 20, 1, share=Share(1, 1, 1.0))


def test_samples_of_one_prompt_owe_it_once_and_what_they_copy(make_engine):
    engine = make_engine()
    submit(engine, 0, 20, 2, num_samples=2)
    told = finished(engine)
    assert [told[0, i].num_tokens for i in range(2)] == [20 + 1, 1]
    assert [told[0, i].num_heads for i in range(2)] == [2, 1], "the first row that was drawn from is the leader's"
    assert [told[0, i].num_copied for i in range(2)] == [0, 20]


def test_scored_tokens_owe_a_row_of_the_head_each(make_engine):
    engine = make_engine()
    submit(engine, 0, 10, 0, scores=PromptScores(first=4))
    assert finished(engine)[0, 0].num_heads == 6
    submit(engine, 1, 10, 2, scores=PromptScores(first=4))
    assert finished(engine)[1, 0].num_heads == 6 + 2


def test_a_call_of_several_steps_is_shared_by_the_steps_of_each(make_engine):
    engine = make_engine(num_steps=8)
    submit(engine, 0, 1, 9)
    engine.step()
    told = finished(engine)[0, 0]
    assert told == Work(9, sum(range(1, 10)), sum(range(1, 10)), 9, share=Share(9, 9, 2.0))


def test_intervals_of_steps_that_overlap_the_host_do_not_overlap_each_other(make_engine):
    engine = make_engine(is_asynchronous=True)
    for i in range(4):
        submit(engine, i, 3, 6)
    told = finished(engine)
    assert sum(work.share.compute_seconds for work in told.values()) == pytest.approx(engine._clock())


def test_who_was_aborted_is_counted_like_everybody(make_engine):
    engine = make_engine()
    submit(engine, 0, 3, 9)
    engine.step()
    engine.step()
    engine.abort(0)
    assert engine.step().stats.work == Work(4, 10, 3 + 4, 2, share=Share(2, 2, 2.0))


def test_nothing_is_told_to_who_does_not_ask(make_engine):
    engine = make_engine()
    engine.submit(0, EngineRequest((1, 2), SamplingParams(), 2))
    assert finished(engine) == {(0, 0): NO_WORK}
