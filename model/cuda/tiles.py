"""How the network's kernels cut their work: fixed by a layer's shape, never by the number of rows, for a sum's order follows it."""

from dataclasses import dataclass
from functools import cache

import torch

QUERY_TILE = 16  # rows of one sequence that attend together: the fewest that a tensor core's product takes
MIN_DOT = 16  # the least that Triton's products sum over
HEAD_TILE = 128  # tokens of the vocabulary whose logits a program makes: 393 programs for GPT-2, three to each of an H100's 132 SMs

# Rows of a linear layer's tile. A tile reads its columns' weights once for all of its rows, out of the L2 cache too; 64 are what an
# H100's tensor cores multiply at a time. A lone row costs hardly more, as rows that are not there are not read. float32 has no
# tensor cores and holds what it multiplies in registers.
BLOCK_M = 64
BLOCK_M_FLOAT32 = 32
MIN_PROGRAMS = 64  # about half of an H100's SMs: fewer cannot draw on all of its memory's bandwidth
STAGE_BYTES = 8192  # of weights in a stage: three under way on each of 64 SMs cover the latency of an H100's memory (1.5 MB)
PROGRAMS_OF_PARTS = 132  # for one row, where sums may be cut: an H100's SMs
MAX_PARTS = 6  # more cost many rows too much: each is written and read again
MIN_STEPS_A_PART = 2  # fewer are no faster: loads of two are under way at once


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
    return _tiles_of(block_n, dtype, STAGE_BYTES, num_warps=4)


@cache
def parts_tiles(dtype: torch.dtype) -> Tiles:
    """Of a linear layer whose sums are cut in parts, so that its columns need not give all programs."""
    return _tiles_of(32, dtype, STAGE_BYTES, num_warps=4)


@cache
def num_parts(size: int, inputs: int, dtype: torch.dtype) -> int:
    """In how many parts such a layer sums over its inputs: as many as give one row programs enough, of whole steps, none empty."""
    tiles = parts_tiles(dtype)
    num_steps, num_columns = -(-inputs // tiles.block_k), -(-size // tiles.block_n)
    wanted = min(-(-PROGRAMS_OF_PARTS // num_columns), MAX_PARTS, max(num_steps // MIN_STEPS_A_PART, 1))
    return -(-num_steps // -(-num_steps // wanted))


@cache
def head_tiles(dtype: torch.dtype) -> Tiles:
    return _tiles_of(HEAD_TILE, dtype, 2 * STAGE_BYTES, num_warps=8)


def _tiles_of(block_n: int, dtype: torch.dtype, stage_bytes: int, num_warps: int) -> Tiles:
    block_m = BLOCK_M_FLOAT32 if dtype == torch.float32 else BLOCK_M
    return Tiles(block_m, block_n, block_k=stage_bytes // dtype.itemsize // block_n, num_warps=num_warps, num_stages=4)


@cache
def attention_tiles(head_dim: int, dtype: torch.dtype) -> Tiles:
    """Of a head: QUERY_TILE queries by block_n keys at a time; block_k is the head size as a power of two, which products need."""
    block_k = max(MIN_DOT, 1 << (head_dim - 1).bit_length())
    # 16 KB of float32 keys: without tensor cores a thread holds its part of them in registers, and more spill. 32 KB of halves.
    most = 4096 if dtype == torch.float32 else 16384
    # Half as many keys and a stage more leave an H100's SM room for four programs in place of three, and were no faster at 64
    # sequences; a lone row's attention, a chain of blocks, took 66 us of a step in place of 57.
    block_n = max(MIN_DOT, min(128, most // block_k))
    # Keys and values of a stage twice in shared memory are 64 KB, of the 99 KB that the smallest card has.
    num_stages = 3 if block_n * block_k * dtype.itemsize <= 16384 else 2
    return Tiles(QUERY_TILE, block_n, block_k, num_warps=4, num_stages=num_stages)
