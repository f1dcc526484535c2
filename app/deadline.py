"""When a request has to be complete: its own timeout_seconds, or the service's. Knows no engine and no HTTP."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

from app.errors import DeadlinePassed, InvalidRequest, ServiceError


@dataclass(frozen=True, slots=True)
class Deadline:
    """`seconds` from arrival on; `at` is a time of the monotonic clock."""

    seconds: float
    at: float

    @property
    def seconds_left(self) -> float:
        return self.at - time.monotonic()

    def check(self) -> None:
        """Raise DeadlinePassed once it has: an answer that is complete after it is late all the same."""
        if self.seconds_left <= 0:
            raise DeadlinePassed(self.seconds)

    def alarm(self, abort: Callable[[ServiceError], None]) -> asyncio.TimerHandle:
        """Have `abort` called when it passes."""
        return asyncio.get_running_loop().call_later(self.seconds_left, abort, DeadlinePassed(self.seconds))


@dataclass(frozen=True, slots=True)
class Timeouts:
    """What requests get that name none, and the most that one may name; 0 is none."""

    default_seconds: float = 0.0
    max_seconds: float = 0.0

    def deadline(self, asked: float | None, arrived: float) -> Deadline | None:
        """Raises InvalidRequest for more than may be asked for."""
        if asked is not None and 0 < self.max_seconds < asked:
            raise InvalidRequest(
                f"timeout_seconds: {asked:g} is refused: the most that this server takes is {self.max_seconds:g}",
                param="timeout_seconds",
            )
        seconds = asked or self.default_seconds or self.max_seconds
        return Deadline(seconds, arrived + seconds) if seconds else None
