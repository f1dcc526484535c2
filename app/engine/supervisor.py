"""When an engine counts as hung, and when one that crashed is replaced. Counts and times; knows no thread and no engine."""

import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable

from model.batch import RunnerLost

LOOK_SECONDS = 0.25  # how often somebody looks whether the engine lives
# Of silence between two looks no more counts: whoever looks late was stopped, as the whole process is by SIGSTOP, or kept busy,
# and what the engine has said meanwhile may not have been read yet.
MAX_COUNTED_SECONDS = 2 * LOOK_SECONDS
MAX_FAILURES = 5  # in FAILURE_SECONDS are borne; after one more another engine on this runner will not help
FAILURE_SECONDS = 60.0
SLOWEST_STEPS = 8  # that are borne in silence: a step that fails is run again in parts, which takes as long as some


class Supervisor:
    """Hears an engine's signs of life and counts its crashes. `stall_seconds` of silence are borne, or more on a slow machine."""

    def __init__(self, stall_seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._stall_seconds, self._clock = stall_seconds, clock
        self._looked_at = clock()
        self.silent_seconds = 0.0
        self._failures: deque[float] = deque(maxlen=MAX_FAILURES + 1)

    def expect_steps_of(self, seconds: float) -> None:
        """Bear the silence of steps that take so long."""
        self._stall_seconds = max(self._stall_seconds, SLOWEST_STEPS * seconds)

    def hear(self) -> None:
        """Note a sign of life."""
        self._looked_at, self.silent_seconds = self._clock(), 0.0

    def is_stalled(self) -> bool:
        """Look at the clock; asked every LOOK_SECONDS."""
        now = self._clock()
        self.silent_seconds += min(now - self._looked_at, MAX_COUNTED_SECONDS)
        self._looked_at = now
        return self.silent_seconds > self._stall_seconds

    def may_replace(self, error: BaseException) -> bool:
        """Note a crash; whether another engine may take its place in this process."""
        now = self._clock()
        self._failures.append(now)
        is_too_often = len(self._failures) > MAX_FAILURES and now - self._failures[0] <= FAILURE_SECONDS
        return not (is_too_often or isinstance(error, RunnerLost))


def stacks() -> str:
    """Where every thread stands: files, lines and functions, never a value."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    frames = sys._current_frames().items()
    return "\n".join(f"thread {names.get(i, i)}:\n{''.join(traceback.format_stack(frame))}" for i, frame in frames)
