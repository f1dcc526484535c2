"""A run's end by the clock, whatever its speed turns out to be. Knows times; not what is done in them."""

import math
import time

from model.training.errors import TrainingError


def check_minutes(minutes: float | None) -> None:
    """Raises TrainingError for a length that is given and that no run can have."""
    if minutes is not None and not 0 < minutes < math.inf:
        raise TrainingError(f"--minutes is {minutes}; it must be above 0 and finite")


class Deadline:
    """When the last step is to be made, by time.monotonic(), and how much of the time until then is over.

    The time counts from the end of the first step, which may be compiled for a minute: nothing is learned meanwhile, and learning
    rates that fell with the clock would be spent before they were used.
    """

    def __init__(self, at: float) -> None:
        self._at = at
        self._began: float | None = None

    def begin(self) -> None:
        """A step is made, maybe the first."""
        if self._began is None:
            self._began = time.monotonic()

    @property
    def seconds_left(self) -> float:
        return max(0.0, self._at - time.monotonic())

    @property
    def has_passed(self) -> bool:
        return not self.seconds_left

    @property
    def share(self) -> float:
        """From 0, until the first step is made, to 1."""
        if self._began is None:
            return 0.0
        left = self.seconds_left
        return 1 - left / (self._at - self._began) if left else 1.0
