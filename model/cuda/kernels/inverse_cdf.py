"""Inverse transform sampling as the kernels do it: `model.philox.uniform` and `model.sampler._inverse_cdf`, by parts.

The first token whose cumulative weight exceeds the uniform number times the total: first its part, then the token within it. All is
added up in orders that depend on the vocabulary's size alone.
"""

import triton
import triton.language as tl

TO_FRACTION = tl.constexpr(2.0**-53)


@triton.jit
def uniform_number(seed: tl.tensor, position: tl.tensor) -> tl.tensor:
    """`model.philox.uniform`: a number in [0, 1) of 53 random bits."""
    nought = tl.full((), 0, tl.uint32)
    high, low, _, _ = tl.philox(seed.to(tl.uint64), position.to(tl.uint32), nought, nought, nought)
    return ((high.to(tl.int64) << 21) | (low.to(tl.int64) >> 11)).to(tl.float64) * TO_FRACTION


@triton.jit
def first_beyond(weights: tl.tensor, before: tl.tensor, target: tl.tensor) -> tl.tensor:
    """The first index at which `before` and the weights up to there (N,) exceed the target, never one of weight 0.

    Where rounding leaves none, the last of any weight.
    """
    index = tl.arange(0, weights.shape[0])
    beyond = (weights > 0) & (before + tl.cumsum(weights, 0) > target)
    first = tl.min(tl.where(beyond, index, weights.shape[0]), 0)
    return tl.where(first < weights.shape[0], first, tl.max(tl.where(weights > 0, index, 0), 0))


@triton.jit
def draw_token(
    logits: tl.tensor,
    maxima: tl.tensor,
    sums: tl.tensor,
    largest: tl.tensor,
    uniform: tl.tensor,
    temperature: tl.tensor,
    V: tl.constexpr,
    PART: tl.constexpr,
) -> tl.tensor:
    """Inverse transform sampling: `maxima` and `sums` (N,) of the row's parts, `largest` the greatest of the maxima."""
    part_index = tl.arange(0, sums.shape[0])
    weights = tl.where(sums > 0, sums * tl.exp((maxima.to(tl.float64) - largest) / temperature), 0.0)
    total = tl.sum(weights, 0)
    # Rounding must not carry the target up to the total, beyond which there is no token.
    below = (total.to(tl.int64, bitcast=True) - 1).to(tl.float64, bitcast=True)
    target = tl.minimum(uniform * total, below)
    part = first_beyond(weights, 0.0, target)
    before = tl.sum(tl.where(part_index < part, weights, 0.0), 0)
    ids = part * PART + tl.arange(0, PART)
    values = tl.load(logits + ids, mask=ids < V, other=-float("inf"))
    return part * PART + first_beyond(tl.exp((values.to(tl.float64) - largest) / temperature), before, target)
