"""Continuous batching over token ids: schedule, execute, publish. Knows nothing of text, HTTP, threads or tensors."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from app.engine.scheduler import Group, Plan, Scheduler
from app.engine.sequence import EngineRequest, FailureOutput, Output, ScoresOutput, Sequence, TokenOutput
from model.batch import Chunk, ChunkOutput, Runner, SampledToken, StepOutput, check_output

Prefills = list[tuple[Group, Chunk]]  # those of a step's chunks that are of a prompt


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

    @property
    def has_work(self) -> bool:
        return self.scheduler.has_work

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

    def step(self) -> StepResult:
        """Run one step. A runner's exception ends the requests of the step, and no others, with a FailureOutput."""
        started = self._clock()
        plan = self.scheduler.schedule(started)
        prefills = [(g, c) for g, c in zip(plan.groups, plan.batch.chunks, strict=True) if c.start < g[0].num_prompt]
        num_reused = _num_reused(prefills)
        try:
            output = self._execute(plan)
        except Exception as error:
            message = f"the step failed: {type(error).__name__}: {error}"
            outputs = self._fail([(group[0], message) for group in plan.groups])
        else:
            outputs = self._publish(plan, output)
        return StepResult(tuple(outputs), self._stats(plan, prefills, started, outputs, num_reused))

    def _execute(self, plan: Plan) -> StepOutput:
        if not plan.batch.chunks:
            return StepOutput(())
        for copy in plan.copies:
            self.runner.copy_prefix(copy.source, copy.target, copy.length)
        output = self.runner.launch(plan.batch).collect()
        check_output(plan.batch, output)
        return output

    def _publish(self, plan: Plan, output: StepOutput) -> list[Output]:
        now = self._clock()
        outputs: list[Output] = []
        failed: list[tuple[Sequence, str]] = []
        for group, chunk, out in zip(plan.groups, plan.batch.chunks, output.chunks, strict=True):
            if out.error is None:
                outputs += self._publish_chunk(group, chunk, out, now)
            else:
                failed.append((group[0], out.error))
        return outputs + self._fail(failed)

    def _publish_chunk(self, group: Group, chunk: Chunk, out: ChunkOutput, now: float) -> list[Output]:
        """The scores of a chunk, then its tokens; a group has the sequence that ran it, then those that drew with it."""
        owner, outputs = group[0], list[Output]()
        num_more = len(out.tokens[0]) - 1 if out.tokens else 0  # ran in further steps of the same call
        self.scheduler.advance(owner, chunk.end + num_more)
        if out.scores or not out.tokens:
            outputs += self._take_scores(owner, out, now)
        for sequence, tokens in zip(group, out.tokens, strict=False):  # without draws a group has its owner all the same
            for token in tokens:
                outputs.append(self._take_token(sequence, token, now))
        return outputs

    def _take_scores(self, owner: Sequence, out: ChunkOutput, now: float) -> list[Output]:
        is_last = not owner.request.max_new_tokens and not owner.is_prefilling
        if is_last:
            self._finish(owner)
        if not (out.scores or is_last):
            return []
        return [ScoresOutput(owner.request_id, out.scores, is_last, now, owner.queue_seconds, owner.num_reused)]

    def _take_token(self, sequence: Sequence, token: SampledToken, now: float) -> TokenOutput:
        finish_reason = sequence.append(token.token_id)
        if finish_reason is not None:
            self._finish(sequence)
        return TokenOutput(
            sequence.request_id,
            sequence.sample,
            token.token_id,
            token.logprob,
            token.top,
            finish_reason,
            now,
            sequence.queue_seconds,
            sequence.num_reused,
        )

    def _fail(self, failed: list[tuple[Sequence, str]]) -> list[Output]:
        """End the requests whose chunks failed, and trust nothing of what those chunks' slots hold.

        Others that would have drawn from such a chunk compute their prompt by themselves.
        """
        outputs: list[Output] = []
        spoilt = {sequence for sequence, _ in failed}
        for sequence, message in failed:
            if (samples := self._requests.get(sequence.request_id)) is None:
                continue  # with another of its samples
            for sample in list(samples.values()):
                self._finish(sample, trust_slot=sample not in spoilt)
            outputs.append(FailureOutput(sequence.request_id, message))
        return outputs

    def _finish(self, sequence: Sequence, trust_slot: bool = True) -> None:
        samples = self._requests[sequence.request_id]
        del samples[sequence.sample]
        if not samples:
            del self._requests[sequence.request_id]
        self.scheduler.finish(sequence, trust_slot)

    def _stats(self, plan: Plan, prefills: Prefills, started: float, outputs: list[Output], num_reused: int) -> StepStats:
        num_running = len({sequence.request_id for sequence in self.scheduler.running})
        return StepStats(
            num_sequences=len(plan.groups),
            num_prompt_tokens=sum(len(chunk.token_ids) for _, chunk in prefills),
            num_reused_tokens=num_reused,
            num_prefill_chunks=len(prefills),
            num_generated_tokens=sum(isinstance(output, TokenOutput) for output in outputs),
            step_seconds=self._clock() - started,
            num_running=num_running,
            num_waiting=len(self._requests) - num_running,
            num_slots_used=self.scheduler.slots.num_used,
        )


def _num_reused(prefills: Prefills) -> int:
    """Prompt tokens that a step takes from what was computed for somebody else."""
    num_reused = 0
    for (owner, *followers), chunk in prefills:
        if not owner.num_generated and chunk.start == owner.num_reused:
            num_reused += owner.num_reused
        num_reused += sum(follower.num_reused for follower in followers)
    return num_reused
