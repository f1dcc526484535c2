"""How the network's kernels cut their work: fixed by a layer's shape, never by the number of rows, for a sum's order follows it."""

from dataclasses import dataclass
from functools import cache

import torch

QUERY_TILE = 16  # rows of one sequence that attend together: the fewest that a tensor core's product takes
MIN_DOT = 16  # the least that Triton's products sum over
HEAD_TILE = 64  # tokens of the vocabulary whose logits a program makes: 786 programs for GPT-2, six to each of an H100's 132 SMs

# Rows of a linear layer's tile. A tensor core would do with 16, but a tile reads its columns' weights once for all of its rows: at
# 256 rows 32 halve what comes out of the L2 cache. A lone row costs the same either way, as rows that are not there are not read.
BLOCK_M = 32
MIN_PROGRAMS = 64  # about half of an H100's SMs: fewer cannot draw on all of its memory's bandwidth
STAGE_BYTES = 8192  # of weights in a stage: three under way on each of 64 SMs cover the latency of an H100's memory (1.5 MB)


@dataclass(frozen=True, slots=True)
class Tiles:
    """A program's tile (block_m, block_n) of the output and the steps of block_k by which it sums.

    A result's bits follow all but `num_stages`, which says how many steps' loads are under way.
    """

    block_m: int
    block_n: int
    block_k: int
    num_warps: int
    num_stages: int


@cache
def linear_tiles(size: int, dtype: torch.dtype) -> Tiles:
    """Of a linear layer with `size` outputs: the widest block_n that leaves programs enough to one row, and a stage's weights."""
    block_n = next((n for n in (64, 32) if size // n >= MIN_PROGRAMS), 16)
    return _tiles_of(block_n, dtype)


@cache
def head_tiles(dtype: torch.dtype) -> Tiles:
    return _tiles_of(HEAD_TILE, dtype)


def _tiles_of(block_n: int, dtype: torch.dtype) -> Tiles:
    return Tiles(BLOCK_M, block_n, block_k=STAGE_BYTES // dtype.itemsize // block_n, num_warps=4, num_stages=4)


@cache
def attention_tiles(head_dim: int, dtype: torch.dtype) -> Tiles:
    """Of a head: QUERY_TILE queries by block_n keys at a time; block_k is the head size as a power of two, which products need."""
    block_k = max(MIN_DOT, 1 << (head_dim - 1).bit_length())
    # 16 KB of float32 keys: without tensor cores a thread holds its part of them in registers, and more spill. 32 KB of halves.
    most = 4096 if dtype == torch.float32 else 16384
    block_n = max(MIN_DOT, min(128, most // block_k))
    # Keys and values of a stage twice in shared memory are 64 KB, of the 99 KB that the smallest card has.
    num_stages = 3 if block_n * block_k * dtype.itemsize <= 16384 else 2
    return Tiles(QUERY_TILE, block_n, block_k, num_warps=4, num_stages=num_stages)
