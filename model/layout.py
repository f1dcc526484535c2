"""How the rows of a step's chunks are laid out in forward passes: two ways, each of which gives a row the same bits whatever else
is in the step. On a CPU all chunks' tokens stand one after another; on a GPU every pass has one of two fixed shapes.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from model.batch import Chunk
from model.gpt2 import Attention
from model.kv_cache import GridAttention, KVCache, RaggedAttention
from model.packed_linear import padded_rows
from model.upload import Handle, Upload


@dataclass(frozen=True, slots=True)
class Pass:
    """One forward pass: the handles of its R rows' integers, (R,) each, and how its attention is made once they are sent.

    `last_rows` has the row, of these, that is the last of each row's chunk, where the pass attends to what lies behind a sequence.
    """

    token_ids: Handle
    positions: Handle
    slots: Handle
    attention: Callable[[], Attention]
    last_rows: Handle | None = None


class LaidOut(NamedTuple):
    """The passes of a step, and where each chunk's rows begin among the rows of all passes, one after another."""

    passes: list[Pass]
    first_rows: list[int]


class Layout(Protocol):
    def __call__(self, chunks: Sequence[Chunk], upload: Upload) -> LaidOut:
        """Lay out the rows of the chunks and stage what they need."""


class Ragged:
    """The CPU's layout: one pass over all chunks' tokens, one after another."""

    def __init__(self, cache: KVCache) -> None:
        self._cache = cache

    def __call__(self, chunks: Sequence[Chunk], upload: Upload) -> LaidOut:
        num_tokens = sum(len(chunk.token_ids) for chunk in chunks)
        padding = [0] * (padded_rows(num_tokens) - num_tokens)
        token_ids = upload.ints([token_id for chunk in chunks for token_id in chunk.token_ids] + padding)
        positions = upload.ints([p for chunk in chunks for p in range(chunk.start, chunk.end)] + padding)
        slots = upload.ints([chunk.slot for chunk in chunks for _ in chunk.token_ids] + [self._cache.scratch for _ in padding])
        first_rows, row = [], 0
        for chunk in chunks:
            first_rows.append(row)
            row += len(chunk.token_ids)
        attention = lambda: RaggedAttention(self._cache, chunks, upload[slots], upload[positions])  # noqa: E731
        return LaidOut([Pass(token_ids, positions, slots, attention)], first_rows)


class Grids:
    """The GPU's layout: one pass of a row a slot for all that decode, and one of `chunk_size` rows for each longer chunk."""

    def __init__(self, cache: KVCache, chunk_size: int) -> None:
        self._cache, self._chunk_size = cache, chunk_size

    def __call__(self, chunks: Sequence[Chunk], upload: Upload) -> LaidOut:
        passes, first_rows, row = [], {}, 0
        for grid in _fixed_shapes(chunks):
            decoding = len(grid[0].token_ids) == 1
            num_groups, num_rows = (self._cache.num_slots, 1) if decoding else (1, self._chunk_size)
            num_all = num_groups * num_rows
            tokens, positions, slots = [0] * num_all, [0] * num_all, [self._cache.scratch] * num_all
            for chunk in grid:
                first, n = (chunk.slot if decoding else 0), len(chunk.token_ids)
                tokens[first : first + n] = chunk.token_ids
                positions[first : first + n] = range(chunk.start, chunk.end)
                slots[first : first + n] = [chunk.slot] * n
                first_rows[chunk.slot] = row + first
            row += num_all
            last_rows = range(num_all) if decoding else [len(grid[0].token_ids) - 1] * num_all
            staged = [upload.ints(values) for values in (tokens, positions, slots, last_rows)]
            passes.append(self._pass(upload, staged, None if decoding else upload.ints([grid[0].slot]), num_rows))
        return LaidOut(passes, [first_rows[chunk.slot] for chunk in chunks])

    def _pass(self, upload: Upload, staged: Sequence[Handle], read: Handle | None, num_rows: int) -> Pass:
        token_ids, positions, slots, last_rows = staged

        def attention() -> Attention:
            read_slots = None if read is None else upload[read]
            return GridAttention(self._cache, read_slots, upload[slots], upload[positions], num_rows)

        return Pass(token_ids, positions, slots, attention, last_rows)


def _fixed_shapes(chunks: Sequence[Chunk]) -> Iterator[list[Chunk]]:
    """The chunks of one token together, every other alone."""
    decoding = [chunk for chunk in chunks if len(chunk.token_ids) == 1]
    if decoding:
        yield decoding
    yield from ([chunk] for chunk in chunks if len(chunk.token_ids) > 1)
