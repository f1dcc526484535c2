"""Random layers and rows for the tests of the network's kernels, and each kernel run on them, its outputs blank before."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from model.cuda.kernels.attention import attention
from model.cuda.kernels.fc import fc
from model.cuda.kernels.head import head
from model.cuda.kernels.norm import norm, norm_twin
from model.cuda.kernels.qkv import qkv
from model.cuda.kernels.residual import residual, residual_parts, residual_twin
from model.cuda.records import SIZE, Field
from model.cuda.tiles import HEAD_TILE, QUERY_TILE
from tests.model.cuda.conftest import DEVICE

# Of a row's norm. A card adds float32 in one sequence of fused multiply-adds: attention over heads of 128 comes to 1.7e-6.
TOLERANCE = {torch.float32: 5e-6, torch.bfloat16: 2e-2, torch.float16: 2e-3}
SLOTS, POSITIONS, EPS = 5, 160, 1e-5
CANARY = 123.0


def randn(*shape: int, seed: int = 0, scale: float = 1.0, dtype: torch.dtype = torch.float32) -> Tensor:
    return (torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * scale).to(DEVICE, dtype)


def ints(values: Sequence[int], dtype: torch.dtype = torch.int32) -> Tensor:
    return torch.tensor(values, dtype=dtype, device=DEVICE)


def rows_of(num_rows: int, width: int, seed: int = 0) -> Tensor:
    """A residual stream as GPT-2's: a few channels are far larger than the others."""
    x = randn(num_rows, width, seed=seed)
    x[:, 5], x[:, 40 % width] = x[:, 5] * 100 + 1e4, -3e3
    return x


class Norm:
    def __init__(self, width: int) -> None:
        self.weight, self.bias = randn(width, seed=1), randn(width, seed=2)

    def __call__(self, x: Tensor) -> Tensor:
        return F.layer_norm(x.double(), x.shape[-1:], self.weight.double(), self.bias.double(), EPS)


class Linear:
    def __init__(self, out: int, into: int, dtype: torch.dtype) -> None:
        self.weight, self.bias = randn(out, into, seed=3, scale=0.2, dtype=dtype), randn(out, seed=4, dtype=dtype)

    def __call__(self, x: Tensor) -> Tensor:
        return x.double() @ self.weight.double().T + self.bias.double()


def blank(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """An output with a row too many, which has to stay as it is."""
    out = torch.full((shape[0] + 1, *shape[1:]), torch.nan, dtype=dtype, device=DEVICE)
    out[-1] = CANARY
    return out


def assert_close(out: Tensor, expected: Tensor, dtype: torch.dtype) -> None:
    """Row by row; `out` comes with its canary."""
    assert (out[-1] == CANARY).all()
    error = (out[:-1].double() - expected).norm(dim=-1)
    assert (error <= TOLERANCE[dtype] * expected.norm(dim=-1)).all(), (error / expected.norm(dim=-1)).max()


def records(rows: Sequence[int]) -> Tensor:
    draws = torch.zeros(len(rows), SIZE, dtype=torch.int64, device=DEVICE)
    draws[:, Field.ROW] = ints(rows)
    return draws


def poisoned_cache(num_heads: int, head_dim: int, dtype: torch.dtype) -> Tensor:
    return torch.full((2, SLOTS + 1, num_heads, POSITIONS, head_dim), torch.nan, dtype=dtype, device=DEVICE)


def run_norm(x: Tensor, layer: Norm, dtype: torch.dtype, function: Callable[..., None] = norm) -> Tensor:
    """With nothing that joins the rows."""
    h = blank(*x.shape, dtype=dtype)
    function(h[:-1], x, None, None, layer.weight, layer.bias, EPS)
    return h


def run_qkv(
    h: Tensor, cache: Tensor, positions: Tensor, slots: Tensor, layer: Linear, function: Callable[..., None] = qkv
) -> Tensor:
    q = blank(*h.shape, dtype=cache.dtype)
    function(q[:-1], cache, h, positions, slots, layer.weight, layer.bias)
    return q


def run_fc(h: Tensor, layer: Linear, function: Callable[..., None] = fc) -> Tensor:
    u = blank(len(h), len(layer.weight), dtype=layer.weight.dtype)
    function(u[:-1], h, layer.weight, layer.bias)
    return u


def run_residual(x: Tensor, y: Tensor, layer: Linear, is_twin: bool = False) -> tuple[Tensor, Tensor]:
    """x with the layer's output, which the next norm adds to it, and x normalised."""
    num, width, num_parts = *x.shape, residual_parts(layer.weight)
    out, parts, h = blank(num, width), blank(num, num_parts, width), blank(num, width)
    out[:-1] = x
    project, add = (residual_twin, norm_twin) if is_twin else (residual, norm)
    project(parts[:-1], y, layer.weight)
    add(h[:-1], out[:-1], parts[:-1], layer.bias, torch.ones_like(x[0]), torch.zeros_like(x[0]), EPS)
    assert (parts[-1] == CANARY).all()
    return out, h


def run_head(h: Tensor, rows: Sequence[int], layer: Linear, function: Callable[..., None] = head) -> tuple[Tensor, Tensor, Tensor]:
    vocab = len(layer.weight)
    logits, maxima, sums = blank(len(rows), vocab), *(blank(len(rows), -(-vocab // HEAD_TILE)) for _ in range(2))
    function(logits[:-1], maxima[:-1], sums[:-1], h, records(rows), layer.weight)
    return logits, maxima, sums


def run_attention(
    q: Tensor,
    cache: Tensor,
    positions: Tensor,
    slots: Tensor,
    tiles: Sequence[tuple[int, int]],
    function: Callable[..., None] = attention,
) -> Tensor:
    y = blank(*q.shape, dtype=q.dtype)
    first, sizes = zip(*tiles, strict=True)
    function(y[:-1], q, cache, positions, slots, ints(first), ints(sizes))
    return y


def tiles_of(first: int, num_rows: int, size: int = QUERY_TILE) -> list[tuple[int, int]]:
    return [(row, min(size, first + num_rows - row)) for row in range(first, first + num_rows, size)]
