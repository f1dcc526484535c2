"""The log-sum-exp of each row of logits from what the head left of its tiles: what every log-probability is made with.

One program a draw, over all tiles at once: the order depends on the vocabulary's size alone.
"""

import triton
import triton.language as tl
from torch import Tensor

from model.cuda.kernels.early import wait_for_results


@triton.jit
def _log_sums(
    log_sums: tl.tensor, maxima: tl.tensor, sums: tl.tensor, NUM_TILES: tl.constexpr, TILES: tl.constexpr, EARLY: tl.constexpr
) -> None:
    wait_for_results(EARLY)
    draw = tl.program_id(0).to(tl.int64)
    tile = tl.arange(0, TILES)
    tile_maxima = tl.load(maxima + draw * NUM_TILES + tile, mask=tile < NUM_TILES, other=-float("inf")).to(tl.float64)
    tile_sums = tl.load(sums + draw * NUM_TILES + tile, mask=tile < NUM_TILES, other=0.0).to(tl.float64)
    # A maximum may leave a NaN out; the sum of its tile has it.
    largest = tl.max(tl.where(tile_maxima == tile_maxima, tile_maxima, -float("inf")), 0)
    tl.store(log_sums + draw, largest + tl.log(tl.sum(tile_sums * tl.exp(tile_maxima - largest), 0)))


def log_sums(log_sums: Tensor, maxima: Tensor, sums: Tensor, early: bool = False) -> None:
    """log_sums (B,) float64 of the head's maxima and sums (B, NT) float32; NaN where a logit is no number or infinite."""
    num_draws, num_tiles = maxima.shape
    _log_sums[(num_draws,)](
        log_sums, maxima, sums, NUM_TILES=num_tiles, TILES=triton.next_power_of_2(num_tiles), num_warps=4,
        EARLY=early, launch_pdl=early,
    )  # fmt: skip


def log_sums_twin(log_sums: Tensor, maxima: Tensor, sums: Tensor) -> None:
    log_sums.copy_((maxima.double() + sums.double().log()).logsumexp(dim=-1))


def log_probabilities(logits: Tensor, log_sums: Tensor) -> Tensor:
    """float32 (B, V), the bits that the kernels tell of a drawn token, of logits (B, V) and their log_sums (B,)."""
    return (logits.double() - log_sums[:, None]).float()
