"""Several steps in one call, for runners that take them one by one: the plain meaning of `ForwardBatch.num_steps`."""

from collections.abc import Callable
from dataclasses import dataclass

from model.batch import Chunk, ChunkOutput, Draw, ForwardBatch, Runner, SampledToken, StepOutput


def run_steps(run_one: Callable[[ForwardBatch], StepOutput], batch: ForwardBatch) -> StepOutput:
    """Run the batch, then as often as it asks for a batch of the tokens just drawn by those that go on; `run_one` runs a step."""
    if batch.num_steps == 1:
        return run_one(batch)
    return _run_further_steps(run_one(ForwardBatch(batch.chunks)), run_one, batch)


def _run_further_steps(first: StepOutput, run_one: Callable[[ForwardBatch], StepOutput], batch: ForwardBatch) -> StepOutput:
    outputs = list(first.chunks)
    rows = {i: _Going(chunk, outputs[i]) for i, chunk in enumerate(batch.chunks) if chunk.goes_on}
    for _ in range(batch.num_steps - 1):
        if not (going := [row for row in rows.values() if row.goes_on]):
            break
        output = run_one(ForwardBatch(tuple(row.next_chunk() for row in going)))
        for row, out in zip(going, output.chunks, strict=True):
            row.take(out)
    for i, row in rows.items():
        outputs[i] = row.output()
    return StepOutput(tuple(outputs))


@dataclass(frozen=True, slots=True)
class Done:
    """A launched batch whose output is there already."""

    output: StepOutput

    def collect(self) -> StepOutput:
        return self.output


class StepByStep:
    """A batch of several steps of which the first is under way; the others are launched one by one when it is collected."""

    def __init__(self, runner: Runner, batch: ForwardBatch) -> None:
        self._runner, self._batch = runner, batch
        self._first = runner.launch(ForwardBatch(batch.chunks))

    def collect(self) -> StepOutput:
        return _run_further_steps(self._first.collect(), lambda one: self._runner.launch(one).collect(), self._batch)


class _Going:
    """A chunk whose draw goes on, step by step."""

    def __init__(self, chunk: Chunk, first: ChunkOutput) -> None:
        self._chunk, self._first, self._error = chunk, first, first.error
        self._tokens: tuple[SampledToken, ...] = first.tokens[0] if first.error is None else ()

    @property
    def goes_on(self) -> bool:
        (draw,) = self._chunk.draws
        return self._error is None and len(self._tokens) < draw.max_new and self._tokens[-1].token_id not in draw.end_ids

    def next_chunk(self) -> Chunk:
        (draw,) = self._chunk.draws
        start = self._chunk.end + len(self._tokens) - 1
        again = Draw(0, draw.params, draw.num_prompt, draw.banned_ids, mask=draw.mask, top_n=draw.top_n)
        return Chunk(self._chunk.slot, start, (self._tokens[-1].token_id,), (again,))

    def take(self, out: ChunkOutput) -> None:
        self._error = out.error
        if out.error is None:
            self._tokens += out.tokens[0]

    def output(self) -> ChunkOutput:
        return ChunkOutput(error=self._error) if self._error else ChunkOutput((self._tokens,), self._first.scores)
