"""Finished answers whose clients have not read them to the end: they are in memory, and bounded apart from the queue.

To be called on the event loop alone.
"""

import contextlib
import math
import time
from collections.abc import Iterator

from app.errors import MAX_RETRY_AFTER, InspectionsFull
from app.metrics import Metrics

MAX_UNSENT_BYTES = 64 << 20  # beyond it nothing is begun: what is in memory is this and the answers under way then


class Unsent:
    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._answers: dict[object, tuple[int, float]] = {}  # the oldest first: its size, and since when

    @property
    def num_bytes(self) -> int:
        return sum(size for size, _ in self._answers.values())

    def check_room(self) -> None:
        """Raises InspectionsFull: an answer's end is unknown, and who is refused is to wait as long again as the oldest has."""
        num_bytes = self.num_bytes
        if num_bytes >= MAX_UNSENT_BYTES:
            _, since = next(iter(self._answers.values()))
            seconds = min(max(math.ceil(time.monotonic() - since), 1), MAX_RETRY_AFTER)
            raise InspectionsFull(f"{num_bytes} bytes of inspections are not read yet", MAX_UNSENT_BYTES, seconds)

    @contextlib.contextmanager
    def sending(self, num_bytes: int) -> Iterator[None]:
        """An answer of this size, until it is read or its client is gone."""
        answer = object()
        self._answers[answer] = num_bytes, time.monotonic()
        self._tell()
        try:
            yield
        finally:
            del self._answers[answer]
            self._tell()

    def _tell(self) -> None:
        self._metrics.inspections_unsent.set(self.num_bytes)
