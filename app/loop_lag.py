"""How late the event loop comes to what is due. Measures; knows nothing of what keeps it busy."""

import asyncio
import time
from collections.abc import Callable

LOOK_SECONDS = 0.25


class LoopLag:
    """Tells `observe` every LOOK_SECONDS by how many seconds a timer was late, to the millisecond that uvloop's timers have."""

    def __init__(self, observe: Callable[[float], object]) -> None:
        self._observe = observe
        self._due = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        self._due = time.monotonic() + LOOK_SECONDS  # the loop's own clock stands still between two of its rounds
        self._timer = asyncio.get_running_loop().call_later(LOOK_SECONDS, self._look)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _look(self) -> None:
        self._observe(max(time.monotonic() - self._due, 0.0))
        self.start()
