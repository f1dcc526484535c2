"""Cache slots and what of earlier prompts they still hold. Knows token ids, not requests or tensors."""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PrefixCopy:
    """Positions [0, length) of slot `source` are to be copied to slot `target` before the step runs."""

    source: int
    target: int
    length: int


@dataclass(frozen=True, slots=True)
class Acquired:
    """A slot that now belongs to the caller, with its first `num_reused` positions filled once `copy` is done."""

    slot: int
    num_reused: int
    copy: PrefixCopy | None


class SlotPool:
    """Hands out slots; a new prompt starts from the slot that shares its longest prefix, in place or by copying.

    Only whole chunks that came from prefill are shared, and never the chunk with a prompt's last token: a position's bits depend on
    where its chunk is cut, so that anything else would make an answer depend on what was asked before.
    """

    def __init__(self, num_slots: int, chunk_size: int) -> None:
        self.num_slots, self.chunk_size = num_slots, chunk_size
        self._prefixes: list[tuple[int, ...]] = [()] * num_slots
        self._free: OrderedDict[int, None] = OrderedDict.fromkeys(range(num_slots))  # least recently used first

    @property
    def num_free(self) -> int:
        return len(self._free)

    @property
    def num_used(self) -> int:
        return self.num_slots - len(self._free)

    def acquire(self, prompt_ids: Sequence[int]) -> Acquired:
        """Take a free slot, which there must be."""
        reusable = tuple(prompt_ids[: (len(prompt_ids) - 1) // self.chunk_size * self.chunk_size])
        source, length = self._longest_shared(reusable)
        in_place = length > 0 and source in self._free
        slot = source if in_place else next(iter(self._free))
        del self._free[slot]
        self._prefixes[slot] = reusable[:length]
        copy = None if in_place or length == 0 else PrefixCopy(source, slot, length)
        return Acquired(slot, length, copy)

    def record_prefill(self, slot: int, prefix: Sequence[int]) -> None:
        """Say that a slot's prompt has been run up to the end of `prefix`; its whole chunks may be shared from now on."""
        self._prefixes[slot] = tuple(prefix[: len(prefix) // self.chunk_size * self.chunk_size])

    def release(self, slot: int) -> None:
        assert slot not in self._free, f"slot {slot} is free already"
        self._free[slot] = None

    def forget(self, slot: int) -> None:
        """Trust nothing of what the slot holds."""
        self._prefixes[slot] = ()

    def _longest_shared(self, prompt_ids: tuple[int, ...]) -> tuple[int, int]:
        """The slot that shares most whole chunks with the prompt, a free one if several do, and how many tokens these are."""
        lengths = {slot: self._shared(prefix, prompt_ids) for slot, prefix in enumerate(self._prefixes)}
        best = max(lengths, key=lambda slot: (lengths[slot], slot in self._free))
        return best, lengths[best]

    def _shared(self, prefix: tuple[int, ...], prompt_ids: tuple[int, ...]) -> int:
        length = 0
        for end in range(self.chunk_size, min(len(prefix), len(prompt_ids)) + 1, self.chunk_size):
            if prefix[length:end] != prompt_ids[length:end]:
                break
            length = end
        return length
