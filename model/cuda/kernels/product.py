"""The product of a tile's rows with a layer's weights, for the kernels that are a layer.

It sums over all of K, or a part of it that the layer's shape gives, in one program, in blocks of fixed width, in order, so that a
row's bits follow its own values and the tile's shape alone.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def product(
    rows: tl.tensor,
    is_row: tl.tensor,
    weight: tl.tensor,
    columns: tl.tensor,
    is_column: tl.tensor,
    K: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
) -> tl.tensor:
    """Float32 (BLOCK_M, BLOCK_N): the rows (K,) that begin at the pointers `rows` by those columns of weight.T, weight (N, K)."""
    return part_of_product(rows, is_row, weight, columns, is_column, 0, K, K, BLOCK_M, BLOCK_N, BLOCK_K)


@triton.jit
def part_of_product(
    rows: tl.tensor,
    is_row: tl.tensor,
    weight: tl.tensor,
    columns: tl.tensor,
    is_column: tl.tensor,
    first: tl.tensor,
    LENGTH: tl.constexpr,
    K: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
) -> tl.tensor:
    """The same of inputs first, first + 1, ..., LENGTH of them or as many as there are."""
    out = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for step in range(0, LENGTH, BLOCK_K):
        k = first + step + tl.arange(0, BLOCK_K)
        is_k = k < K
        values = tl.load(rows[:, None] + k[None, :], mask=is_row[:, None] & is_k[None, :], other=0.0)
        w = tl.load(weight + columns[None, :] * K + k[:, None], mask=is_column[None, :] & is_k[:, None], other=0.0)
        out = tl.dot(values, w, out, input_precision="ieee")
    return out


def product_twin(rows: Tensor, weight: Tensor) -> Tensor:
    """rows @ weight.T, float64 (R, N), row by row: PyTorch's product of several rows rounds otherwise with their number."""
    return torch.stack([weight.double() @ row.double() for row in rows])
