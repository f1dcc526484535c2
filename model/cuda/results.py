"""What comes back of a launch, from the device's tensors to the border's values."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import repeat

import numpy as np
from numpy.typing import NDArray

from model.batch import (
    NOT_FINITE,
    NOTHING_TO_DRAW,
    Chunk,
    ChunkOutput,
    SampledToken,
    ScoredToken,
    StepOutput,
)
from model.cuda.plan import WantedDraw, WantedScore
from model.cuda.records import Status
from model.device_errors import translated_errors
from model.download import Arriving, Download
from model.top import to_top

_new_tuple = tuple.__new__  # makes a named tuple of values in order in a quarter of the time that its own constructor takes


@dataclass(slots=True)
class Gathered:
    """A chunk's output as far as it has come."""

    tokens: dict[int, tuple[SampledToken, ...]] = field(default_factory=dict)  # by the draw's number
    scores: list[ScoredToken] = field(default_factory=list)
    is_finite: bool = True
    is_left: bool = True  # something that could be drawn

    def output(self) -> ChunkOutput:
        if not self.is_finite:
            return ChunkOutput(error=NOT_FINITE)
        if not self.is_left:
            return ChunkOutput(error=NOTHING_TO_DRAW)
        return ChunkOutput(tuple(self.tokens[i] for i in range(len(self.tokens))), tuple(self.scores))


@dataclass(slots=True)
class DrawnBlock:
    """Draws whose records went to the device together, and those among them that the sampler drew, `places` in their download."""

    draws: Sequence[WantedDraw]
    output: Arriving
    by_sampler: dict[int, int]  # which of the draws: its row in the download
    download: Download | None

    def gather(self, chunks: Sequence[Gathered]) -> None:
        values = self.output.read().numpy()  # (steps, 3, B)
        token_ids, statuses = values[:, 0].T.tolist(), values[:, 2].T
        logprobs = np.ascontiguousarray(values[:, 1]).view(np.float32).T.tolist()
        nums = (statuses == Status.DRAWN).sum(axis=1).tolist()
        sampled = self.download[0] if self.download else []
        for wanted, ids, values_of_ids, num in zip(self.draws, token_ids, logprobs, nums, strict=False):  # padded
            drawn = zip(ids[:num], values_of_ids, repeat(()), strict=False)
            chunks[wanted.chunk].tokens[wanted.number] = tuple(map(_new_tuple, repeat(SampledToken), drawn))
        self._note_errors(chunks, statuses)
        for i, place in self.by_sampler.items():
            _take_sampled(chunks[self.draws[i].chunk], self.draws[i], sampled[place])

    def _note_errors(self, chunks: Sequence[Gathered], statuses: NDArray[np.int32]) -> None:
        """Of the draws' statuses (B, steps)."""
        for i in np.flatnonzero((statuses == Status.NOT_FINITE).any(axis=1)).tolist():
            chunks[self.draws[i].chunk].is_finite = False
        for i in np.flatnonzero((statuses == Status.NOTHING_LEFT).any(axis=1)).tolist():
            chunks[self.draws[i].chunk].is_left = False


def _take_sampled(chunk: Gathered, wanted: WantedDraw, row: list[float]) -> None:
    token_id, logprob, nothing_left, *top = row
    chunk.tokens[wanted.number] = (SampledToken(int(token_id), logprob, to_top(top, wanted.draw.top_n)),)
    chunk.is_left &= not nothing_left
    chunk.is_finite &= bool(nothing_left) or math.isfinite(logprob)


@dataclass(slots=True)
class ScoredBlock:
    """Scores that were computed together."""

    scores: Sequence[WantedScore]
    download: Download

    def gather(self, chunks: Sequence[Gathered]) -> None:
        for wanted, (logprob, *top) in zip(self.scores, self.download[0], strict=False):  # padded
            chunks[wanted.chunk].scores.append(ScoredToken(logprob, to_top(top, wanted.top_n)))
            chunks[wanted.chunk].is_finite &= math.isfinite(logprob)


@dataclass(slots=True)
class CheckedEnds:
    """Whether the last rows of some chunks are numbers."""

    ends: Sequence[tuple[int, int]]
    download: Download

    def gather(self, chunks: Sequence[Gathered]) -> None:
        for (number, _), (is_finite,) in zip(self.ends, self.download[0], strict=True):
            chunks[number].is_finite &= bool(is_finite)


@dataclass(slots=True)
class UnderWay:
    """A launch whose results are on their way."""

    chunks: Sequence[Chunk]
    parts: list[DrawnBlock | ScoredBlock | CheckedEnds]

    def collect(self) -> StepOutput:
        gathered = [Gathered() for _ in self.chunks]
        with translated_errors():
            for part in self.parts:
                part.gather(gathered)
        return StepOutput(tuple(chunk.output() for chunk in gathered))
