"""Who is let in: a bound on the samples that wait, and how long somebody should stay away. Counts and times; knows no thread."""

import math
import time
from collections import deque
from collections.abc import Callable

from app.errors import NotReady, QueueFull, WaitTooLong

RATE_SECONDS = 30.0  # how far back the rate of completions is measured
MAX_RETRY_AFTER = 60


class Door:
    """At most `max_running` samples (the engine's slots) and `max_waiting` more are inside.

    A request comes in whole or not at all: one that finds room may bring more samples than there is room for.
    """

    def __init__(self, max_running: int, max_waiting: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.max_running, self.max_waiting, self._clock = max_running, max_waiting, clock
        self.num_inside = 0
        self._is_closed = False
        self._busy_since = 0.0
        self._completions: deque[float] = deque(maxlen=64)

    def check_open(self) -> None:
        if self._is_closed:
            raise NotReady("the service is shutting down")

    def enter(self, num_samples: int, patience: float | None = None) -> None:
        """Let samples in; raises QueueFull, WaitTooLong if they would wait for more than `patience` seconds, or NotReady."""
        self.check_open()
        num_waiting = self.num_inside - self.max_running
        if num_waiting >= self.max_waiting:
            raise QueueFull(num_waiting, self.max_waiting, self._retry_after(num_waiting))
        # One completion or none is no rate yet: who can still be in time is let in.
        if patience is not None and num_waiting >= 0 and len(self._recent) > 1:
            wait = (num_waiting + 1) / self._rate
            if wait > patience:
                raise WaitTooLong(wait, patience, self._retry_after(num_waiting + 1))
        if not self.num_inside:
            self._busy_since = self._clock()
        self.num_inside += num_samples

    def leave(self, num_samples: int, is_completed: bool) -> None:
        """Note that samples have ended; those that were given up say nothing of how fast the others become free."""
        self.num_inside -= num_samples
        if is_completed:
            self._completions.extend([self._clock()] * num_samples)

    def close(self) -> None:
        """Let nobody in any more."""
        self._is_closed = True

    def _retry_after(self, num_waiting: int) -> int:
        """Seconds until those who wait will have started, at the rate of the latest completions."""
        return min(max(math.ceil(num_waiting / self._rate), 1), MAX_RETRY_AFTER)

    @property
    def _recent(self) -> list[float]:
        now = self._clock()
        return [finished for finished in self._completions if now - finished < RATE_SECONDS]

    @property
    def _rate(self) -> float:
        """Samples a second that have completed lately.

        Where there was none yet it is as if the first came now: the longer that takes, the longer the wait.
        """
        now, recent = self._clock(), self._recent
        # What is older than the oldest that is remembered does not count.
        since = max(now - RATE_SECONDS, recent[0] if len(recent) == self._completions.maxlen else self._busy_since)
        return max(len(recent), 1) / max(now - since, 1e-3)
