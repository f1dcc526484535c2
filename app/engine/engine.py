"""Continuous batching over token ids: schedule, execute, publish. Knows nothing of text, HTTP, threads or tensors."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from app.engine.scheduler import Plan, Scheduler
from app.engine.sequence import EngineRequest, FailureOutput, Sequence, TokenOutput
from model.batch import Runner, SampledToken, StepOutput

Output = TokenOutput | FailureOutput


@dataclass(frozen=True, slots=True)
class StepStats:
    """What a step did and how it left the engine; times in seconds, the rest are counts."""

    num_sequences: int  # in the step's batch
    num_prompt_tokens: int
    num_reused_tokens: int
    num_prefill_chunks: int
    num_generated_tokens: int
    step_seconds: float
    num_running: int
    num_waiting: int
    num_slots_used: int


@dataclass(frozen=True, slots=True)
class StepResult:
    outputs: tuple[Output, ...]
    stats: StepStats


class Engine:
    """Owns the scheduler and the runner; one thread at a time may use it."""

    def __init__(self, runner: Runner, scheduler: Scheduler, clock: Callable[[], float] = time.monotonic) -> None:
        self.runner, self.scheduler, self._clock = runner, scheduler, clock
        self._sequences: dict[int, Sequence] = {}

    @property
    def has_work(self) -> bool:
        return self.scheduler.has_work

    def submit(self, request: EngineRequest) -> None:
        assert request.sequence_id not in self._sequences, "a sequence is submitted once"
        sequence = Sequence(request, arrived_at=self._clock() if request.arrived_at is None else request.arrived_at)
        self._sequences[request.sequence_id] = sequence
        self.scheduler.submit(sequence)

    def abort(self, sequence_id: int) -> None:
        """End a sequence without a further output; one that has ended already is left alone."""
        if sequence := self._sequences.pop(sequence_id, None):
            self.scheduler.finish(sequence)

    def step(self) -> StepResult:
        """Run one step. A runner's exception ends the sequences of the step, and no others, with a FailureOutput."""
        started = self._clock()
        plan = self.scheduler.schedule(started)
        try:
            output = self._execute(plan)
        except Exception as error:
            return StepResult(self._fail(plan, error), self._stats(plan, started, num_generated=0))
        outputs = self._publish(plan, output)
        num_generated = sum(isinstance(published, TokenOutput) for published in outputs)
        return StepResult(outputs, self._stats(plan, started, num_generated))

    def _execute(self, plan: Plan) -> StepOutput:
        for copy in plan.copies:
            self.runner.copy_prefix(copy.source, copy.target, copy.length)
        return self.runner.execute(plan.batch) if plan.batch.chunks else StepOutput(())

    def _publish(self, plan: Plan, output: StepOutput) -> tuple[Output, ...]:
        outputs: list[Output] = []
        drawn = iter(output.tokens)
        for sequence, chunk in zip(plan.sequences, plan.batch.chunks, strict=True):
            self.scheduler.advance(sequence, chunk)
            if chunk.draw is not None:
                outputs.append(self._take_token(sequence, next(drawn)))
        return tuple(outputs)

    def _take_token(self, sequence: Sequence, token: SampledToken) -> Output:
        if math.isnan(token.logprob):
            self._finish(sequence, trust_slot=False)
            return FailureOutput(sequence.request.sequence_id, "the model computed a value that is not a number")
        finish_reason = sequence.append(token.token_id)
        if finish_reason is not None:
            self._finish(sequence)
        return TokenOutput(
            sequence.request.sequence_id,
            token.token_id,
            token.logprob,
            finish_reason,
            sequence.queue_seconds,
            sequence.num_reused,
        )

    def _fail(self, plan: Plan, error: Exception) -> tuple[Output, ...]:
        for sequence in plan.sequences:
            self._finish(sequence, trust_slot=False)
        message = f"the step failed: {type(error).__name__}: {error}"
        return tuple(FailureOutput(sequence.request.sequence_id, message) for sequence in plan.sequences)

    def _finish(self, sequence: Sequence, trust_slot: bool = True) -> None:
        del self._sequences[sequence.request.sequence_id]
        self.scheduler.finish(sequence, trust_slot)

    def _stats(self, plan: Plan, started: float, num_generated: int) -> StepStats:
        prefills = [
            (sequence, chunk)
            for sequence, chunk in zip(plan.sequences, plan.batch.chunks, strict=True)
            if chunk.start < sequence.num_prompt
        ]
        return StepStats(
            num_sequences=len(plan.sequences),
            num_prompt_tokens=sum(len(chunk.token_ids) for _, chunk in prefills),
            num_reused_tokens=sum(s.num_reused for s, chunk in prefills if chunk.start == s.num_reused),
            num_prefill_chunks=len(prefills),
            num_generated_tokens=num_generated,
            step_seconds=self._clock() - started,
            num_running=len(self.scheduler.running),
            num_waiting=len(self.scheduler.waiting),
            num_slots_used=self.scheduler.slots.num_used,
        )
