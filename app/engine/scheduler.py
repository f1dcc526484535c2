"""Decides who runs in a step and in which cache slot. Pure bookkeeping over token ids: no tensors, no threads, no text."""

from collections import deque
from dataclasses import dataclass

from app.engine.sequence import Sequence
from app.engine.slots import PrefixCopy, SlotPool
from model.batch import Chunk, ForwardBatch


@dataclass(frozen=True, slots=True)
class Plan:
    """One step: prefix copies to do first, the batch, and the sequence that each of its chunks belongs to."""

    batch: ForwardBatch
    sequences: tuple[Sequence, ...]
    copies: tuple[PrefixCopy, ...]


class Scheduler:
    """Continuous batching (Yu et al. 2022, "Orca", section 3.1): sequences join and leave between steps.

    All that decode run in every step. Prompts are prefilled in chunks, first come, first served, while the step stays within
    `max_batch_tokens`; `chunk_size` tokens of prompts may always run, so that nobody starves. Chunks end at its multiples, and
    prefixes are shared in whole chunks of prompts; `cut_freely`, for a runner whose bits depend on no cut, lifts both rules.
    """

    def __init__(self, num_slots: int, chunk_size: int, max_batch_tokens: int, cut_freely: bool = False) -> None:
        self.chunk_size, self.max_batch_tokens, self.cut_freely = chunk_size, max_batch_tokens, cut_freely
        self.slots = SlotPool(num_slots, self.multiple)
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []

    @property
    def multiple(self) -> int:
        """Of what a chunk's end and a shared prefix's length are multiples."""
        return 1 if self.cut_freely else self.chunk_size

    @property
    def has_work(self) -> bool:
        return bool(self.waiting or self.running)

    def submit(self, sequence: Sequence) -> None:
        self.waiting.append(sequence)

    def schedule(self, now: float) -> Plan:
        """Plan a step: the decoding sequences, then as many chunks of prompts as its budget allows."""
        copies: list[PrefixCopy] = []
        work = [(s, s.next_chunk(1, 1)) for s in self.running if not s.is_prefilling]
        budget = max(self.max_batch_tokens - len(work), self.chunk_size)
        prefilling = deque(s for s in self.running if s.is_prefilling)
        while budget >= self.multiple:
            if not prefilling and (started := self._start_next(now, copies)):
                prefilling.append(started)
            if not prefilling:
                break
            sequence = prefilling.popleft()
            chunk = sequence.next_chunk(budget if self.cut_freely else self.chunk_size, self.multiple)
            work.append((sequence, chunk))
            budget -= len(chunk.token_ids)
        return Plan(ForwardBatch(tuple(c for _, c in work)), tuple(s for s, _ in work), tuple(copies))

    def advance(self, sequence: Sequence, chunk: Chunk) -> None:
        """Note that a chunk of the sequence has been run."""
        sequence.num_cached = chunk.end
        if self.cut_freely or chunk.end <= sequence.num_prompt:
            self.slots.record(chunk.slot, sequence.token_ids, chunk.end)

    def finish(self, sequence: Sequence, trust_slot: bool = True) -> None:
        """Let go of a waiting or running sequence; its slot is free at once and keeps its contents if they are to be trusted."""
        if sequence.slot is None:
            self.waiting.remove(sequence)
            return
        self.running.remove(sequence)
        if not trust_slot:
            self.slots.forget(sequence.slot)
        self.slots.release(sequence.slot)

    def _start_next(self, now: float, copies: list[PrefixCopy]) -> Sequence | None:
        if not self.waiting or not self.slots.num_free:
            return None
        sequence = self.waiting.popleft()
        acquired = self.slots.acquire(sequence.request.prompt_ids)
        sequence.slot, sequence.started_at = acquired.slot, now
        sequence.num_cached = sequence.num_reused = acquired.num_reused
        if acquired.copy:
            copies.append(acquired.copy)
        self.running.append(sequence)
        return sequence
