"""Causal attention of tiles of rows over their sequence's cached keys and values, one program a (tile, head).

Scaled dot-product attention (Vaswani et al. 2017, equation 1) with the softmax made as the keys come (Milakov and Gimelshein 2018,
"Online normalizer calculation for softmax", algorithm 3). The keys come in blocks that begin at fixed positions, in order. A key
behind a row leaves that row's sums as they are: it weighs exactly 0, and a block of such keys scales by exactly 1. So a row has the
same bits alone in its tile (decoding) or among others (a prompt). Only a value that is no number reaches the rows before it, those
of its own tile: 0 times NaN is NaN.
"""

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from model.cuda.kernels.early import wait_for_results
from model.cuda.tiles import Tiles, attention_tiles


# One binary for every number of rows, of which the alignment depends.
@triton.jit(do_not_specialize_on_alignment=["positions", "slots", "tile_rows", "tile_sizes"])
def _attention(
    y: tl.tensor,
    q: tl.tensor,
    keys: tl.tensor,
    values: tl.tensor,
    positions: tl.tensor,
    slots: tl.tensor,
    tile_rows: tl.tensor,
    tile_sizes: tl.tensor,
    scale_log2: tl.constexpr,
    H: tl.constexpr,
    P: tl.constexpr,
    D: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    EARLY: tl.constexpr,
) -> None:
    tile, head = tl.program_id(0), tl.program_id(1)
    first, size = tl.load(tile_rows + tile), tl.load(tile_sizes + tile)
    start, slot = tl.load(positions + first), tl.load(slots + first).to(tl.int64)
    wait_for_results(EARLY)
    if size == 0:
        return
    end = start + size  # of the keys that any row sees
    i, d = tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_K)
    is_d = d < D
    is_query = (i < size)[:, None] & is_d[None, :]
    places = (first + i)[:, None] * (H * D) + (head * D + d)[None, :]  # of the tile's (row, channel) in q and y
    queries = tl.load(q + places, mask=is_query, other=0.0)
    sequence = (slot * H + head) * (P * D)

    # Every row sees position 0, so that its maximum is a number from the first block on.
    maximum = tl.full((BLOCK_M,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK_M,), tl.float32)
    weighted = tl.zeros((BLOCK_M, BLOCK_K), tl.float32)
    for block in range(0, end, BLOCK_N):
        p = block + tl.arange(0, BLOCK_N)
        # What lies behind the tile's last row may be anything.
        k = tl.load(keys + sequence + p[None, :] * D + d[:, None], mask=(p < end)[None, :] & is_d[:, None], other=0.0)
        v = tl.load(values + sequence + p[:, None] * D + d[None, :], mask=(p < end)[:, None] & is_d[None, :], other=0.0)
        scores = tl.dot(queries, k, input_precision="ieee") * scale_log2
        # An overflow is no number either way: as minus infinity it would weigh nothing, in silence.
        scores = tl.where(tl.abs(scores) == float("inf"), float("nan"), scores)
        scores = tl.where(p[None, :] <= (start + i)[:, None], scores, float("-inf"))
        new_maximum = tl.maximum(maximum, tl.max(scores, axis=1))
        rescale = tl.exp2(maximum - new_maximum)
        weights = tl.exp2(scores - new_maximum[:, None])
        total = total * rescale + tl.sum(weights, axis=1)
        weighted = tl.dot(weights.to(v.dtype), v, weighted * rescale[:, None], input_precision="ieee")
        maximum = new_maximum
    tl.store(y + places, (weighted / total[:, None]).to(y.dtype.element_ty), mask=is_query)


def attention(
    y: Tensor,
    q: Tensor,
    cache: Tensor,
    positions: Tensor,
    slots: Tensor,
    tile_rows: Tensor,
    tile_sizes: Tensor,
    tiles: Tiles | None = None,
    early: bool = False,
) -> None:
    """y (R, C) of queries q (R, C) over one layer's cache (2, S + 1, H, P, D).

    Tile t is the tile_sizes[t] rows from tile_rows[t] on: at most QUERY_TILE, at consecutive positions of one slot; 0 is no tile.
    Rows of no tile are left as they are.
    """
    keys, values = cache.unbind(0)
    _, H, P, D = keys.shape
    tiles = tiles or attention_tiles(D, q.dtype)
    _attention[(tile_rows.shape[0], H)](
        y, q, keys, values, positions, slots, tile_rows, tile_sizes, scale_log2=D**-0.5 * math.log2(math.e), H=H, P=P, D=D,
        BLOCK_M=tiles.block_m, BLOCK_N=tiles.block_n, BLOCK_K=tiles.block_k,
        num_warps=tiles.num_warps, num_stages=tiles.num_stages, EARLY=early, launch_pdl=early,
    )  # fmt: skip


def attention_twin(
    y: Tensor, q: Tensor, cache: Tensor, positions: Tensor, slots: Tensor, tile_rows: Tensor, tile_sizes: Tensor
) -> None:
    _, _, H, _, D = cache.shape
    for first, size in zip(tile_rows.tolist(), tile_sizes.tolist(), strict=True):
        for row in range(first, first + size):
            end = int(positions[row]) + 1
            keys, values = cache[:, slots[row], :, :end].double().unbind(0)  # 2 x (H, end, D)
            scores = torch.einsum("hd,hpd->hp", q[row].view(H, D).double(), keys) * D**-0.5  # (H, end)
            scores = scores.masked_fill(scores.isinf(), torch.nan)
            y[row] = torch.einsum("hp,hpd->hd", scores.softmax(dim=-1), values).flatten()
