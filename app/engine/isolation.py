"""Finds the rows that a failed step fails by: it is run again in halves, as the border allows. Knows chunks, no sequences."""

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from app.engine.slots import PrefixCopy
from model.batch import (
    Chunk,
    ChunkOutput,
    ForwardBatch,
    OutputMismatch,
    Runner,
    RunnerLost,
    SampledToken,
    ScoredToken,
    check_output,
)

# Where all eighths of a step fail alike, no row of it is to blame: 14 launches, as much work as three such steps.
HOPELESS_LEVEL = 3
NO_MEMORY = "memory does not suffice, even for a step of this request alone"


def described(error: Exception) -> str:
    """The sentence for those who fail by an error of the runner; a library's message may hold text of another's request."""
    what = NO_MEMORY if isinstance(error, MemoryError) else "the step failed"
    return f"{what}: {type(error).__name__}{f': {error}' if isinstance(error, OutputMismatch) else ''}"


def copy_again(runner: Runner, copies: Iterable[PrefixCopy]) -> dict[int, str]:
    """Do a step's copies once more, to the same end; returns the error of each slot that did not get its prefix."""
    errors: dict[int, str] = {}
    sources: dict[int, int] = {}  # of those slots: where others get it that were to get it from them
    for copy in copies:
        source = sources.get(copy.source, copy.source)
        try:
            runner.copy_prefix(source, copy.target, copy.length)
        except RunnerLost:
            raise
        except Exception as error:
            errors[copy.target], sources[copy.target] = described(error), source
    return errors


class Row(NamedTuple):
    """What can be told apart: a draw of a chunk, or a chunk of which nothing is drawn."""

    chunk: int
    draw: int | None


@dataclass(slots=True)
class Found:
    """What has come of a chunk."""

    chunk: Chunk
    tokens: dict[int | None, tuple[SampledToken, ...]] = field(default_factory=dict)  # of each draw
    scores: tuple[ScoredToken, ...] = ()
    errors: dict[int | None, str] = field(default_factory=dict)  # of draws, or of the chunk
    is_left: bool = False  # for a smaller step

    @property
    def output(self) -> ChunkOutput | None:
        """A draw that failed has no tokens; where all have, the chunk has an error."""
        if self.is_left:
            return None
        if self.errors and len(self.errors) >= len(self.chunk.draws):
            return ChunkOutput(error=next(iter(self.errors.values())))
        return ChunkOutput(tuple(self.tokens.get(i, ()) for i in range(len(self.chunk.draws))), self.scores)

    @property
    def draw_errors(self) -> dict[int | None, str]:
        """Of those draws that failed beside others."""
        return self.errors if not self.is_left and len(self.errors) < len(self.chunk.draws) else {}


class Isolation:
    """Runs a batch that has failed again in halves, those of them that fail in halves again, until those that fail are single rows.

    What fails once and not again is nobody's fault. One of n rows is found by two launches for each time that n can be halved,
    and by as much work as two steps.
    """

    def __init__(self, runner: Runner, batch: ForwardBatch, spoilt: dict[int, str], can_be_smaller: Callable[[ForwardBatch], bool]):
        """`spoilt` has the errors of slots whose chunks are not to run; `can_be_smaller` tells what may find memory yet."""
        self._runner, self._batch, self._can_be_smaller = runner, batch, can_be_smaller
        self.found = [Found(chunk) for chunk in batch.chunks]
        self.found_no_memory: int | None = None  # tokens of the smallest part that did and may be smaller yet
        self.needs_too_much = False  # a row that found no memory, though it was alone
        rows: list[Row] = []
        for i, chunk in enumerate(batch.chunks):
            if (error := spoilt.get(chunk.slot)) is not None:
                self.found[i].errors = dict.fromkeys(range(len(chunk.draws)) or (None,), error)
            else:
                rows += [Row(i, draw) for draw in range(len(chunk.draws)) or (None,)]
        self._search([rows] if rows else [])
        self._restore([row for row in rows if self.found[row.chunk].draw_errors and row.draw in self.found[row.chunk].tokens])

    def _restore(self, rows: list[Row]) -> None:
        """Run draws that went well once more: their chunks were run again for others, which may have spoilt what they wrote."""
        if rows and (error := self._run(rows)) is not None:
            self._blame(rows, error)

    def _search(self, failed: list[list[Row]]) -> None:
        for level in itertools.count(1):
            halves = [half for rows in failed for half in _halves(rows)]
            errors = [(half, error) for half in halves if (error := self._run(half)) is not None]
            is_hopeless = level == HOPELESS_LEVEL and len(errors) == 2**level and len({type(error) for _, error in errors}) == 1
            for half, error in errors:
                if is_hopeless or len(half) == 1:
                    self._blame(half, error)
            failed = [half for half, _ in errors if len(half) > 1]
            if is_hopeless or not failed:
                return

    def _run(self, rows: list[Row]) -> Exception | None:
        """Run some rows by themselves and note what comes of them; the exception if they fail."""
        batch = self._part(rows)
        try:
            output = self._runner.launch(batch).collect()
            check_output(batch, output)
        except RunnerLost:
            raise
        except Exception as error:
            return error
        for (i, part), out in zip(_by_chunk(rows), output.chunks, strict=True):
            found = self.found[i]
            if out.error is not None:
                found.errors |= dict.fromkeys(part, out.error)
            else:
                found.scores = out.scores
                found.tokens |= zip(part, out.tokens, strict=False)
        return None

    def _part(self, rows: list[Row]) -> ForwardBatch:
        """A batch of some rows; of draws that were several in their chunk each has one step, as in the whole."""
        chunks, num_steps = [], self._batch.num_steps
        for i, part in _by_chunk(rows):
            chunk = self._batch.chunks[i]
            draws = tuple(chunk.draws[draw] for draw in part if draw is not None)
            if len(draws) < len(chunk.draws):
                num_steps = 1
            chunks.append(chunk._replace(draws=draws))
        return ForwardBatch(tuple(chunks), num_steps)

    def _blame(self, rows: list[Row], error: Exception) -> None:
        batch = self._part(rows)
        is_left = isinstance(error, MemoryError) and self._can_be_smaller(batch)
        if is_left:
            self.found_no_memory = min(batch.num_tokens, self.found_no_memory or batch.num_tokens)
        elif isinstance(error, MemoryError):
            self.needs_too_much = True
        for i, part in _by_chunk(rows):
            self.found[i].is_left |= is_left
            self.found[i].errors |= dict.fromkeys(part, described(error))


def _by_chunk(rows: list[Row]) -> list[tuple[int, list[int | None]]]:
    """Chunks with those of their draws that are among the rows."""
    return [(i, [row.draw for row in group]) for i, group in itertools.groupby(rows, key=lambda row: row.chunk)]


def _halves(rows: list[Row]) -> list[list[Row]]:
    """Of several chunks, half of them; of one, half of its draws; what cannot be halved as it is."""
    numbers = list(dict.fromkeys(row.chunk for row in rows))
    if len(numbers) > 1:
        first = set(numbers[: len(numbers) // 2])
        return [[row for row in rows if row.chunk in first], [row for row in rows if row.chunk not in first]]
    middle = len(rows) // 2
    return [rows[:middle], rows[middle:]] if middle else [rows]
