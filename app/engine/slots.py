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


# A shorter prefix is computed as quickly as it is copied, and would cost the slot what it holds of another prompt.
MIN_SHARED = 16


class SlotPool:
    """Hands out slots; a new prompt starts from the slot that shares its longest prefix, in place or by copying.

    Prefixes are shared up to a multiple of `multiple`, and never the stretch with a prompt's last token, which has to run again.
    It is 1 with a runner for which any prefix will do, and else the prefill chunk: a position's bits depend then on where its chunk
    is cut, so that anything else would make an answer depend on what was asked before.
    """

    def __init__(self, num_slots: int, multiple: int) -> None:
        self.num_slots, self.multiple = num_slots, multiple
        self.min_shared = MIN_SHARED if multiple == 1 else multiple
        # Token ids, maybe of a sequence that still grows, and how many of them count.
        self._contents: list[tuple[Sequence[int], int]] = [((), 0)] * num_slots
        self._free: OrderedDict[int, None] = OrderedDict.fromkeys(range(num_slots))  # least recently used first

    @property
    def num_free(self) -> int:
        return len(self._free)

    @property
    def num_used(self) -> int:
        return self.num_slots - len(self._free)

    def acquire(self, prompt_ids: Sequence[int]) -> Acquired:
        """Take a free slot, which there must be."""
        source, length = self._longest_shared(prompt_ids)
        in_place = length > 0 and source in self._free
        slot = source if in_place else next(iter(self._free))
        del self._free[slot]
        self._contents[slot] = (prompt_ids, length)
        copy = None if in_place or length == 0 else PrefixCopy(source, slot, length)
        return Acquired(slot, length, copy)

    def record(self, slot: int, token_ids: Sequence[int], length: int) -> None:
        """Say that a slot holds the first `length` of these tokens, to be shared from now on; the caller may append to them."""
        self._contents[slot] = (token_ids, length // self.multiple * self.multiple)

    def contents(self, slot: int) -> tuple[int, ...]:
        """What may be shared of a slot."""
        token_ids, length = self._contents[slot]
        return tuple(token_ids[:length])

    def release(self, slot: int) -> None:
        assert slot not in self._free, f"slot {slot} is free already"
        self._free[slot] = None

    def forget(self, slot: int) -> None:
        """Trust nothing of what the slot holds."""
        self._contents[slot] = ((), 0)

    def _longest_shared(self, prompt_ids: Sequence[int]) -> tuple[int, int]:
        """The slot that shares most with the prompt, a free one if several do, and how many tokens these are."""
        lengths = {slot: self._shared(slot, prompt_ids) for slot in range(self.num_slots)}
        best = max(lengths, key=lambda slot: (lengths[slot], slot in self._free))
        return best, lengths[best]

    def _shared(self, slot: int, prompt_ids: Sequence[int]) -> int:
        token_ids, length = self._contents[slot]
        common = _num_common(token_ids, prompt_ids, min(length, len(prompt_ids) - 1))
        return common // self.multiple * self.multiple if common >= self.min_shared else 0


def _num_common(a: Sequence[int], b: Sequence[int], limit: int) -> int:
    """How many of the first `limit` values are equal; by halving, since slices compare much faster than a loop does."""
    low, high = 0, limit
    while low < high:
        middle = (low + high + 1) // 2
        if tuple(a[low:middle]) == tuple(b[low:middle]):
            low = middle
        else:
            high = middle - 1
    return low
