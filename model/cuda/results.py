"""What comes back of a launch, from the device's tensors to the border's values."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

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
        token_ids, statuses = values[:, 0].T.tolist(), values[:, 2].T.tolist()
        logprobs = np.ascontiguousarray(values[:, 1]).view(np.float32).T.tolist()
        sampled = self.download[0] if self.download else []
        for i, wanted in enumerate(self.draws):
            if (place := self.by_sampler.get(i)) is not None:
                _take_sampled(chunks[wanted.chunk], wanted, sampled[place])
            else:
                _take_steps(chunks[wanted.chunk], wanted, token_ids[i], logprobs[i], statuses[i])


def _take_steps(chunk: Gathered, wanted: WantedDraw, token_ids: list[int], logprobs: list[float], statuses: list[int]) -> None:
    num = statuses.count(Status.DRAWN)
    chunk.tokens[wanted.number] = tuple(map(SampledToken, token_ids[:num], logprobs[:num]))
    chunk.is_finite &= Status.NOT_FINITE not in statuses
    chunk.is_left &= Status.NOTHING_LEFT not in statuses


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
