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
    """Hands out slots; a new sequence starts from the slot that shares its longest prefix, in place or by copying.

    Prefixes are shared up to a multiple of `multiple`. It is 1 with a runner for which any prefix will do, and else the prefill
    chunk: a position's bits depend then on where its chunk is cut, so that anything else would make an answer depend on what was
    asked before.
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

    def acquire(self, token_ids: Sequence[int], max_reused: int, is_fork: bool = False) -> Acquired:
        """Take a free slot, which there must be, for a sequence that may start with at most `max_reused` positions filled.

        A fork is a sequence whose whole prompt somebody else has run, with the same cuts: it takes over just that.
        """
        source, length = self.longest_shared(token_ids, max_reused, is_fork)
        in_place = length > 0 and source in self._free
        slot = source if in_place else next(iter(self._free))
        del self._free[slot]
        self._contents[slot] = (token_ids, length)
        copy = None if in_place or length == 0 else PrefixCopy(source, slot, length)
        return Acquired(slot, length, copy)

    def record(self, slot: int, token_ids: Sequence[int], length: int) -> None:
        """Say that a slot holds the first `length` of these tokens, to be shared from now on; the caller may append to them."""
        self._contents[slot] = (token_ids, length)

    def contents(self, slot: int) -> tuple[int, ...]:
        """What a slot holds."""
        token_ids, length = self._contents[slot]
        return tuple(token_ids[:length])

    def release(self, slot: int) -> None:
        assert slot not in self._free, f"slot {slot} is free already"
        self._free[slot] = None

    def forget(self, slot: int) -> None:
        """Trust nothing of what the slot holds."""
        self._contents[slot] = ((), 0)

    def longest_shared(self, token_ids: Sequence[int], max_reused: int, is_fork: bool = False) -> tuple[int, int]:
        """The slot that shares most with these tokens, a free one if several do, and how many positions these are."""
        best, longest = 0, 0
        for slot in (*self._free, *range(self.num_slots)):  # of equals the first stays, a free one
            if longest == max_reused:
                break
            held, length = self._contents[slot]
            # The token that would make it longer than the best so far tells of most slots that they need not be compared.
            if longest < length and held[longest] == token_ids[longest]:
                shared = self._shared(slot, token_ids, max_reused, is_fork)
                if shared > longest:
                    best, longest = slot, shared
        return best, longest

    def shareable(self, held: Sequence[int], token_ids: Sequence[int], limit: int) -> int:
        """How many of the first `limit` tokens may be shared by two that begin so; none if it is too few to be worth it."""
        last = self.min_shared - 1
        if limit <= last or held[last] != token_ids[last]:  # so it is with most, and quickly seen
            return 0
        common = num_common(held, token_ids, limit) // self.multiple * self.multiple
        return common if common >= self.min_shared else 0

    def _shared(self, slot: int, token_ids: Sequence[int], max_reused: int, is_fork: bool) -> int:
        held, length = self._contents[slot]
        holds_all = length == max_reused or (length > max_reused and self.multiple == 1)
        if is_fork and holds_all and num_common(held, token_ids, max_reused) == max_reused:
            return max_reused
        return self.shareable(held, token_ids, min(length, max_reused))


def num_common(a: Sequence[int], b: Sequence[int], limit: int) -> int:
    """How many of the first `limit` values are equal; by halving, since slices compare much faster than a loop does."""
    low, high = 0, limit
    while low < high:
        middle = (low + high + 1) // 2
        if tuple(a[low:middle]) == tuple(b[low:middle]):
            low = middle
        else:
            high = middle - 1
    return low
