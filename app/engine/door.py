"""Who is let in: bounds on the samples that wait, on the work in tokens and on the time they would wait, and when others may come.

Counts and times; knows no thread.
"""

import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from app.errors import MAX_RETRY_AFTER, Draining, QueueFull, TooMuchWork, WaitTooLong, WorkFull

RATE_SECONDS = 5.0  # how far back the rate is measured
CAUTION = 1.25  # requests end in lumps, and who was let in is not to wait for longer than was thought
EARLY_SECONDS = 0.2  # of steps, after which they tell the rate until enough has left
MAX_LEFT = 1024  # that are remembered for it
MAX_TURNOVERS = 4  # of all that is inside: so far ahead places are told, however often somebody asks for one


@dataclass(slots=True, eq=False)
class Visit:
    """A request inside: its samples that have not ended, and the work in tokens that they may still take."""

    num_samples: int
    num_tokens: int


class Rate:
    """Work that leaves in a second, while all slots are taken: at other times it could be faster than it has to be.

    Until as many samples have left as there are slots, those are told that end soonest, so it is what the steps compute in a
    second: less than leaves where requests end before they have all that they asked for, but known at once.
    """

    def __init__(self, min_samples: int, clock: Callable[[], float]) -> None:
        self._min_samples, self._clock = min_samples, clock
        self._seconds = 0.0  # that were measured, but for those since `_since`
        self._since: float | None = None
        self._left: deque[tuple[float, int, int]] = deque()
        self._first = 0.0  # since when, in measured seconds, the following have left
        self._num_samples = self._num_tokens = 0
        self._num_computed = 0

    def measure(self, is_busy: bool) -> None:
        if is_busy == (self._since is None):
            now = self._clock()
            self._seconds = self._elapsed(now)
            self._since = now if is_busy else None

    def add(self, num_samples: int, num_tokens: int) -> None:
        """Note what has left completed."""
        if self._since is None:
            return
        elapsed = self._elapsed(self._clock())
        self._left.append((elapsed, num_samples, num_tokens))
        self._num_samples += num_samples
        self._num_tokens += num_tokens
        while len(self._left) > MAX_LEFT or self._is_old(elapsed):
            self._first, num_samples, num_tokens = self._left.popleft()
            self._num_samples -= num_samples
            self._num_tokens -= num_tokens

    def compute(self, num_tokens: int) -> None:
        """Note what a step has computed."""
        if self._since is not None:
            self._num_computed += num_tokens

    def per_second(self) -> float | None:
        """Tokens a second; None while nothing tells it."""
        elapsed = self._elapsed(self._clock())
        if self._num_samples >= self._min_samples:
            return max(self._num_tokens, 1) / max(elapsed - self._first, 1e-3)
        return self._num_computed / elapsed if self._num_computed and elapsed > EARLY_SECONDS else None

    def guess(self, num_tokens: float) -> float:
        """The same, or where it is None as if `num_tokens` left now: the longer that takes, the longer is the wait."""
        return self.per_second() or max(self._num_tokens, num_tokens, 1) / max(self._elapsed(self._clock()) - self._first, 1e-3)

    def _is_old(self, elapsed: float) -> bool:
        """Of slow completions some are kept in any case: what takes long is no reason to know nothing."""
        return elapsed - self._left[0][0] > RATE_SECONDS and self._num_samples - self._left[0][1] >= self._min_samples

    def _elapsed(self, now: float) -> float:
        return self._seconds + (0.0 if self._since is None else now - self._since)


class Door:
    """At most `max_running` samples (the engine's slots) and `max_waiting` more are inside, with `max_tokens` of work.

    The work of a request is its prompt and all that it may generate, until it ends, however much of that is needed. Work that ends
    in a second tells how long those would wait who come now: not more than `max_wait_seconds`. A request comes in whole or not at
    all: one that finds room may bring more samples than there is room for, but no more work. Slots are given in the order of
    arrival. None is no bound.
    """

    def __init__(
        self,
        max_running: int,
        max_waiting: int,
        max_tokens: int | None = None,
        max_wait_seconds: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.max_running, self.max_waiting = max_running, max_waiting
        self.max_tokens, self.max_wait_seconds, self._clock = max_tokens, max_wait_seconds, clock
        self.num_inside = self.num_tokens = 0
        self._waiting: dict[Visit, None] = {}  # in the order of arrival
        self._num_waiting_tokens = 0
        self._num_running = 0  # samples of the others
        self._rate = Rate(max_running, clock)
        self._told_until = 0.0
        self._is_closed = False

    def check_open(self) -> None:
        if self._is_closed:
            raise Draining

    def check_room(self) -> None:
        """Refuse who comes now whatever the request is: raises QueueFull, WorkFull, WaitTooLong or Draining."""
        self.check_open()
        num_waiting = self.num_inside - self.max_running
        if num_waiting >= self.max_waiting:
            raise QueueFull(num_waiting, self.max_waiting, self._retry_after(0.0))
        if self.max_tokens is not None and self.num_tokens >= self.max_tokens:
            raise WorkFull(self.num_tokens, 1, self.max_tokens, self._retry_after(0.0))
        if self.max_wait_seconds is not None and (wait := self.wait_seconds) > self.max_wait_seconds:
            raise WaitTooLong(wait, "the limit", self.max_wait_seconds, self._retry_after(wait - self.max_wait_seconds))

    def check(self, num_tokens: int, patience: float | None = None) -> None:
        """The same for a request that brings so much work and would wait for `patience` seconds at most.

        Raises TooMuchWork if it can never come in.
        """
        if self.max_tokens is not None and num_tokens > self.max_tokens:
            raise TooMuchWork(num_tokens, self.max_tokens)
        self.check_room()
        if self.max_tokens is not None and self.num_tokens + num_tokens > self.max_tokens:
            too_many = self.num_tokens + num_tokens - self.max_tokens
            seconds = too_many / self._rate.guess(self._mean_tokens)
            raise WorkFull(self.num_tokens, num_tokens, self.max_tokens, self._retry_after(seconds))
        if patience is not None and (wait := self.wait_seconds) > patience:
            raise WaitTooLong(wait, "its timeout_seconds", patience, self._retry_after(wait - patience))

    def enter(self, num_samples: int, num_tokens: int) -> Visit:
        """Let in a request that was checked."""
        visit = Visit(num_samples, num_tokens)
        self.num_inside += num_samples
        self.num_tokens += num_tokens
        if self._num_running < self.max_running:
            self._num_running += num_samples
            self._told_until = 0.0  # nobody waits: who was told to come later does, and the next is told anew
        else:
            self._waiting[visit] = None
            self._num_waiting_tokens += num_tokens
        self._rate.measure(self._num_running >= self.max_running)
        return visit

    def leave(self, visit: Visit, num_samples: int, num_tokens: int, is_completed: bool) -> None:
        """Note that samples have ended; those that were given up say nothing of how fast the others become free."""
        visit.num_samples -= num_samples
        visit.num_tokens -= num_tokens
        self.num_inside -= num_samples
        self.num_tokens -= num_tokens
        if visit in self._waiting:
            self._num_waiting_tokens -= num_tokens
            if not visit.num_samples:
                del self._waiting[visit]
        else:
            self._num_running -= num_samples
        if is_completed:
            self._rate.add(num_samples, num_tokens)
        while self._waiting and self._num_running < self.max_running:
            self._start(next(iter(self._waiting)))
        self._rate.measure(self._num_running >= self.max_running)

    def compute(self, num_tokens: int) -> None:
        """Note what a step has computed or found computed, of prompts and of texts."""
        self._rate.compute(num_tokens)

    def close(self) -> None:
        """Let nobody in any more."""
        self._is_closed = True

    @property
    def wait_seconds(self) -> float:
        """About how long those would wait for a slot who come now; 0 while that is not known."""
        if self._num_running < self.max_running or (rate := self._rate.per_second()) is None:
            return 0.0
        # Those before have to start, and then one more sample has to end.
        num_running_tokens = self.num_tokens - self._num_waiting_tokens
        return CAUTION * (self._num_waiting_tokens + num_running_tokens / self._num_running) / rate

    @property
    def _mean_tokens(self) -> float:
        return self.num_tokens / max(self.num_inside, 1)

    def _start(self, visit: Visit) -> None:
        del self._waiting[visit]
        self._num_waiting_tokens -= visit.num_tokens
        self._num_running += visit.num_samples

    def _retry_after(self, seconds: float) -> int:
        """Whole seconds until there is a place, in `seconds` at the earliest, of which nobody has been told yet.

        So those who were sent away do not come back all at once. After a minute's places, or some turnovers', it begins again: who
        comes again and again must not keep the others away for long.
        """
        now, mean = self._clock(), self._mean_tokens
        rate = self._rate.guess(mean)
        limit = min(seconds + MAX_TURNOVERS * self.num_tokens / rate, MAX_RETRY_AFTER)
        place = max(self._told_until, now + seconds) + mean / rate
        self._told_until = place if place - now <= limit else 0.0
        return max(math.ceil(min(place - now, limit)), 1)
