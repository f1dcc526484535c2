"""A token's and its position's embedding, added in float32, and the token's entry into its slot's history.

A program a row: nothing is summed but the two.
"""

import triton
import triton.language as tl
from torch import Tensor

from model.cuda.kernels.early import wait_for_results


# One binary for every number of rows, of which the alignment depends.
@triton.jit(do_not_specialize_on_alignment=["token_ids", "positions", "slots"])
def _embed(
    x: tl.tensor,
    history: tl.tensor,
    token_ids: tl.tensor,
    positions: tl.tensor,
    slots: tl.tensor,
    wte: tl.tensor,
    wpe: tl.tensor,
    C: tl.constexpr,
    HISTORY: tl.constexpr,
    BLOCK: tl.constexpr,
    EARLY: tl.constexpr,
) -> None:
    wait_for_results(EARLY)
    row = tl.program_id(0)
    token_id = tl.load(token_ids + row)
    position = tl.load(positions + row)
    tl.store(history + tl.load(slots + row).to(tl.int64) * HISTORY + position, token_id.to(tl.int64))
    c = tl.arange(0, BLOCK)
    token = tl.load(wte + token_id * C + c, mask=c < C, other=0.0).to(tl.float32)
    place = tl.load(wpe + position * C + c, mask=c < C, other=0.0).to(tl.float32)
    tl.store(x + row * C + c, token + place, mask=c < C)


def embed(
    x: Tensor, history: Tensor, token_ids: Tensor, positions: Tensor, slots: Tensor, wte: Tensor, wpe: Tensor, early: bool = False
) -> None:
    """x (R, C) float32 = wte[token] + wpe[position], history (S + 1, n_positions) int64 [slot, position] = token, each of (R,)."""
    R, C = x.shape
    _embed[(R,)](
        x, history, token_ids, positions, slots, wte, wpe, C=C, HISTORY=history.shape[1],
        BLOCK=triton.next_power_of_2(C), num_warps=4, EARLY=early, launch_pdl=early,
    )  # fmt: skip


def embed_twin(x: Tensor, history: Tensor, token_ids: Tensor, positions: Tensor, slots: Tensor, wte: Tensor, wpe: Tensor) -> None:
    x.copy_(wte[token_ids].float() + wpe[positions].float())
    history[slots, positions] = token_ids.long()
