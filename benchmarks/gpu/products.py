"""A step's matrix products as benchmarks.gpu.tax runs them: our kernels on random tensors of its shapes, with any tiles."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from model.config import GPT2Config
from model.cuda.kernels.fc import fc
from model.cuda.kernels.head import head
from model.cuda.kernels.qkv import qkv
from model.cuda.kernels.residual import residual, residual_parts
from model.cuda.records import SIZE, Field
from model.cuda.tiles import Tiles, head_tiles, linear_tiles, parts_tiles

NUM_HEADS_WEIGHTS = 2  # copies of the output head's weights by turns: together they are larger than an H200's L2 cache, 60 MB


class Product(NamedTuple):
    """`launch(tiles, i)` runs the kernel on the i-th of `num_weights` weights; a step has `num_launches` such launches."""

    name: str
    fixed: Tiles
    num_weights: int
    num_launches: int
    launch: Callable[[Tiles, int], None]


def products(config: GPT2Config, rows: int, dtype: torch.dtype, device: torch.device) -> list[Product]:
    """Layers have weights of their own, so that they come from the card's memory as in a step, not out of its cache."""
    draw = torch.Generator(device).manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw, device=device).to(dtype)

    C, F, num_layers = config.n_embd, config.inner_size, config.n_layer
    h, y, u = random(rows, C), random(rows, C), random(rows, F)
    # Each row a slot of its own, at positions that a cache of 32 holds.
    slots, positions = (torch.arange(rows, dtype=torch.int32, device=device) for _ in range(2))
    positions %= 32
    cache = torch.empty(2, rows + 1, config.n_head, 32, config.head_dim, dtype=dtype, device=device)
    c_attn, c_fc = random(num_layers, 3 * C, C), random(num_layers, F, C)
    attn_proj, mlp_proj = random(num_layers, C, C), random(num_layers, C, F)
    biases = random(max(3 * C, F))

    def run_qkv(tiles: Tiles, i: int) -> None:
        qkv(y, cache, h, positions, slots, c_attn[i], biases[: 3 * C], tiles)

    def run_fc(tiles: Tiles, i: int) -> None:
        fc(u, h, c_fc[i], biases[:F], tiles)

    def proj(weight: Tensor, of: Tensor) -> Callable[[Tiles, int], None]:
        parts = torch.empty(rows, residual_parts(weight[0]), C, device=device)
        return lambda tiles, i: residual(parts, of, weight[i], tiles)

    return [
        Product("attn.c_attn", linear_tiles(3 * C, dtype), num_layers, num_layers, run_qkv),
        Product("attn.c_proj", parts_tiles(dtype), num_layers, num_layers, proj(attn_proj, y)),
        Product("mlp.c_fc", linear_tiles(F, dtype), num_layers, num_layers, run_fc),
        Product("mlp.c_proj", parts_tiles(dtype), num_layers, num_layers, proj(mlp_proj, u)),
        _head(config, h, random(NUM_HEADS_WEIGHTS, config.vocab_size, C)),
    ]


def _head(config: GPT2Config, h: Tensor, weights: Tensor) -> Product:
    rows, V = len(h), config.vocab_size
    logits = torch.empty(rows, V, device=h.device)
    draws = torch.zeros(rows, SIZE, dtype=torch.int64, device=h.device)
    draws[:, Field.ROW] = torch.arange(rows, device=h.device)

    def run(tiles: Tiles, i: int) -> None:
        maxima, sums = (torch.empty(rows, -(-V // tiles.block_n), device=h.device) for _ in range(2))
        head(logits, maxima, sums, h, draws, weights[i], tiles)

    return Product("lm_head", head_tiles(weights.dtype), len(weights), 1, run)
