"""How large steps may be on a device that has run out of memory. Knows counts and times."""

GROW_SECONDS = 5.0  # without an error, until steps twice as large are tried


class Room:
    """Bounds the tokens of a step once one found no memory; the bound doubles as time passes, until no step reaches it."""

    def __init__(self, most: int) -> None:
        self._most = most  # tokens of the largest step there can be
        self._limit = most
        self._changed_at = 0.0

    @property
    def limit(self) -> int | None:
        """The most tokens of a step, None where any will do."""
        return None if self._limit >= self._most else self._limit

    def halve(self, num_tokens: int, now: float) -> None:
        """Note that a step of `num_tokens` found no memory."""
        self._limit, self._changed_at = max(num_tokens // 2, 1), now

    def lift(self) -> None:
        """Note that smaller steps were no help: one row needs more than there is, and it was not the others' fault."""
        self._limit = self._most

    def grow(self, now: float) -> None:
        while self._limit < self._most and now - self._changed_at >= GROW_SECONDS:
            self._limit, self._changed_at = self._limit * 2, self._changed_at + GROW_SECONDS
