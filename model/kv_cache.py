"""Keys and values of past positions, a fixed row ("slot") of n_positions a sequence, and attention over them."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from model.batch import Chunk
from model.config import GPT2Config


class KVCache:
    """One tensor [layer, 2, slot, head, position, head_dim]; index 0 of the second axis holds keys, 1 values.

    Slots, not pages: a whole sequence of GPT-2 is small, so attention reads contiguous memory without block tables. One slot more
    than asked for, `scratch`, takes what padding rows write. All of it is written once at the start, so that memory is refused then
    and not under load.
    """

    def __init__(self, config: GPT2Config, num_slots: int, dtype: torch.dtype, device: torch.device) -> None:
        self.num_slots, self.scratch = num_slots, num_slots
        # Slots begin at multiples of 64 bytes whatever the head size: matrix kernels may round otherwise at another alignment.
        positions = -(-config.n_positions // 32) * 32
        shape = (config.n_layer, 2, num_slots + 1, config.n_head, positions, config.head_dim)
        self.data = torch.empty(shape, dtype=dtype, device=device).fill_(0)

    def write(self, layer: int, slots: Tensor, positions: Tensor, k: Tensor, v: Tensor) -> None:
        """Store rows k, v (R, H, D) at (slots[r], positions[r]), both (R,)."""
        self.data[layer, 0, slots, :, positions] = k
        self.data[layer, 1, slots, :, positions] = v

    def copy_prefix(self, source: int, target: int, length: int) -> None:
        self.data[:, :, target, :, :length] = self.data[:, :, source, :, :length]

    def erase(self, slots: Tensor, positions: Tensor) -> None:
        """Write zeros at (slots[r], positions[r]), both (R,), in all layers."""
        # The value is made on the device: a number from the host would be waited for.
        self.data[:, :, slots, :, positions] = self.data.new_zeros(())


class RaggedAttention:
    """Attention of a step's chunks, each over exactly its own sequence's length, one call a chunk: the CPU's way.

    Scaled dot-product attention (Vaswani et al. 2017, equation 1) over the cached positions. Padding to a common length would be
    fewer calls, but a sequence's bits would then depend on its neighbours' lengths. Takes and returns rows (R, H, D), the chunks'
    tokens one after another; rows past the last chunk are padding and come back as zeros.
    """

    def __init__(self, cache: KVCache, chunks: Sequence[Chunk], slots: Tensor, positions: Tensor) -> None:
        self.cache, self.chunks, self.slots, self.positions = cache, chunks, slots, positions
        self.masks = [_causal_mask(chunk) for chunk in chunks]

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        self.cache.write(layer, self.slots, self.positions, k, v)
        y, row = torch.zeros(q.shape, dtype=q.dtype), 0
        for chunk, mask in zip(self.chunks, self.masks, strict=True):
            rows = slice(row, row := row + len(chunk.token_ids))
            keys, values = self.cache.data[layer, :, chunk.slot, :, : chunk.end].unbind(0)  # 2 x (H, end, D)
            # A copy, so that the queries' alignment does not depend on how many rows stand before them.
            queries = q[rows].transpose(0, 1).clone(memory_format=torch.contiguous_format)  # (H, n, D)
            out = F.scaled_dot_product_attention(queries[None], keys[None], values[None], attn_mask=mask)  # (1, H, n, D)
            y[rows] = out[0].transpose(0, 1)
        return y


def _causal_mask(chunk: Chunk) -> Tensor | None:
    """(n, end): which cached positions each of the chunk's tokens may see; None for one token, which sees them all."""
    if len(chunk.token_ids) == 1:
        return None
    return torch.ones(len(chunk.token_ids), chunk.end, dtype=torch.bool).tril(chunk.start)


class GridAttention:
    """Attention of G sequences with T rows each in one call over whole slots, the same shapes whatever is in flight: the GPU's way.

    `read_slots` (G,) names the slots to read, None for the first G in order, which then needs no copy. Rows come flattened as
    (G * T, H, D); `write_slots` and `positions`, both (G * T,), say where their keys and values go.
    """

    def __init__(self, cache: KVCache, read_slots: Tensor | None, write_slots: Tensor, positions: Tensor, num_rows: int) -> None:
        self.cache, self.read_slots, self.write_slots, self.positions = cache, read_slots, write_slots, positions
        self.num_rows = num_rows
        cached = torch.arange(cache.data.shape[4], device=positions.device)  # (P,)
        self.mask = cached <= positions.view(-1, 1, num_rows, 1)  # (G, 1, T, P)

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        self.cache.write(layer, self.write_slots, self.positions, k, v)
        num_groups = self.mask.shape[0]
        keys, values = (self._read(layer, which, num_groups) for which in (0, 1))  # 2 x (G, H, P, D)
        queries = q.view(num_groups, self.num_rows, *q.shape[1:]).transpose(1, 2)  # (G, H, T, D)
        y = F.scaled_dot_product_attention(queries, keys, values, attn_mask=self.mask)
        return y.transpose(1, 2).flatten(0, 1)  # (G * T, H, D)

    def _read(self, layer: int, which: int, num_groups: int) -> Tensor:
        data = self.cache.data[layer, which]
        return data[:num_groups] if self.read_slots is None else data.index_select(0, self.read_slots)
