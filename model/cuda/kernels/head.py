"""Logits of the rows that are drawn after, and of every tile of HEAD_TILE tokens what their log-sum-exp is made of.

A program a tile of draws and one of the vocabulary. It sums over all of K itself, so that a row's bits follow the layer's shape
alone.
"""

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from model.cuda.kernels.early import fetch_weights, wait_for_results
from model.cuda.kernels.product import product, product_twin
from model.cuda.kernels.record import RECORD_SIZE, ROW
from model.cuda.records import Field
from model.cuda.tiles import HEAD_TILE, Tiles, head_tiles


@triton.jit(do_not_specialize=["num_draws"])  # one binary for every number of draws
def _head(
    logits: tl.tensor,
    maxima: tl.tensor,
    sums: tl.tensor,
    h: tl.tensor,
    draws: tl.tensor,
    weight: tl.tensor,
    num_draws: tl.tensor,
    V: tl.constexpr,
    K: tl.constexpr,
    NUM_TILES: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    EARLY: tl.constexpr,
) -> None:
    tile = tl.program_id(1)
    b = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    tokens = tile * BLOCK_N + tl.arange(0, BLOCK_N)
    is_draw, is_token = b < num_draws, tokens < V
    fetch_weights(weight, tokens, 0, K, V, K, EARLY)
    wait_for_results(EARLY)
    rows = tl.load(draws + b * RECORD_SIZE + ROW, mask=is_draw, other=0)
    out = product(h + rows * K, is_draw, weight, tokens, is_token, K, BLOCK_M, BLOCK_N, BLOCK_K)
    places = b.to(tl.int64)[:, None] * V + tokens[None, :]
    tl.store(logits + places, out, mask=is_draw[:, None] & is_token[None, :])

    out = tl.where(is_token[None, :], out, float("-inf"))
    maximum = tl.max(out, axis=1)
    total = tl.sum(tl.exp(out - maximum[:, None]), axis=1)  # NaN with any of the logits, and where one is infinite
    tl.store(maxima + b * NUM_TILES + tile, maximum, mask=is_draw)
    tl.store(sums + b * NUM_TILES + tile, total, mask=is_draw)


def head(
    logits: Tensor,
    maxima: Tensor,
    sums: Tensor,
    h: Tensor,
    draws: Tensor,
    weight: Tensor,
    tiles: Tiles | None = None,
    early: bool = False,
) -> None:
    """logits (B, V) float32 = h[row] @ weight.T for the row of each of `draws` (B, SIZE); h (R, C), weight (V, C).

    Of tile n of HEAD_TILE tokens: maxima (B, NT) float32 and sums (B, NT) float32, the sum of exp(logit - maximum), which is NaN if
    one of the tile's logits is.
    """
    V, K = weight.shape
    tiles = tiles or head_tiles(weight.dtype)
    B, NT = maxima.shape
    _head[(triton.cdiv(B, tiles.block_m), NT)](
        logits, maxima, sums, h, draws, weight, B, V=V, K=K, NUM_TILES=NT,
        BLOCK_M=tiles.block_m, BLOCK_N=tiles.block_n, BLOCK_K=tiles.block_k,
        num_warps=tiles.num_warps, num_stages=tiles.num_stages, EARLY=early, launch_pdl=early,
    )  # fmt: skip


def head_twin(logits: Tensor, maxima: Tensor, sums: Tensor, h: Tensor, draws: Tensor, weight: Tensor) -> None:
    logits.copy_(product_twin(h[draws[:, Field.ROW]], weight))
    V = logits.shape[-1]
    of_tiles = F.pad(logits, (0, -V % HEAD_TILE), value=-torch.inf).view(len(logits), -1, HEAD_TILE)  # (B, NT, HEAD_TILE)
    maxima.copy_(of_tiles.amax(dim=-1))
    sums.copy_((of_tiles.double() - maxima[..., None]).exp().sum(dim=-1))
