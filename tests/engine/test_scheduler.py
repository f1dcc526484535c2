"""Continuous batching as a state machine: whatever is submitted, aborted or fails, these rules hold after every step."""

import itertools
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule, run_state_machine_as_test

from app.engine.engine import MAX_FAILED_IN_A_ROW, Engine, NothingSucceeds, StepResult
from app.engine.scheduler import Plan, Scheduler
from app.engine.sequence import EngineRequest, FailureOutput, PromptScores, ScoresOutput, Sequence, TokensOutput
from model.batch import Capabilities, Chunk, ForwardBatch, SamplingParams

BLOCK = st.sampled_from([(0, 0, 0), (0, 1, 2), (1, 1, 1), (2,), (0, 0)])  # so that prompts often begin alike
Sample = tuple[int, int]  # a request's id and which of its samples
PROMPTS = st.lists(BLOCK, min_size=1, max_size=6).map(lambda blocks: tuple(itertools.chain(*blocks)))


class RecordingScheduler(Scheduler):
    plan = Plan(ForwardBatch(()), (), ())
    limit: int | None = None  # under which it was planned

    def schedule(self, now: float) -> Plan:
        self.plan = super().schedule(now)
        self.limit = self.room.limit
        return self.plan


def cut(token_ids: list[int], num_prompt: int, chunk_size: int, length: int) -> tuple[tuple[int, tuple[int, ...]], ...]:
    """The chunks (start, token ids) in which a sequence's first `length` positions are run when it has the engine to itself."""
    borders = [*range(0, num_prompt, chunk_size), *range(num_prompt, len(token_ids) + 1)]
    return tuple((a, tuple(token_ids[a:b])) for a, b in itertools.pairwise(borders) if b <= length)


class Engines(RuleBasedStateMachine):
    """Drives a scheduler through its engine, over a runner that remembers how every position was computed."""

    make_runner: Callable
    cut_freely: bool
    is_asynchronous: bool

    @initialize(
        num_slots=st.integers(1, 4),
        chunk_size=st.integers(1, 4),
        max_batch_tokens=st.integers(1, 24),
        max_draws=st.integers(1, 4),
        num_steps=st.sampled_from([1, 2, 3, 8]),
        rows_a_step=st.sampled_from([1, 2, 8]),
    )
    def start(
        self, num_slots: int, chunk_size: int, max_batch_tokens: int, max_draws: int, num_steps: int, rows_a_step: int
    ) -> None:
        kind = {"exact_at_any_cut": self.cut_freely, "is_asynchronous": self.is_asynchronous}
        self.runner = self.make_runner(num_slots, vocab_size=3, max_draws=max_draws, num_steps=num_steps, **kind)
        self.sizes, self.rows_a_step, self.now = (num_slots, chunk_size, max_batch_tokens), rows_a_step, 0.0
        self.begin()
        self.requests: dict[int, EngineRequest] = {}
        self.tokens: dict[Sample, list[int]] = {}
        self.scores: dict[int, list[float]] = {}
        self.ends: dict[Sample, list[str]] = {}

    def begin(self) -> None:
        """With an engine that has nothing in its slots."""
        self.scheduler = RecordingScheduler(*self.sizes, self.runner.capabilities)
        self.scheduler.slots.min_shared = 2 if self.cut_freely else self.scheduler.chunk_size  # prompts are short here
        self.scheduler.rows_a_step = self.rows_a_step  # and few
        self.engine = Engine(self.runner, self.scheduler, clock=lambda: self.now)

    @rule(
        prompts=st.lists(PROMPTS, min_size=1, max_size=4),
        max_new=st.integers(0, 5),
        min_new=st.integers(0, 2),
        eos=st.sampled_from([frozenset(), frozenset({0})]),
        penalty=st.sampled_from([1.0, 1.5]),
        num_samples=st.integers(1, 3),
        first_scored=st.sampled_from([None, 1, 3]),
    )
    def submit(self, prompts, max_new, min_new, eos, penalty, num_samples, first_scored) -> None:
        for prompt in prompts:
            sampling = SamplingParams(repetition_penalty=penalty, seed=len(self.requests) % 2)
            scores = PromptScores(first_scored or 1) if first_scored or not max_new else None
            request = EngineRequest(prompt, sampling, max_new, min_new, num_samples if max_new else 1, eos, scores=scores)
            request_id = len(self.requests)
            self.requests[request_id], self.scores[request_id] = request, []
            for i in range(request.num_samples):
                self.tokens[request_id, i], self.ends[request_id, i] = [], []
            self.engine.submit(request_id, request)

    @precondition(lambda self: self.requests)
    @rule(data=st.data(), whole=st.booleans())
    def abort(self, data, whole) -> None:
        request_id, sample = data.draw(st.sampled_from([*self.ends]))
        for i in range(self.requests[request_id].num_samples) if whole else [sample]:
            if not self.ends[request_id, i]:
                self.ends[request_id, i].append("aborted")
        self.engine.abort(request_id, None if whole else sample)

    @rule(seconds=st.sampled_from([1.0, 5.0, 60.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def the_step_in_flight_is_waited_for(self) -> None:
        self.engine.wait()

    def step(self) -> tuple[StepResult, Plan]:
        """The next result and the plan that it came of."""
        plan = self.scheduler.plan
        result = self.engine.step()
        self.check_plan(self.scheduler.plan)
        return result, plan if self.is_asynchronous else self.scheduler.plan

    @rule(num_steps=st.integers(1, 4))
    def steps(self, num_steps: int) -> None:
        for _ in range(num_steps):
            result, plan = self.step()
            assert not any(isinstance(output, FailureOutput) for output in result.outputs)
            assert plan.groups or self.scheduler.plan.groups or not self.engine.has_work, "a step with work does something"
            self.take(result)

    @rule(name=st.sampled_from(["execute", "copy_prefix", "launch", "memory"]), num_spared=st.integers(0, 2))
    def step_that_fails_once(self, name: str, num_spared: int) -> None:
        """It is run again, in parts or smaller, and nobody fails."""
        self.runner.fail_next, self.runner.num_spared = name, num_spared
        for _ in range(2 if self.is_asynchronous else 1):  # what fails in a launch is told with the next step
            result, _ = self.step()
            assert not any(isinstance(output, FailureOutput) for output in result.outputs)
            self.take(result)
            self.runner.fail_next = None

    @rule(slots=st.sets(st.integers(0, 3), max_size=2), seeds=st.sampled_from([set(), {0}, {3}]))
    def step_with_bad_rows(self, slots: set[int], seeds: set[int]) -> None:
        """The samples that it fails by end, with the others of their requests, and no others."""
        if self.is_asynchronous:
            self.engine.wait()  # it was launched before anything was bad
        before = self.engine._num_failed_in_a_row
        self.runner.bad_slots, self.runner.bad_seeds = slots, seeds
        try:
            result, plan = self.step()
            if self.is_asynchronous:
                self.take(result)
                result, plan = self.step()
        except NothingSucceeds:
            assert before + len(self.ends) >= MAX_FAILED_IN_A_ROW
            self.crash()
            return
        finally:
            self.runner.bad_slots, self.runner.bad_seeds = set(), set()
        bad = set()
        for group, chunk in zip(plan.groups, plan.batch.chunks, strict=True):
            drawing = [s for s in group if chunk.draws and s.sampling.seed in seeds]
            bad |= {s.request_id for s in (group[:1] if chunk.slot in slots or len(drawing) == len(chunk.draws) > 0 else drawing)}
        expected = {i for i in bad if any(not ends for key, ends in self.ends.items() if key[0] == i)}
        assert {output.request_id for output in result.outputs if isinstance(output, FailureOutput)} <= expected
        self.take(result)
        if self.is_asynchronous:
            self.steps(1)  # a prefix that could not be copied for the next step is copied now

    @rule()
    def crash(self) -> None:
        """The engine is replaced upon the same runner; all that was inside has failed."""
        for ends in self.ends.values():
            if not ends:
                ends.append("failed")
        self.runner.warm_up()
        self.begin()

    @rule(slot=st.integers(0, 3))
    def step_that_computes_a_nan(self, slot: int) -> None:
        self.runner.nan_slots = {slot}
        result, plan = self.step()
        if slot in self.runner.nan_slots:
            self.runner.nan_slots = set()
            assert not any(isinstance(output, FailureOutput) for output in result.outputs)
        else:
            hit = [group[0] for group, chunk in zip(plan.groups, plan.batch.chunks, strict=True) if chunk.slot == slot]
            failed = [output.request_id for output in result.outputs if isinstance(output, FailureOutput)]
            assert failed == [s.request_id for s in hit if not self.ends[s.request_id, s.sample]]
        self.take(result)

    def take(self, result: StepResult) -> None:
        for output in result.outputs:
            if isinstance(output, FailureOutput):
                open_samples = [key for key, ends in self.ends.items() if key[0] == output.request_id and not ends]
                assert open_samples, "a failure after the end"
                for key in open_samples:
                    self.ends[key].append("failed")
                continue
            key = (output.request_id, output.sample if isinstance(output, TokensOutput) else 0)
            assert not self.ends[key], "an output after the end"
            if isinstance(output, TokensOutput):
                self.tokens[key] += output.token_ids
                if output.finish_reason is not None:
                    self.ends[key].append(output.finish_reason)
            else:
                assert not any(self.tokens[k] for k in self.tokens if k[0] == output.request_id), "a score after a token"
                self.scores[output.request_id] += [score.logprob for score in output.scores]
                if output.is_last:
                    self.ends[key].append("scored")

    def check_plan(self, plan: Plan) -> None:
        size, multiple, budget = self.scheduler.chunk_size, self.scheduler.multiple, self.scheduler.max_batch_tokens
        owners = [group[0] for group in plan.groups]
        prefills = [(s, c) for s, c in zip(owners, plan.batch.chunks, strict=True) if c.start < s.num_prompt]
        num_decoding = len(owners) - len(prefills)
        if self.scheduler.limit is None:
            assert plan.batch.num_tokens <= max(budget, num_decoding + size)
        else:
            assert plan.batch.num_tokens <= self.scheduler.limit or not self.scheduler.can_be_smaller(plan.batch)
        self.check_num_steps(plan, prefills)
        for sequence, chunk in prefills[:-1] if self.cut_freely else prefills:
            assert chunk.start % multiple == 0
            wanted = sequence.num_prompt if self.cut_freely else min(chunk.start + size, sequence.num_prompt)
            assert chunk.end == wanted, "a chunk is cut for another reason than its position or the step's budget"
        for group, chunk in zip(plan.groups, plan.batch.chunks, strict=True):
            assert len(chunk.draws) in (0, len(group))
            assert {s.request.prompt_ids for s in group} == {group[0].request.prompt_ids}
        for sequence, chunk in prefills:
            if chunk.start == sequence.num_reused and not sequence.num_generated:
                assert sequence.num_reused % multiple == 0
                assert sequence.num_reused < sequence.num_prompt, "the stretch with the last prompt token has to run"

    def check_num_steps(self, plan: Plan, prefills: list[tuple[Sequence, Chunk]]) -> None:
        most, num_rows = self.runner.capabilities.num_steps, len(plan.groups)
        wanted = max((chunk.draws[0].max_new for chunk in plan.batch.chunks if chunk.goes_on), default=1)
        few = min(most, wanted, max(num_rows // self.scheduler.rows_a_step, 1))
        if self.scheduler.limit is not None or any(chunk.end < sequence.num_prompt for sequence, chunk in prefills):
            allowed = {1}
        else:
            allowed = {1, few} if prefills else {1, few, min(most, wanted)}
        assert plan.batch.num_steps in allowed

    @invariant()
    def each_slot_has_one_owner_and_none_is_lost(self) -> None:
        slots = [s.slot for s in self.scheduler.running]
        assert len({*slots}) == len(slots)
        assert None not in slots
        assert self.scheduler.slots.num_used == len(slots)
        assert self.scheduler.slots.num_free == self.scheduler.slots.num_slots - len(slots)

    @invariant()
    def who_has_not_ended_runs_or_waits_in_order_of_arrival(self) -> None:
        running, waiting = ([(s.request_id, s.sample) for s in group] for group in (self.scheduler.running, self.scheduler.waiting))
        assert sorted(running + waiting) == [key for key, ends in self.ends.items() if not ends]
        assert waiting == sorted(waiting)

    @invariant()
    def who_follows_waits_for_one_that_computes_its_prompt(self) -> None:
        for sequence in self.scheduler.waiting:
            if sequence.leader is not None:
                assert sequence.leader in self.scheduler.running
                assert sequence.leader.is_prefilling
                assert sequence in sequence.leader.followers

    @invariant()
    def every_cached_position_was_computed_as_if_its_sequence_were_alone(self) -> None:
        for s in self.scheduler.running:
            expected = cut(s.token_ids, s.num_prompt, self.scheduler.multiple, s.num_cached)
            assert self.runner.history(s.slot, s.num_cached) == expected

    @invariant()
    def a_slot_offers_only_what_it_holds(self) -> None:
        for slot in range(self.scheduler.slots.num_slots):
            prefix = self.scheduler.slots.contents(slot)
            expected = cut(list(prefix), len(prefix), self.scheduler.multiple, len(prefix))
            assert self.runner.history(slot, len(prefix)) == expected

    def teardown(self) -> None:
        if not hasattr(self, "engine"):
            return
        for _ in range(10_000):
            if not self.engine.has_work:
                break
            self.steps(1)
            self.now += 1.0
        assert not self.runner.under_way
        assert all(len(ends) == 1 for ends in self.ends.values()), "every sample ends exactly once"
        assert self.scheduler.slots.num_used == 0
        for (request_id, sample), ends in self.ends.items():
            if ends[0] not in ("aborted", "failed"):
                tokens, scores = self.alone(self.requests[request_id], sample)
                assert self.tokens[request_id, sample] == tokens
                assert sample or self.scores[request_id] == scores

    def alone(self, request: EngineRequest, sample: int) -> tuple[list[int], list[float]]:
        runner = self.make_runner(1, vocab_size=3, exact_at_any_cut=self.cut_freely)
        engine = Engine(runner, Scheduler(1, self.scheduler.chunk_size, 1, runner.capabilities), clock=lambda: 0.0)
        seed = (request.sampling.seed + sample) % 2**64
        engine.submit(0, replace(request, num_samples=1, sampling=replace(request.sampling, seed=seed)))
        outputs = []
        while engine.has_work:
            outputs += engine.step().outputs
        tokens = [token_id for output in outputs if isinstance(output, TokensOutput) for token_id in output.token_ids]
        return tokens, [s.logprob for output in outputs if isinstance(output, ScoresOutput) for s in output.scores]


@pytest.mark.parametrize("overlapping", [False, True], ids=["step_by_step", "overlapping"])
@pytest.mark.parametrize("freely", [False, True], ids=["cut_at_multiples", "cut_freely"])
def test_the_rules_hold_whatever_happens(make_runner, freely, overlapping):
    run_state_machine_as_test(machine(make_runner, freely, overlapping), settings=so_many(150))


def machine(make: Callable, freely: bool, overlapping: bool) -> type[Engines]:
    class Machine(Engines):
        make_runner = staticmethod(make)
        cut_freely, is_asynchronous = freely, overlapping

    return Machine


def so_many(num_runs: int) -> settings:
    return settings(
        max_examples=num_runs,
        stateful_step_count=40,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )


# Policies by example.

IN_CHUNKS = Capabilities(exact_at_any_cut=False, max_draws=16)


def waiting(scheduler: Scheduler, *lengths: int, max_new_tokens: int = 3) -> list[Sequence]:
    sequences = []
    for i, length in enumerate(lengths):
        request = EngineRequest(tuple(range(100 * i, 100 * i + length)), SamplingParams(), max_new_tokens)
        sequences.append(Sequence(i, 0, request, arrived_at=0.0))
        scheduler.submit(sequences[-1], 0.0)
    return sequences


def carry_out(scheduler: Scheduler) -> list[tuple[int, int, int]]:
    """Plan a step and note it as done: (sequence id, start, end) of each chunk."""
    plan = scheduler.schedule(0.0)
    for (sequence,), chunk in zip(plan.groups, plan.batch.chunks, strict=True):
        scheduler.advance(sequence, chunk.end)
        if chunk.draws:
            sequence.append(7)
    return [(s.request_id, c.start, c.end) for (s,), c in zip(plan.groups, plan.batch.chunks, strict=True)]


def test_a_long_prompt_does_not_stall_those_that_decode():
    scheduler = Scheduler(num_slots=4, chunk_size=8, max_batch_tokens=8, capabilities=IN_CHUNKS)
    waiting(scheduler, 3, 24)
    steps = [carry_out(scheduler) for _ in range(4)]
    assert steps == [[(0, 0, 3)], [(0, 3, 4), (1, 0, 8)], [(0, 4, 5), (1, 8, 16)], [(0, 5, 6), (1, 16, 24)]]


def test_a_step_takes_as_many_prompts_as_its_budget_allows():
    scheduler = Scheduler(num_slots=4, chunk_size=8, max_batch_tokens=20, capabilities=IN_CHUNKS)
    waiting(scheduler, 8, 5, 8, 8)
    assert carry_out(scheduler) == [(0, 0, 8), (1, 0, 5)]


def test_one_chunk_runs_however_many_decode():
    scheduler = Scheduler(num_slots=4, chunk_size=8, max_batch_tokens=2, capabilities=IN_CHUNKS)
    waiting(scheduler, 1, 1, 1, 20, max_new_tokens=30)
    for _ in range(3):
        carry_out(scheduler)
    assert [carry_out(scheduler) for _ in range(3)] == [
        [(0, 3, 4), (1, 2, 3), (2, 1, 2), (3, 0, 8)],
        [(0, 4, 5), (1, 3, 4), (2, 2, 3), (3, 8, 16)],
        [(0, 5, 6), (1, 4, 5), (2, 3, 4), (3, 16, 20)],
    ]


def test_without_a_free_slot_the_next_prompt_waits():
    scheduler = Scheduler(num_slots=1, chunk_size=8, max_batch_tokens=64, capabilities=IN_CHUNKS)
    first, second = waiting(scheduler, 4, 4)
    assert carry_out(scheduler) == [(0, 0, 4)]
    assert carry_out(scheduler) == [(0, 4, 5)]
    scheduler.finish(first)
    assert carry_out(scheduler) == [(1, 0, 4)]
    assert second.slot == 0


def test_a_scheduler_that_cuts_freely_fills_each_step_to_its_budget():
    scheduler = Scheduler(num_slots=4, chunk_size=8, max_batch_tokens=20, capabilities=Capabilities(True, 16))
    waiting(scheduler, 15, 30)
    assert [carry_out(scheduler) for _ in range(3)] == [
        [(0, 0, 15), (1, 0, 5)],
        [(0, 15, 16), (1, 5, 24)],
        [(0, 16, 17), (1, 24, 30)],
    ]


def steps_of_a_call(scheduler: Scheduler) -> int:
    plan = scheduler.schedule(0.0)
    for (sequence,), chunk in zip(plan.groups, plan.batch.chunks, strict=True):
        scheduler.advance(sequence, chunk.end)
        sequence.append(7)
    return plan.batch.num_steps


def with_steps(num_slots: int, num_steps: int = 16) -> Scheduler:
    capabilities = Capabilities(exact_at_any_cut=True, max_draws=16, num_steps=num_steps)
    return Scheduler(num_slots, chunk_size=8, max_batch_tokens=64, capabilities=capabilities)


@pytest.mark.parametrize(
    ("num_rows", "few", "all_steps"), [(1, 1, 8), (15, 1, 8), (16, 2, 8), (17, 2, 16), (24, 3, 16), (200, 16, 16)]
)
def test_a_call_has_all_steps_when_all_decode_and_few_by_the_number_of_rows_when_a_prompt_ends_in_it(num_rows, few, all_steps):
    scheduler = with_steps(num_slots=201)
    waiting(scheduler, *[1] * (num_rows - 1), max_new_tokens=100)
    while scheduler.waiting:
        steps_of_a_call(scheduler)
    late = Sequence(999, 0, EngineRequest((1, 2, 3), SamplingParams(), 100), arrived_at=0.0)
    scheduler.submit(late, 0.0)
    assert [steps_of_a_call(scheduler) for _ in range(2)] == [few, all_steps]


@pytest.mark.parametrize(("num_slots", "few", "all_steps"), [(2, 1, 8), (16, 2, 8), (40, 5, 16)])
def test_a_call_has_few_steps_when_somebody_waits_for_a_slot(num_slots, few, all_steps):
    scheduler = with_steps(num_slots)
    *_, last = waiting(scheduler, *[1] * (num_slots + 1), max_new_tokens=100)
    assert [steps_of_a_call(scheduler) for _ in range(3)] == [few, few, few]
    scheduler.finish(last)
    assert steps_of_a_call(scheduler) == all_steps


def test_a_call_has_one_step_when_a_prompt_goes_on_in_the_next_or_another_can_start_there():
    scheduler = with_steps(num_slots=80)
    waiting(scheduler, *[1] * 40, max_new_tokens=100)
    assert [steps_of_a_call(scheduler) for _ in range(2)] == [5, 16]
    long = Sequence(999, 0, EngineRequest((1,) * 40, SamplingParams(), 100), arrived_at=0.0)
    others = [Sequence(1000 + i, 0, EngineRequest((i,) * 5, SamplingParams(), 100), arrived_at=0.0) for i in (2, 3)]
    for sequence in (long, *others):
        scheduler.submit(sequence, 0.0)
    assert [plan_of(scheduler) for _ in range(3)] == [(1, 24), (1, 24), (5, 2)]
    assert steps_of_a_call(scheduler) == 16


def plan_of(scheduler: Scheduler) -> tuple[int, int]:
    """Carry out a call: its steps, and how many of prompts' tokens are in it."""
    plan = scheduler.schedule(0.0)
    for (sequence,), chunk in zip(plan.groups, plan.batch.chunks, strict=True):
        scheduler.advance(sequence, chunk.end)
        if chunk.draws:
            sequence.append(7)
    return plan.batch.num_steps, sum(
        len(c.token_ids) for (s,), c in zip(plan.groups, plan.batch.chunks, strict=True) if c.start < s.num_prompt
    )


@pytest.mark.parametrize(("num_left", "num_steps"), [((1, 1), 1), ((1, 3), 3), ((3, 20), 8)])
def test_a_call_has_no_more_steps_than_anybody_still_draws_tokens(num_left, num_steps):
    capabilities = Capabilities(exact_at_any_cut=True, max_draws=16, num_steps=8)
    scheduler = Scheduler(num_slots=2, chunk_size=8, max_batch_tokens=64, capabilities=capabilities)
    for i, num in enumerate(num_left):
        waiting(scheduler, 3 + i, max_new_tokens=1 + num)
    assert [steps_of_a_call(scheduler) for _ in range(2)] == [1, num_steps]


def test_a_prompt_that_awaits_anothers_is_looked_at_once_a_step_and_starts_in_the_next(monkeypatch):
    scheduler = Scheduler(num_slots=8, chunk_size=8, max_batch_tokens=64, capabilities=IN_CHUNKS)
    leader, sharing, *others = (
        Sequence(i, 0, EngineRequest(prompt, SamplingParams(), 3), arrived_at=0.0)
        for i, prompt in enumerate([(1,) * 9, (1,) * 8 + (2,), (3,) * 4, (4,) * 4, (5,) * 4])
    )
    for sequence in (leader, sharing, *others):
        scheduler.submit(sequence, 0.0)
    looked_at = []
    awaits = scheduler._awaits_a_prefix
    monkeypatch.setattr(scheduler, "_awaits_a_prefix", lambda sequence: looked_at.append(sequence) or awaits(sequence))
    assert carry_out(scheduler) == [(0, 0, 8), (2, 0, 4), (3, 0, 4), (4, 0, 4)]
    assert looked_at == [leader, sharing, *others]
    assert (1, 8, 9) in carry_out(scheduler)


def test_who_comes_looks_for_its_prompt_among_those_that_are_being_prefilled_alone(monkeypatch):
    scheduler = Scheduler(num_slots=4, chunk_size=8, max_batch_tokens=16, capabilities=IN_CHUNKS)
    waiting(scheduler, 4, 4, max_new_tokens=30)
    carry_out(scheduler)
    prefilling = Sequence(2, 0, EngineRequest((9,) * 20, SamplingParams(), 3), arrived_at=0.0)
    scheduler.submit(prefilling, 0.0)
    carry_out(scheduler)
    asked = []
    can_follow = Sequence.can_follow
    monkeypatch.setattr(Sequence, "can_follow", lambda self, leader: asked.append(leader) or can_follow(self, leader))
    equal = Sequence(3, 0, EngineRequest((9,) * 20, SamplingParams(), 3), arrived_at=0.0)
    scheduler.submit(equal, 0.0)
    assert asked == [prefilling]
    assert equal.leader is prefilling


def test_an_idle_scheduler_plans_nothing():
    scheduler = Scheduler(num_slots=1, chunk_size=8, max_batch_tokens=64, capabilities=IN_CHUNKS)
    assert not scheduler.has_work
    assert scheduler.schedule(0.0).batch.chunks == ()


@pytest.mark.parametrize("module", ["app.engine.scheduler", "app.engine.client"])
def test_the_engine_needs_no_torch(module):
    code = f"import sys, {module}; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=120, check=False).returncode == 0
