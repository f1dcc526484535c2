"""A batch as the C interface takes it, and its answers as values of the border. Knows no model and computes nothing.

All of it holds the interpreter's lock, in every step: one pass over the chunks, plain structs, no loop over tokens.
"""

import ctypes
import struct
from array import array
from collections.abc import Iterator
from itertools import islice

from model.batch import (
    NOT_FINITE,
    NOTHING_TO_DRAW,
    Chunk,
    ChunkOutput,
    Draw,
    ForwardBatch,
    SampledToken,
    ScoredToken,
    Scores,
    StepOutput,
    TokenMask,
)
from model.native.library import BIAS, CHUNK, DRAW, TOKEN, ErrorCode, NativeInput, NativeOutput
from model.philox import uniform

MAX_TOP_K = 2**31 - 1  # more than any vocabulary; a client may send any number
# Greedy, after the first row of its chunk, and nothing else asked for.
PLAIN = DRAW.pack(0, 1, 0, 0, 0, -1, 0.0, 1.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0, 0, 0, 0)
ERRORS: dict[int, str] = {ErrorCode.NOT_FINITE: NOT_FINITE, ErrorCode.NOTHING_TO_DRAW: NOTHING_TO_DRAW}

_Tokens = Iterator[tuple[int, float]]


class PackedBatch:
    """A batch as gpt2_step_input, and room for the gpt2_step_output that answers it.

    Raises IndexError for numbers that C's integers do not hold, and for a mask that is not the vocabulary's.
    """

    def __init__(self, batch: ForwardBatch, vocab_size: int) -> None:
        self._batch, self._vocab_size = batch, vocab_size
        self._biases: list[bytes] = []
        self._banned: list[int] = []
        self._masks: dict[TokenMask, int] = {}
        self._num_tops = 0
        try:
            self.input = self._pack()
        except (OverflowError, struct.error) as error:
            raise IndexError(f"a number in the batch is out of range: {error}") from error
        # One piece of memory for all answers, each array after those whose values are as large or larger.
        num_chunks, num_draws, num_scored = self.input.num_chunks, self.input.num_draws, self.input.num_scored
        self._tops_at = TOKEN.size * num_draws
        self._logprobs_at = self._tops_at + TOKEN.size * self._num_tops
        self._errors_at = self._logprobs_at + 8 * num_scored
        self._room = bytearray(self._errors_at + 4 * max(num_chunks, 1))  # a ctypes array would be a new type for each length
        base = ctypes.addressof(ctypes.c_char.from_buffer(self._room))
        self.output = NativeOutput(
            base + self._errors_at, base, base + self._logprobs_at, base + self._tops_at,
            num_chunks, num_draws, num_scored, self._num_tops,
        )  # fmt: skip

    def answers(self) -> StepOutput:
        """What has been written into `output`."""
        written, chunks = self._room, self._batch.chunks
        tokens = TOKEN.iter_unpack(written[: self._tops_at])
        errors = struct.unpack_from(f"={len(chunks)}i", written, self._errors_at)
        if self._is_simple and not any(errors):
            return StepOutput(tuple([ChunkOutput(((SampledToken(token_id, logprob),),)) for token_id, logprob in tokens]))
        tops = TOKEN.iter_unpack(written[self._tops_at : self._logprobs_at])
        logprobs = iter(struct.unpack_from(f"={self.input.num_scored}d", written, self._logprobs_at))
        read = [self._read(chunk, tokens, logprobs, tops) for chunk in chunks]
        outputs = (ChunkOutput(error=ERRORS[error]) if error else out for out, error in zip(read, errors, strict=True))
        return StepOutput(tuple(outputs))

    @property
    def _is_simple(self) -> bool:
        """As most steps are: of each chunk one token, and nothing else."""
        return self._tops_at == self._errors_at and all(len(chunk.draws) == 1 for chunk in self._batch.chunks)

    def _read(self, chunk: Chunk, tokens: _Tokens, logprobs: Iterator[float], tops: _Tokens) -> ChunkOutput:
        """The chunk's part of each array."""
        drawn = [(SampledToken(*next(tokens), tuple(islice(tops, self._num_top(draw.top_n)))),) for draw in chunk.draws]
        scored: list[ScoredToken] = []
        if chunk.scores is not None:
            num_top = self._num_top(chunk.scores.top_n)
            of_chunk = islice(logprobs, len(chunk.scores.token_ids))
            scored = [ScoredToken(logprob, tuple(islice(tops, num_top))) for logprob in of_chunk]
        return ChunkOutput(tuple(drawn), tuple(scored))

    def _num_top(self, wanted: int) -> int:
        if wanted < 0:
            raise IndexError(f"a number of likeliest tokens {wanted} is out of range")
        return min(wanted, self._vocab_size)

    def _pack(self) -> NativeInput:
        chunks: list[bytes] = []
        token_ids: list[int] = []
        draws: list[bytes] = []
        scored_ids: list[int] = []
        for chunk in self._batch.chunks:
            ids, scores = chunk.token_ids, chunk.scores
            first_scored, num_scored, num_top = (0, 0, 0) if scores is None else self._scores(scores, scored_ids)
            token_ids += ids
            chunks.append(CHUNK.pack(chunk.slot, chunk.start, len(ids), len(chunk.draws), first_scored, num_scored, num_top))
            for draw in chunk.draws:
                draws.append(self._draw(draw, chunk.start + draw.row + 1))
        masks = b"".join([mask.bits for mask in self._masks])
        return NativeInput(
            b"".join(chunks), _ints(token_ids), b"".join(draws), _ints(scored_ids), b"".join(self._biases), _ints(self._banned),
            masks, len(chunks), len(token_ids), len(draws), len(scored_ids), len(self._biases), len(self._banned), len(masks),
        )  # fmt: skip

    def _scores(self, scores: Scores, scored_ids: list[int]) -> tuple[int, int, int]:
        """What a gpt2_chunk says of them."""
        num_scored, num_top = len(scores.token_ids), self._num_top(scores.top_n)
        scored_ids += scores.token_ids
        self._num_tops += num_scored * num_top
        return scores.first_row, num_scored, num_top

    def _draw(self, draw: Draw, position: int) -> bytes:
        """A gpt2_draw of the token that comes to `position`."""
        p = draw.params
        is_plain = p.greedy and not (draw.mask or draw.banned_ids or p.logit_bias or p.penalises)
        if is_plain and not (draw.row or draw.top_n):
            return PLAIN
        num_top = self._num_top(draw.top_n)
        self._num_tops += num_top
        bias, banned = len(self._biases), len(self._banned)
        self._biases += [BIAS.pack(token_id, value) for token_id, value in p.logit_bias]
        self._banned += draw.banned_ids
        return DRAW.pack(
            draw.row, is_plain, num_top, min(p.top_k, MAX_TOP_K), draw.num_prompt, self._mask(draw.mask),
            p.temperature, p.top_p, p.min_p, p.typical_p, p.repetition_penalty, p.frequency_penalty, p.presence_penalty,
            0.0 if p.greedy else uniform(p.seed, position), bias, len(self._biases), banned, len(self._banned),
        )  # fmt: skip

    def _mask(self, mask: TokenMask | None) -> int:
        """Its place among the step's masks, where equal ones are one."""
        if mask is None:
            return -1
        num_bytes = -(-self._vocab_size // 8)
        if len(mask.bits) != num_bytes:
            raise IndexError(f"a mask of {len(mask.bits)} bytes is out of range: {self._vocab_size} tokens need {num_bytes}")
        return self._masks.setdefault(mask, len(self._masks))


def _ints(values: list[int]) -> bytes:
    return array("i", values).tobytes() if values else b""
