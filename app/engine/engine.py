"""Continuous batching over token ids: schedule, launch, collect. Knows nothing of text, HTTP, threads or tensors."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from app.engine.isolation import Isolation
from app.engine.meter import Meter
from app.engine.scheduler import Group, Scheduler
from app.engine.sequence import EngineRequest, FailureOutput, Output, ScoresOutput, Sequence, TokensOutput
from app.engine.step import NO_STEP, Step
from app.engine.work import NO_WORK, Work
from app.logs import traceback_of
from model.batch import Chunk, ChunkOutput, Runner, SampledToken, StepOutput

MAX_FAILED_IN_A_ROW = 8  # requests, with no row that went well between them, until it is no fault of theirs


class NothingSucceeds(Exception):
    """The runner fails whoever comes."""


@dataclass(frozen=True, slots=True)
class StepStats:
    """What a step did and how it left the engine; times in seconds, the rest are counts."""

    num_sequences: int  # in the step's batch
    num_prompt_tokens: int
    num_reused_tokens: int
    num_prefill_chunks: int
    num_generated_tokens: int
    step_seconds: float
    num_running: int  # requests of which a sample has a slot
    num_waiting: int  # the others
    num_slots_used: int
    max_tokens: int | None  # of a step, while the device is short of memory
    error: str | None = None  # traceback of that by which the step failed as a whole, before it was run again in parts
    compute_seconds: float = 0.0  # until the runner had answered
    work: Work = NO_WORK  # of the sequences that have ended


@dataclass(frozen=True, slots=True)
class StepResult:
    outputs: tuple[Output, ...]
    stats: StepStats


class Engine:
    """Owns the scheduler and the runner; one thread at a time may use it.

    A request is a group of samples, each a Sequence of its own: the scheduler sees to it that their prompt is computed once.
    """

    def __init__(self, runner: Runner, scheduler: Scheduler, clock: Callable[[], float] = time.monotonic) -> None:
        self.runner, self.scheduler, self._clock = runner, scheduler, clock
        self._requests: dict[int, dict[int, Sequence]] = {}  # the samples under way
        self._in_flight = NO_STEP
        self._meter = Meter()
        self._num_failed_in_a_row = 0

    @property
    def has_work(self) -> bool:
        return self.scheduler.has_work or self._in_flight is not NO_STEP

    def submit(self, request_id: int, request: EngineRequest, arrived_at: float | None = None) -> None:
        """Take a request in; `arrived_at` is a time of the engine's clock, None for now."""
        assert request_id not in self._requests, "a request is submitted once"
        now = self._clock()
        samples = [Sequence(request_id, i, request, now if arrived_at is None else arrived_at) for i in range(request.num_samples)]
        self._requests[request_id] = dict(enumerate(samples))
        for sequence in samples:
            self.scheduler.submit(sequence, now)

    def abort(self, request_id: int, sample: int | None = None) -> None:
        """End a sample, or all of a request's, without a further output; what has ended already is left alone."""
        for sequence in list(self._requests.get(request_id, {}).values()):
            if sample in (None, sequence.sample):
                self._finish(sequence)

    def wait(self) -> None:
        """Return when the step in flight is done: what came meanwhile can be carried out before the next one is planned."""
        self._in_flight.wait()

    def step(self, tell: Callable[[StepResult], None] | None = None) -> StepResult:
        """Run one step. After a runner's exception it is run again in halves: the rows that it comes of end, and no others.

        After a MemoryError the same is done again in smaller steps as far as that is possible. RunnerLost is let through, and
        NothingSucceeds raised when one request after another has failed by an exception. Where a launch returns while its step
        still runs, the outputs are those of the step that the last call launched, and the next one runs while they are published;
        first tokens of few are given to `tell` before it is launched.
        """
        overlaps = self.runner.capabilities.is_asynchronous
        if not overlaps:
            self._launch()
        step, result = self._in_flight, self._collect()
        if overlaps:
            if tell is not None and step.is_urgent:
                tell(result)
                result = StepResult((), self._stats(NO_STEP, []))
            self._launch()
        return result

    def _launch(self) -> None:
        now = self._clock()
        step = Step(self.scheduler.schedule(now), now)
        if step.plan.started:
            self._meter.open(step.plan)
        step.launch(self.runner)
        self._in_flight = step if step.plan.groups else NO_STEP

    def _collect(self) -> StepResult:
        """Take what has come of the step in flight."""
        step, self._in_flight = self._in_flight, NO_STEP
        output = step.wait()
        if step.found_no_memory and self.scheduler.can_be_smaller(step.plan.batch):
            now = self._clock()
            self._meter.charge(step, now - step.started)
            self.scheduler.room.halve(step.plan.batch.num_tokens, now)
            return StepResult((), self._stats(NO_STEP, []))  # it will be done again, in parts
        if isinstance(output, StepOutput):
            outputs, error = self._take(step, output.chunks), None
            self._num_failed_in_a_row = 0
        else:
            outputs, error = self._take_parts(step), traceback_of(output)
        return StepResult(tuple(outputs), self._stats(step, outputs, error))

    def _take(self, step: Step, chunks: Iterable[ChunkOutput | None]) -> list[Output]:
        """Take what has come of the chunks; that of which nothing has is planned again."""
        now, plan = self._clock(), step.plan
        self._meter.charge(step, now - step.started)
        outputs: list[Output] = []
        failed: list[tuple[Sequence, str]] = []
        for group, chunk, out in zip(plan.groups, plan.batch.chunks, chunks, strict=True):
            if out is None:
                continue
            if out.error is None:
                outputs += self._take_chunk(group, chunk, out, now)
            else:
                failed.append((group[0], out.error))
        for sequence, _ in failed:
            self.scheduler.distrust(sequence)
        return outputs + self._fail(failed)

    def _take_parts(self, step: Step) -> list[Output]:
        """Run a step that failed again in parts and take what has come of them."""
        parts = step.run_again(self.runner, self.scheduler.can_be_smaller)
        if parts.found_no_memory is not None:
            self.scheduler.room.halve(parts.found_no_memory, self._clock())
        elif parts.needs_too_much:
            self.scheduler.room.lift()
        outputs = self._take(step, [found.output for found in parts.found])
        outputs += self._fail(
            [
                (sequence, found.draw_errors[i])
                for group, found in zip(step.plan.groups, parts.found, strict=True)
                for i, sequence in enumerate(group)
                if i in found.draw_errors
            ]
        )
        self._count_failures(parts, outputs)
        return outputs

    def _count_failures(self, parts: Isolation, outputs: list[Output]) -> None:
        if any(found.tokens or not found.errors for found in parts.found):
            self._num_failed_in_a_row = 0
            return
        messages = [output.message for output in outputs if isinstance(output, FailureOutput)]
        self._num_failed_in_a_row += len(messages)
        if self._num_failed_in_a_row >= MAX_FAILED_IN_A_ROW:
            raise NothingSucceeds(
                f"{self._num_failed_in_a_row} requests have failed one after another, the last one so: {messages[-1]}"
            )

    def _take_chunk(self, group: Group, chunk: Chunk, out: ChunkOutput, now: float) -> list[Output]:
        """The scores of a chunk, then its tokens; a group has the sequence that ran it, then those that drew with it.

        What was aborted while the step ran takes nothing of it.
        """
        outputs: list[Output] = []
        owner = group[0]
        num_more = len(out.tokens[0]) - 1 if out.tokens and out.tokens[0] else 0  # ran in further steps of the same call
        if not owner.has_ended:
            self.scheduler.advance(owner, chunk.end + num_more)
            if out.scores or not out.tokens:
                outputs += self._take_scores(owner, out, now)
        for sequence, tokens in zip(group, out.tokens, strict=False):  # without draws a group has its owner all the same
            if tokens and not sequence.has_ended:  # of a draw that failed alone there are none
                outputs.append(self._take_tokens(sequence, tokens, now))
        return outputs

    def _take_scores(self, owner: Sequence, out: ChunkOutput, now: float) -> list[Output]:
        is_last = not owner.request.max_new_tokens and not owner.is_prefilling
        if is_last:
            self._finish(owner)
        if not (out.scores or is_last):
            return []
        work = self._meter.work_of(owner) if owner.request.tells_work else NO_WORK
        return [ScoresOutput(owner.request_id, out.scores, is_last, now, owner.queue_seconds, owner.num_reused, work)]

    def _take_tokens(self, sequence: Sequence, tokens: tuple[SampledToken, ...], now: float) -> TokensOutput:
        finish_reason = sequence.append(*[token.token_id for token in tokens])
        if finish_reason is not None:
            self._finish(sequence)
        seconds, num_reused = sequence.queue_seconds, sequence.num_reused
        work = self._meter.work_of(sequence) if sequence.request.tells_work else NO_WORK
        return TokensOutput(sequence.request_id, sequence.sample, tokens, finish_reason, now, seconds, num_reused, work)

    def _fail(self, failed: list[tuple[Sequence, str]]) -> list[Output]:
        """End the requests of which a sequence failed; others that would have drawn from its chunk compute their own prompt."""
        failures: list[Output] = []
        for sequence, message in failed:
            if sequence.has_ended:
                continue  # while the step ran, or with another of its samples
            for sample in list(self._requests[sequence.request_id].values()):
                self._finish(sample)
            failures.append(FailureOutput(sequence.request_id, message))
        return failures

    def _finish(self, sequence: Sequence) -> None:
        self._meter.close(sequence)
        samples = self._requests[sequence.request_id]
        del samples[sequence.sample]
        if not samples:
            del self._requests[sequence.request_id]
        self.scheduler.finish(sequence)

    def _stats(self, step: Step, outputs: list[Output], error: str | None = None) -> StepStats:
        num_running = len({sequence.request_id for sequence in self.scheduler.running})
        compute_seconds, work = self._meter.take()
        return StepStats(
            num_sequences=len(step.plan.groups),
            num_prompt_tokens=sum(len(chunk.token_ids) for _, chunk in step.prefills),
            num_reused_tokens=step.num_reused,
            num_prefill_chunks=len(step.prefills),
            num_generated_tokens=sum(len(output.tokens) for output in outputs if isinstance(output, TokensOutput)),
            step_seconds=self._clock() - step.started,
            num_running=num_running,
            num_waiting=len(self._requests) - num_running,
            num_slots_used=self.scheduler.slots.num_used,
            max_tokens=self.scheduler.room.limit,
            error=error,
            compute_seconds=compute_seconds,
            work=work,
        )
