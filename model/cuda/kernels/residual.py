"""A linear layer whose output joins the residual stream, the two c_proj, in parts that the next norm adds up.

A program a tile of rows and columns and a part of the inputs ("split-K"): the layer has so few columns that one row would keep few
of a card's multiprocessors busy. The parts follow the layer's shape alone, and so do a row's bits.
"""

import triton
import triton.language as tl
from torch import Tensor

from model.cuda.kernels.early import fetch_weights, wait_for_results
from model.cuda.kernels.product import part_of_product, product_twin
from model.cuda.tiles import Tiles, num_parts, parts_tiles


@triton.jit(do_not_specialize=["num_rows"])  # one binary for every number of rows
def _residual(
    parts: tl.tensor,
    y: tl.tensor,
    weight: tl.tensor,
    num_rows: tl.tensor,
    N: tl.constexpr,
    K: tl.constexpr,
    NUM_PARTS: tl.constexpr,
    LENGTH: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    EARLY: tl.constexpr,
) -> None:
    part = tl.program_id(2)
    rows = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    columns = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    is_row, is_column = rows < num_rows, columns < N
    fetch_weights(weight, columns, part * LENGTH, LENGTH, N, K, EARLY)
    wait_for_results(EARLY)
    out = part_of_product(
        y + rows * K, is_row, weight, columns, is_column, part * LENGTH, LENGTH, K, BLOCK_M, BLOCK_N, BLOCK_K
    )  # fmt: skip
    places = parts + (rows * NUM_PARTS + part)[:, None] * N + columns[None, :]
    tl.store(places, out, mask=is_row[:, None] & is_column[None, :])


def residual_parts(weight: Tensor) -> int:
    """How many parts the layer of this weight (N, K) is summed in."""
    return num_parts(*weight.shape, weight.dtype)


def residual(parts: Tensor, y: Tensor, weight: Tensor, tiles: Tiles | None = None, early: bool = False) -> None:
    """parts (R, S, N) float32, whose sum over S is y (R, K) @ weight.T, weight (N, K), S = residual_parts(weight)."""
    (N, K), (R, S, _) = weight.shape, parts.shape
    tiles = tiles or parts_tiles(weight.dtype)
    length = triton.cdiv(triton.cdiv(K, tiles.block_k), S) * tiles.block_k
    _residual[(triton.cdiv(R, tiles.block_m), triton.cdiv(N, tiles.block_n), S)](
        parts, y, weight, R, N=N, K=K, NUM_PARTS=S, LENGTH=length,
        BLOCK_M=tiles.block_m, BLOCK_N=tiles.block_n, BLOCK_K=tiles.block_k,
        num_warps=tiles.num_warps, num_stages=tiles.num_stages, EARLY=early, launch_pdl=early,
    )  # fmt: skip


def residual_twin(parts: Tensor, y: Tensor, weight: Tensor) -> None:
    """All of it in the first part."""
    parts.zero_()
    parts[:, 0] = product_twin(y, weight)
