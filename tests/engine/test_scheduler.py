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

from app.engine.engine import Engine, StepResult
from app.engine.scheduler import Plan, Scheduler
from app.engine.sequence import EngineRequest, FailureOutput, PromptScores, ScoresOutput, Sequence, TokenOutput
from model.batch import Capabilities, SamplingParams

BLOCK = st.sampled_from([(0, 0, 0), (0, 1, 2), (1, 1, 1), (2,), (0, 0)])  # so that prompts often begin alike
Sample = tuple[int, int]  # a request's id and which of its samples
PROMPTS = st.lists(BLOCK, min_size=1, max_size=6).map(lambda blocks: tuple(itertools.chain(*blocks)))


class RecordingScheduler(Scheduler):
    plan: Plan

    def schedule(self, now: float) -> Plan:
        self.plan = super().schedule(now)
        return self.plan


def cut(token_ids: list[int], num_prompt: int, chunk_size: int, length: int) -> tuple[tuple[int, tuple[int, ...]], ...]:
    """The chunks (start, token ids) in which a sequence's first `length` positions are run when it has the engine to itself."""
    borders = [*range(0, num_prompt, chunk_size), *range(num_prompt, len(token_ids) + 1)]
    return tuple((a, tuple(token_ids[a:b])) for a, b in itertools.pairwise(borders) if b <= length)


class Engines(RuleBasedStateMachine):
    """Drives a scheduler through its engine, over a runner that remembers how every position was computed."""

    make_runner: Callable
    cut_freely: bool

    @initialize(
        num_slots=st.integers(1, 4),
        chunk_size=st.integers(1, 4),
        max_batch_tokens=st.integers(1, 24),
        max_draws=st.integers(1, 4),
        num_steps=st.integers(1, 3),
    )
    def start(self, num_slots: int, chunk_size: int, max_batch_tokens: int, max_draws: int, num_steps: int) -> None:
        self.runner = self.make_runner(
            num_slots, vocab_size=3, exact_at_any_cut=self.cut_freely, max_draws=max_draws, num_steps=num_steps
        )
        self.scheduler = RecordingScheduler(num_slots, chunk_size, max_batch_tokens, self.runner.capabilities)
        self.scheduler.slots.min_shared = 2 if self.cut_freely else chunk_size  # prompts are short here
        self.engine = Engine(self.runner, self.scheduler, clock=lambda: 0.0)
        self.requests: dict[int, EngineRequest] = {}
        self.tokens: dict[Sample, list[int]] = {}
        self.scores: dict[int, list[float]] = {}
        self.ends: dict[Sample, list[str]] = {}

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

    @rule(num_steps=st.integers(1, 4))
    def steps(self, num_steps: int) -> None:
        for _ in range(num_steps):
            result = self.engine.step()
            assert not any(isinstance(output, FailureOutput) for output in result.outputs)
            self.take(result)

    @rule(name=st.sampled_from(["execute", "copy_prefix"]))
    def step_that_fails(self, name: str) -> None:
        self.runner.fail_next = name
        result = self.engine.step()
        plan = self.scheduler.plan
        failed = self.runner.fail_next is None
        assert failed == bool(plan.copies if name == "copy_prefix" else plan.groups)
        self.runner.fail_next = None
        if failed:
            assert [type(output) for output in result.outputs] == [FailureOutput] * len(result.outputs)
            expected = dict.fromkeys(group[0].request_id for group in plan.groups)
            assert [output.request_id for output in result.outputs] == [*expected]
        self.take(result)

    @rule(slot=st.integers(0, 3))
    def step_that_computes_a_nan(self, slot: int) -> None:
        self.runner.nan_slots = {slot}
        result = self.engine.step()
        self.runner.nan_slots = set()
        plan = self.scheduler.plan
        hit = [group[0] for group, chunk in zip(plan.groups, plan.batch.chunks, strict=True) if chunk.slot == slot]
        failed = [output.request_id for output in result.outputs if isinstance(output, FailureOutput)]
        assert failed == [s.request_id for s in hit]
        self.take(result)

    def take(self, result: StepResult) -> None:
        self.check_plan(self.scheduler.plan)
        for output in result.outputs:
            if isinstance(output, FailureOutput):
                open_samples = [key for key, ends in self.ends.items() if key[0] == output.request_id and not ends]
                assert open_samples, "a failure after the end"
                for key in open_samples:
                    self.ends[key].append("failed")
                continue
            key = (output.request_id, output.sample if isinstance(output, TokenOutput) else 0)
            assert not self.ends[key], "an output after the end"
            if isinstance(output, TokenOutput):
                self.tokens[key].append(output.token_id)
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
        assert plan.batch.num_tokens <= max(budget, num_decoding + size)
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
        for _ in range(1000):
            if not self.engine.has_work:
                break
            self.steps(1)
            assert self.scheduler.plan.batch.chunks, "a step with work does something"
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
        tokens = [output.token_id for output in outputs if isinstance(output, TokenOutput)]
        return tokens, [s.logprob for output in outputs if isinstance(output, ScoresOutput) for s in output.scores]


@pytest.mark.parametrize("freely", [False, True], ids=["cut_at_multiples", "cut_freely"])
def test_the_rules_hold_whatever_happens(make_runner, freely):
    class Machine(Engines):
        cut_freely = freely

    Machine.make_runner = staticmethod(make_runner)
    quick = settings(
        max_examples=250,
        stateful_step_count=40,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    run_state_machine_as_test(Machine, settings=quick)


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


def test_an_idle_scheduler_plans_nothing():
    scheduler = Scheduler(num_slots=1, chunk_size=8, max_batch_tokens=64, capabilities=IN_CHUNKS)
    assert not scheduler.has_work
    assert scheduler.schedule(0.0).batch.chunks == ()


@pytest.mark.parametrize("module", ["app.engine.scheduler", "app.engine.client"])
def test_the_engine_needs_no_torch(module):
    code = f"import sys, {module}; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=120, check=False).returncode == 0
