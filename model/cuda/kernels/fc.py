"""The MLP's first half: c_fc and GELU.

A program a tile of rows and columns. It sums over all of K itself, so that a row's bits follow the layer's shape alone.
"""

import math

import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from model.cuda.kernels.early import fetch_weights, wait_for_results
from model.cuda.kernels.product import product, product_twin
from model.cuda.tiles import Tiles, linear_tiles

TWO_SQRT_2_OVER_PI = tl.constexpr(2 * math.sqrt(2 / math.pi))


@triton.jit
def _gelu_tanh(a: tl.tensor) -> tl.tensor:
    """GELU's tanh form (Hendrycks and Gimpel 2016, section 2), 0.5 a (1 + tanh z), as a sigmoid(2 z): it cancels nowhere."""
    return a / (1.0 + tl.exp((a + 0.044715 * a * a * a) * -TWO_SQRT_2_OVER_PI))


@triton.jit(do_not_specialize=["num_rows"])  # one binary for every number of rows
def _fc(
    u: tl.tensor,
    h: tl.tensor,
    weight: tl.tensor,
    bias: tl.tensor,
    num_rows: tl.tensor,
    N: tl.constexpr,
    K: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    EARLY: tl.constexpr,
) -> None:
    rows = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    columns = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    is_row, is_column = rows < num_rows, columns < N
    shift = tl.load(bias + columns, mask=is_column, other=0.0).to(tl.float32)
    fetch_weights(weight, columns, 0, K, N, K, EARLY)
    wait_for_results(EARLY)
    out = product(h + rows * K, is_row, weight, columns, is_column, K, BLOCK_M, BLOCK_N, BLOCK_K)
    out = _gelu_tanh(out + shift[None, :]).to(u.dtype.element_ty)
    tl.store(u + rows[:, None] * N + columns[None, :], out, mask=is_row[:, None] & is_column[None, :])


def fc(u: Tensor, h: Tensor, weight: Tensor, bias: Tensor, tiles: Tiles | None = None, early: bool = False) -> None:
    """u (R, F) = GELU(h @ weight.T + bias), h (R, C), weight (F, C)."""
    N, K = weight.shape
    tiles = tiles or linear_tiles(N, weight.dtype)
    _fc[(triton.cdiv(h.shape[0], tiles.block_m), triton.cdiv(N, tiles.block_n))](
        u, h, weight, bias, h.shape[0], N=N, K=K,
        BLOCK_M=tiles.block_m, BLOCK_N=tiles.block_n, BLOCK_K=tiles.block_k,
        num_warps=tiles.num_warps, num_stages=tiles.num_stages, EARLY=early, launch_pdl=early,
    )  # fmt: skip


def fc_twin(u: Tensor, h: Tensor, weight: Tensor, bias: Tensor) -> None:
    out = product_twin(h, weight) + bias.double()  # (R, F)
    u.copy_(F.gelu(out, approximate="tanh"))
