"""A linear layer whose output joins the residual stream: the two c_proj.

A program a tile of rows and columns. It sums over all of K itself, so that a row's bits follow the layer's shape alone.
"""

import triton
import triton.language as tl
from torch import Tensor

from model.cuda.kernels.product import product, product_twin
from model.cuda.tiles import Tiles, linear_tiles


@triton.jit(do_not_specialize=["num_rows"])  # one binary for every number of rows
def _residual(
    x: tl.tensor,
    y: tl.tensor,
    weight: tl.tensor,
    bias: tl.tensor,
    num_rows: tl.tensor,
    N: tl.constexpr,
    K: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
) -> None:
    rows = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    columns = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    is_row, is_column = rows < num_rows, columns < N
    places = x + rows[:, None] * N + columns[None, :]
    is_place = is_row[:, None] & is_column[None, :]
    # Loaded before they are needed, beside the first weights.
    before = tl.load(places, mask=is_place, other=0.0)
    shift = tl.load(bias + columns, mask=is_column, other=0.0).to(tl.float32)
    out = product(y + rows * K, is_row, weight, columns, is_column, K, BLOCK_M, BLOCK_N, BLOCK_K)
    tl.store(places, before + (out + shift[None, :]), mask=is_place)


def residual(x: Tensor, y: Tensor, weight: Tensor, bias: Tensor, tiles: Tiles | None = None) -> None:
    """x (R, N) float32 += y (R, K) @ weight.T + bias, in place; weight (N, K)."""
    N, K = weight.shape
    tiles = tiles or linear_tiles(N, weight.dtype)
    _residual[(triton.cdiv(x.shape[0], tiles.block_m), triton.cdiv(N, tiles.block_n))](
        x, y, weight, bias, x.shape[0], N=N, K=K,
        BLOCK_M=tiles.block_m, BLOCK_N=tiles.block_n, BLOCK_K=tiles.block_k,
        num_warps=tiles.num_warps, num_stages=tiles.num_stages,
    )  # fmt: skip


def residual_twin(x: Tensor, y: Tensor, weight: Tensor, bias: Tensor) -> None:
    x += product_twin(y, weight) + bias.double()
