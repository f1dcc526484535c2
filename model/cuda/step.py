"""What the device does in a step, top to bottom: the network over a pass's rows, then the draws. Knows no chunks, no host.

All that a step reads and writes lies in tensors that stay where they are, so that it can be captured as a graph and so that one
step can prepare the next. A row's bits depend on its own sequence alone: no kernel's arithmetic knows how many rows there are.

Shapes: R rows of a pass, T query tiles, B draws, C embedding, V vocabulary, P positions.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple, TypeVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.cuda.buckets import bucket_of, num_tiles
from model.cuda.kernel_set import KernelSet
from model.cuda.kernels.parts import PART
from model.cuda.kernels.residual import residual_parts
from model.cuda.records import SIZE
from model.cuda.tiles import HEAD_TILE
from model.gpt2 import GPT2, Block
from model.history import History
from model.kv_cache import KVCache

# The most rows of a pass: enough to keep every multiprocessor of a large card busy, 28 MB of activations for the 124M model.
MAX_ROWS = 2048
MAX_STEPS = 16  # in one launch: what the host does for a launch is spread over so many; they come 7 ms apart for one sequence
MIN_DRAWS = 64  # room for as many draws at least: prompts are scored in blocks of what there is room for


class Rows(NamedTuple):
    """A pass's rows, int32 (R,) each, and its query tiles, (T,): the first row of each and how many it has."""

    token_ids: Tensor
    positions: Tensor
    slots: Tensor
    tile_rows: Tensor
    tile_sizes: Tensor


Buffer = TypeVar("Buffer", Tensor, NDArray[np.int32])


def _stride(num: int) -> int:
    """A field's length with padding: each begins at a multiple of 16 bytes, so that Triton has one program for all sizes."""
    return -(-num // 4) * 4


def split_rows(flat: Buffer, num_rows: int, num_tiles: int) -> Iterator[Buffer]:
    """The five fields of Rows in a flat buffer, on either side."""
    start = 0
    for num in (num_rows, num_rows, num_rows, num_tiles, num_tiles):
        yield flat[start : start + num]
        start += _stride(num)


class DeviceStep:
    """The network with its cache, and room for a pass of up to MAX_ROWS rows and `max_draws` draws."""

    def __init__(self, network: GPT2, kernels: KernelSet, num_slots: int) -> None:
        self.network, self.kernels, config = network, kernels, network.config
        self.device, dtype = network.wte.weight.device, network.wte.weight.dtype
        self.cache = KVCache(config, num_slots, dtype, self.device)
        self.history = History(num_slots, config.n_positions, self.device)
        self.max_draws = max(bucket_of(num_slots), MIN_DRAWS)
        self._rows = self._empty(5 * MAX_ROWS, dtype=torch.int32)
        self.x = self._empty(MAX_ROWS, config.n_embd)
        self._h = self._empty(MAX_ROWS, config.n_embd, dtype=dtype)
        self._q = self._empty(MAX_ROWS, config.n_embd, dtype=dtype)
        self._y = self._empty(MAX_ROWS, config.n_embd, dtype=dtype)
        self._u = self._empty(MAX_ROWS, config.inner_size, dtype=dtype)
        # Of the layer that has most, in turn for all: they are added up in the kernel behind.
        self._joining = self._empty(MAX_ROWS * config.n_embd * max(map(residual_parts, self._projections())))
        self.records = self._empty(self.max_draws, SIZE, dtype=torch.int64)
        self.logits = self._empty(self.max_draws, config.vocab_size)
        self._saved = self._empty(self.max_draws, config.n_positions)
        num_tiles_of_head, num_parts = -(-config.vocab_size // HEAD_TILE), -(-config.vocab_size // PART)
        self._head_maxima, self._head_sums = (self._empty(self.max_draws, num_tiles_of_head) for _ in range(2))
        self.log_sums = self._empty(self.max_draws, dtype=torch.float64)
        self._maxima = self._empty(self.max_draws, num_parts)
        self._ids = self._empty(self.max_draws, num_parts, dtype=torch.int32)
        self._sums = self._empty(self.max_draws, num_parts, dtype=torch.float64)
        self._output = self._empty(MAX_STEPS * 3 * self.max_draws, dtype=torch.int32)

    def _empty(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """Written once, so that memory is refused now and not under load."""
        return torch.zeros(shape, dtype=dtype, device=self.device)

    def _projections(self) -> Iterator[Tensor]:
        """The weights of the layers whose outputs join the residual stream."""
        for block in cast("list[Block]", self.network.h):
            yield from (block.attn.c_proj.weight, block.mlp.c_proj.weight)

    def _parts_of(self, num_rows: int, weight: Tensor) -> Tensor:
        """Where such a layer's output goes, float32 (R, S, C)."""
        size = num_rows, residual_parts(weight), len(weight)
        return self._joining[: math.prod(size)].view(size)

    def flat_rows(self, num_rows: int) -> Tensor:
        """The fields of `rows`, one behind another, as one copy from the host brings them: int32 (3 stride + 2 tile stride,)."""
        return self._rows[: 3 * _stride(num_rows) + 2 * _stride(num_tiles(num_rows, self.max_draws))]

    def rows(self, num_rows: int) -> Rows:
        return Rows(*split_rows(self.flat_rows(num_rows), num_rows, num_tiles(num_rows, self.max_draws)))

    def output(self, num_draws: int) -> Tensor:
        """Token id, bits of the log-probability and Status of each draw in each step: int32 (MAX_STEPS, 3, B)."""
        return self._output[: MAX_STEPS * 3 * num_draws].view(MAX_STEPS, 3, num_draws)

    def forward(self, num_rows: int) -> None:
        """The network of section 2.3 (see `model.gpt2`) over the pass's rows, up to `head`; the residual stream stays in `x`."""
        network, kernels, rows = self.network, self.kernels, self.rows(num_rows)
        token_ids, positions, slots, tile_rows, tile_sizes = rows
        x, h, q, y, u = (buffer[:num_rows] for buffer in (self.x, self._h, self._q, self._y, self._u))
        kernels.embed(x, self.history.tokens, token_ids, positions, slots, network.wte.weight, network.wpe.weight)
        parts, added = None, None  # what joins x in the next norm
        for block, cache in zip(cast("list[Block]", network.h), self.cache.data, strict=True):
            attn, mlp = block.attn, block.mlp
            kernels.norm(h, x, parts, added, block.ln_1.weight, block.ln_1.bias, block.ln_1.eps)
            kernels.qkv(q, cache, h, positions, slots, attn.c_attn.weight, attn.c_attn.bias)
            kernels.attention(y, q, cache, positions, slots, tile_rows, tile_sizes)
            parts, added = self._parts_of(num_rows, attn.c_proj.weight), attn.c_proj.bias
            kernels.residual(parts, y, attn.c_proj.weight)
            kernels.norm(h, x, parts, added, block.ln_2.weight, block.ln_2.bias, block.ln_2.eps)
            kernels.fc(u, h, mlp.c_fc.weight, mlp.c_fc.bias)
            parts, added = self._parts_of(num_rows, mlp.c_proj.weight), mlp.c_proj.bias
            kernels.residual(parts, u, mlp.c_proj.weight)
        kernels.norm(h, x, parts, added, network.ln_f.weight, network.ln_f.bias, network.ln_f.eps)

    def head(self, records: Tensor) -> tuple[Tensor, Tensor]:
        """Of the rows that records (B, SIZE) name: logits float32 (B, V) and their log-sum-exp float64 (B,)."""
        num = len(records)
        logits, maxima, sums, log_sums = (b[:num] for b in (self.logits, self._head_maxima, self._head_sums, self.log_sums))
        self.kernels.head(logits, maxima, sums, self._h, records, self.network.lm_head.weight)
        self.kernels.log_sums(log_sums, maxima, sums)
        return logits, log_sums

    def draw(self, num_draws: int) -> None:
        """Draw what the records ask for, and turn them and the first B rows into what the next step runs."""
        kernels, records, history, rows = self.kernels, self.records[:num_draws], self.history.tokens, self.rows(num_draws)
        saved, maxima, ids, sums = (buffer[:num_draws] for buffer in (self._saved, self._maxima, self._ids, self._sums))
        logits, log_sums = self.head(records)
        kernels.adjust(logits, saved, history, records)
        kernels.filters(logits, records)
        kernels.parts(maxima, ids, sums, logits, records)
        kernels.choose(self.output(num_draws), *rows, records, logits, saved, history, log_sums, maxima, ids, sums)
