"""Queries, keys and values of a pass's rows, c_attn; keys and values go straight into the cache.

A program a tile of rows and columns. It sums over all of K itself, so that a row's bits follow the layer's shape alone.
"""

import triton
import triton.language as tl
from torch import Tensor

from model.cuda.kernels.early import fetch_weights, wait_for_results
from model.cuda.kernels.product import product, product_twin
from model.cuda.tiles import Tiles, linear_tiles


# One binary for every number of rows.
@triton.jit(do_not_specialize=["num_rows"], do_not_specialize_on_alignment=["positions", "slots"])
def _qkv(
    q: tl.tensor,
    keys: tl.tensor,
    values: tl.tensor,
    h: tl.tensor,
    positions: tl.tensor,
    slots: tl.tensor,
    weight: tl.tensor,
    bias: tl.tensor,
    num_rows: tl.tensor,
    H: tl.constexpr,
    P: tl.constexpr,
    D: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    EARLY: tl.constexpr,
) -> None:
    C: tl.constexpr = H * D
    rows = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    columns = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    is_row, is_column = rows < num_rows, columns < 3 * C
    slot = tl.load(slots + rows, mask=is_row, other=0).to(tl.int64)
    position = tl.load(positions + rows, mask=is_row, other=0)
    shift = tl.load(bias + columns, mask=is_column, other=0.0).to(tl.float32)
    fetch_weights(weight, columns, 0, C, 3 * C, C, EARLY)
    wait_for_results(EARLY)
    out = product(h + rows * C, is_row, weight, columns, is_column, C, BLOCK_M, BLOCK_N, BLOCK_K)
    out = (out + shift[None, :]).to(q.dtype.element_ty)

    which, c = columns // C, columns % C  # of q, k and v; and the column within
    place = (slot * (H * P * D) + position * D)[:, None] + ((c // D) * (P * D) + c % D)[None, :]
    tl.store(q + rows[:, None] * C + c[None, :], out, mask=is_row[:, None] & (which == 0)[None, :])
    tl.store(keys + place, out, mask=is_row[:, None] & (which == 1)[None, :])
    tl.store(values + place, out, mask=is_row[:, None] & (which == 2)[None, :])


def qkv(
    q: Tensor,
    cache: Tensor,
    h: Tensor,
    positions: Tensor,
    slots: Tensor,
    weight: Tensor,
    bias: Tensor,
    tiles: Tiles | None = None,
    early: bool = False,
) -> None:
    """Of h @ weight.T + bias, h (R, C), weight (3 C, C): q (R, C), and k and v into one layer's cache.

    cache (2, S + 1, H, P, D) takes row r's keys and values at (slots[r], positions[r]).
    """
    tiles = tiles or linear_tiles(weight.shape[0], weight.dtype)
    keys, values = cache.unbind(0)
    _, H, P, D = keys.shape
    grid = (triton.cdiv(h.shape[0], tiles.block_m), triton.cdiv(weight.shape[0], tiles.block_n))
    _qkv[grid](
        q, keys, values, h, positions, slots, weight, bias, h.shape[0], H=H, P=P, D=D,
        BLOCK_M=tiles.block_m, BLOCK_N=tiles.block_n, BLOCK_K=tiles.block_k,
        num_warps=tiles.num_warps, num_stages=tiles.num_stages, EARLY=early, launch_pdl=early,
    )  # fmt: skip


def qkv_twin(q: Tensor, cache: Tensor, h: Tensor, positions: Tensor, slots: Tensor, weight: Tensor, bias: Tensor) -> None:
    H, D = cache.shape[2], cache.shape[4]
    out = product_twin(h, weight) + bias.double()  # (R, 3 C)
    new_q, k, v = out.to(q.dtype).chunk(3, dim=-1)  # 3 x (R, C)
    q.copy_(new_q)
    cache[0, slots, :, positions] = k.view(-1, H, D)
    cache[1, slots, :, positions] = v.view(-1, H, D)
