"""TorchRunner: integers in, integers out. Owns the device, the network, the cache and the sampler; knows no text and no requests.

The reference among runners. Two layouts of a step's rows, each of which gives a row the same bits whatever else is in the step:
on a CPU all chunks' tokens stand one after another, on a GPU every forward pass has one of two fixed shapes.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from model.batch import Chunk, Draw, ForwardBatch, SamplingParams, StepOutput
from model.gpt2 import GPT2, Attention
from model.kv_cache import GridAttention, KVCache, RaggedAttention
from model.packed_linear import pack_linears, padded_rows
from model.sampler import Sampler, SamplingPlan, to_tokens
from model.upload import Handle, Upload


@dataclass(frozen=True, slots=True)
class Rows:
    """One forward pass: R rows with the handles of their integers, (R,) each, and how its attention is made once they are sent."""

    token_ids: Handle
    positions: Handle
    attention: Callable[[], Attention]


class TorchRunner:
    """A Runner in plain PyTorch for `cpu` and `cuda`.

    `chunk_size` is the most tokens that one chunk may have. On a CPU the network's linear layers are repacked in place: whoever
    needs the plain network runs it before.
    """

    exact_at_any_cut = False

    def __init__(self, model: GPT2, num_slots: int, chunk_size: int, device: torch.device, dtype: torch.dtype) -> None:
        self.model = model.to(device=device, dtype=dtype).eval().requires_grad_(False)
        self.device, self.chunk_size = device, chunk_size
        self.cache = KVCache(model.config, num_slots, dtype, device)
        self.sampler = Sampler()
        if device.type == "cpu":
            pack_linears(self.model)

    @property
    def num_slots(self) -> int:
        return self.cache.num_slots

    @property
    def max_positions(self) -> int:
        return self.model.config.n_positions

    @property
    def vocab_size(self) -> int:
        return self.model.config.vocab_size

    def execute(self, batch: ForwardBatch) -> StepOutput:
        with torch.inference_mode():
            return self._execute(batch)

    def _execute(self, batch: ForwardBatch) -> StepOutput:
        upload = Upload(self.device)
        layout = self._ragged if self.device.type == "cpu" else self._grids
        passes, draw_rows = layout(batch, upload)
        draws = [chunk.draw for chunk in batch.chunks if chunk.draw is not None]
        chosen = upload.ints(self._pad(draw_rows))
        plan = SamplingPlan(draws, upload)
        upload.send()
        hidden = [self.model.hidden_states(upload[p.token_ids], upload[p.positions], p.attention()) for p in passes]
        if not draws:
            return StepOutput(())
        logits = self.model.lm_head(torch.cat(hidden)[upload[chosen]])[: len(draws)]  # (B, V)
        tokens = to_tokens(self.sampler.draw(logits.float(), plan, upload))
        for chunk, token in zip((chunk for chunk in batch.chunks if chunk.draw is not None), tokens, strict=True):
            if math.isnan(token.logprob):
                # Masked positions weigh nothing, but nothing times NaN is NaN: the slot's next sequence would inherit it.
                self.cache.clear(chunk.slot)
        return StepOutput(tokens)

    def copy_prefix(self, source: int, target: int, length: int) -> None:
        self.cache.copy_prefix(source, target, length)

    def warm_up(self) -> None:
        """Run the largest chunk and a decoding step, so that the first request does not pay for allocations and kernel choices."""
        num_tokens = min(self.chunk_size, self.max_positions - 1)
        draw = Draw(SamplingParams(temperature=1.0), position=num_tokens)
        self.execute(ForwardBatch((Chunk(0, 0, (0,) * num_tokens, draw),)))
        self.execute(ForwardBatch((Chunk(0, num_tokens, (0,), draw),)))

    def _ragged(self, batch: ForwardBatch, upload: Upload) -> tuple[list[Rows], list[int]]:
        """The CPU's layout: one pass over all chunks' tokens, one after another, and the row of each draw."""
        chunks = batch.chunks
        padding = [0] * (padded_rows(batch.num_tokens) - batch.num_tokens)
        token_ids = upload.ints([token_id for chunk in chunks for token_id in chunk.token_ids] + padding)
        positions = upload.ints([p for chunk in chunks for p in range(chunk.start, chunk.end)] + padding)
        slots = upload.ints([chunk.slot for chunk in chunks for _ in chunk.token_ids] + [self.cache.scratch for _ in padding])
        draw_rows, row = [], -1
        for chunk in chunks:
            row += len(chunk.token_ids)
            if chunk.draw is not None:
                draw_rows.append(row)
        attention = lambda: RaggedAttention(self.cache, chunks, upload[slots], upload[positions])  # noqa: E731
        return [Rows(token_ids, positions, attention)], draw_rows

    def _grids(self, batch: ForwardBatch, upload: Upload) -> tuple[list[Rows], list[int]]:
        """The GPU's layout: one pass of a row a slot for all that decode, and one of `chunk_size` rows for each longer chunk."""
        passes, draw_rows, row = [], {}, 0
        for grid in _fixed_shapes(batch):
            decoding = len(grid[0].token_ids) == 1
            num_groups, num_rows = (self.num_slots, 1) if decoding else (1, self.chunk_size)
            tokens, positions, slots = (
                [0] * num_groups * num_rows,
                [0] * num_groups * num_rows,
                [self.cache.scratch] * num_groups * num_rows,
            )
            for chunk in grid:
                first, n = (chunk.slot if decoding else 0), len(chunk.token_ids)
                tokens[first : first + n] = chunk.token_ids
                positions[first : first + n] = range(chunk.start, chunk.end)
                slots[first : first + n] = [chunk.slot] * n
                draw_rows[chunk.slot] = row + first + n - 1
            row += num_groups * num_rows
            passes.append(self._grid_rows(upload, tokens, positions, slots, None if decoding else grid[0].slot, num_rows))
        return passes, [draw_rows[chunk.slot] for chunk in batch.chunks if chunk.draw is not None]

    def _grid_rows(
        self, upload: Upload, tokens: list[int], positions: list[int], slots: list[int], read_slot: int | None, num_rows: int
    ) -> Rows:
        token_ids, at, write = upload.ints(tokens), upload.ints(positions), upload.ints(slots)
        read = None if read_slot is None else upload.ints([read_slot])
        return Rows(
            token_ids,
            at,
            lambda: GridAttention(self.cache, None if read is None else upload[read], upload[write], upload[at], num_rows),
        )

    def _pad(self, rows: list[int]) -> list[int]:
        """Rows for the output head, padded to a number for which a row's bits are the same whatever the others."""
        wanted = padded_rows(len(rows)) if self.device.type == "cpu" else self.num_slots
        return rows + rows[:1] * (wanted - len(rows))


def _fixed_shapes(batch: ForwardBatch) -> Iterator[list[Chunk]]:
    """The chunks of one token together, every other alone."""
    decoding = [chunk for chunk in batch.chunks if len(chunk.token_ids) == 1]
    if decoding:
        yield decoding
    yield from ([chunk] for chunk in batch.chunks if len(chunk.token_ids) > 1)
