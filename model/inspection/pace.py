"""How fast the process that inspects goes: beside a service that generates it rests for most of the time.

Priorities are not enough. Measured on Linux 6.18 with two cores (Zen 4, default checkpoint): the 95th percentile of the time
between two tokens of one stream was 3 to 5 times as long beside inspections at the lowest priority, 2.7 times under SCHED_IDLE.
"""

import threading
import time
from collections.abc import Callable

REST = 49  # times as long as was computed before it: of a hundred tokens two are made beside an inspection
MAX_REST_SECONDS = 20.0  # of one inspection, which has a deadline: from then on priorities alone hold it back


class Pace:
    """`rest` is called where the work can pause, by the thread that does it; the others by any."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._may_go = threading.Event()
        self._may_go.set()
        self.begin()

    def begin(self) -> None:
        """An inspection begins."""
        self._since, self._left = self._clock(), MAX_REST_SECONDS

    def hold(self) -> None:
        """The service generates."""
        self._may_go.clear()

    def go(self) -> None:
        """It does not, or nobody waits for the inspection any more; a rest ends."""
        self._may_go.set()

    def rest(self) -> None:
        """For as long as what was computed since the last one demands."""
        before = self._clock()
        self._may_go.wait(min(REST * (before - self._since), self._left))
        self._since = self._clock()
        self._left = max(self._left - (self._since - before), 0.0)
