"""Short words for what tests ask of a runner: a step carried out, chunks that draw after their last row or are scored."""

import ctypes
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from model.batch import (
    Chunk,
    ChunkOutput,
    Draw,
    ForwardBatch,
    Runner,
    SampledToken,
    SamplingParams,
    ScoredToken,
    Scores,
    StepOutput,
)
from model.native.library import DRAW, NativeInput, load_library
from model.native.packing import PackedBatch

UNIFORM = 13  # its place among the values of DRAW


def execute(runner: Runner, *chunks: Chunk) -> StepOutput:
    return runner.launch(ForwardBatch(chunks)).collect()


def drawing(slot: int, start: int, token_ids: Sequence[int], params: SamplingParams | None = None, **more: object) -> Chunk:
    """A chunk with one draw after its last row, greedy unless told."""
    return Chunk(slot, start, tuple(token_ids), (Draw(len(token_ids) - 1, params or SamplingParams(), **more),))


def scored(slot: int, start: int, token_ids: Sequence[int], next_ids: Sequence[int], top_n: int = 0) -> Chunk:
    """A chunk of which the token after each row is scored."""
    return Chunk(slot, start, tuple(token_ids), scores=Scores(0, tuple(next_ids), top_n))


def drawn(output: StepOutput) -> list[SampledToken]:
    """The one token of every draw, chunk by chunk; none of them has failed."""
    assert [out.error for out in output.chunks] == [None] * len(output.chunks)
    return [token for out in output.chunks for (token,) in out.tokens]


def token_bits(token: SampledToken) -> tuple[int, str]:
    return token.token_id, token.logprob.hex()


def bits(tokens: Sequence[SampledToken]) -> list[tuple[int, str]]:
    return [token_bits(token) for token in tokens]


def logprobs(output: StepOutput) -> list[str]:
    """Of every scored token, to the bit."""
    return [score.logprob.hex() for out in output.chunks for score in out.scores]


def top_bits(token: SampledToken | ScoredToken) -> list[tuple[int, str]]:
    return [(token_id, logprob.hex()) for token_id, logprob in token.top]


def packed_draw(packed: PackedBatch) -> tuple[float, ...]:
    """The values of a batch's first gpt2_draw."""
    address = ctypes.c_void_p.from_buffer(packed.input, NativeInput.draws.offset).value
    assert address is not None
    return DRAW.unpack(ctypes.string_at(address, DRAW.size))


def sample(
    logits: NDArray[np.float32], history: Sequence[int], draw: Draw, kernels: str | None = None, uniform: float | None = None
) -> ChunkOutput:
    """The sampler by itself, on some kernels or the fastest: a draw from logits (V) after these tokens.

    At `uniform` in place of that of the draw's seed and position.
    """
    packed = PackedBatch(ForwardBatch((Chunk(0, 0, tuple(history), (draw,)),)), len(logits))
    if uniform is not None:
        values = list(packed_draw(packed))
        values[UNIFORM] = uniform
        packed.input.draws = DRAW.pack(*values)
    name = None if kernels is None else kernels.encode()
    assert load_library().gpt2_sample(name, logits.ctypes.data, len(logits), packed.input, packed.output) == 0
    (out,) = packed.answers().chunks
    return out
