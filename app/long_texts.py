"""Texts whose reading the event loop cannot wait for: one at a time, in a thread of their own, and no more than a bound.

A text of a megabyte keeps a core busy for about a second, and the interpreter from the engine's thread for a part of that. Those
that wait take turns by the piece, so that a long answer does not hold up all who came after it. An answer that its client does not
read is no work: such answers are bounded apart, and hold up none but their like. Knows no tokenizer and no HTTP.
"""

import asyncio
import contextlib
import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from app.errors import MAX_RETRY_AFTER, LongTextsFull
from app.metrics import Metrics

INLINE_BYTES = 8192  # of text, or token ids: these take under 2 ms
MAX_WAITING_BYTES = 4 << 20  # four of the largest bodies, or seconds
MAX_UNSENT_BYTES = 8 << 20  # of texts whose answers are under way, each of which holds 15 times its size in memory
PAUSE_SECONDS = 0.002  # behind a piece of half a millisecond: streams go on at nearly their pace, a megabyte takes a second more
USUAL_BYTES_A_SECOND = 1e6  # until it is measured
MEASURED_SHARE = 0.2  # of the latest text in the measured rate

Result = TypeVar("Result")


class LongTexts:
    """The thread, and how much is to be done in it. To be called on the event loop alone."""

    def __init__(self, metrics: Metrics, others_compute: Callable[[], bool]) -> None:
        self._metrics, self._others_compute = metrics, others_compute
        self._thread = ThreadPoolExecutor(1, "long-texts")
        self._turns = asyncio.Lock()  # whose waiters are woken in their order
        self._rate = USUAL_BYTES_A_SECOND
        self._unsent: dict[object, tuple[int, float]] = {}  # the answers, oldest first: their texts' sizes, and since when
        self.num_bytes = 0

    @property
    def num_unsent_bytes(self) -> int:
        return sum(size for size, _ in self._unsent.values())

    async def run(self, size: int, work: Callable[[], Result]) -> Result:
        """Do the work on this much text, here if it is little; raises LongTextsFull."""
        if size <= INLINE_BYTES:
            return work()
        with self.admitted(size):
            return await self.turn(work)

    @contextlib.contextmanager
    def admitted(self, size: int) -> Iterator[None]:
        """Take a place in the queue for all the turns of one text; a text larger than all of the queue gets it for itself."""
        if self.num_bytes and self.num_bytes + size > MAX_WAITING_BYTES:
            raise LongTextsFull(self.num_bytes, "wait already", MAX_WAITING_BYTES, _retry_after(self.num_bytes / self._rate))
        self._add(size)
        started = time.monotonic()
        try:
            yield
            self._measure(size, time.monotonic() - started)
        finally:
            self._add(-size)

    @contextlib.contextmanager
    def answering(self, size: int) -> Iterator[None]:
        """Take room for a text's answer until its client has read it; a larger one than all of the room gets it for itself.

        Who is refused is told to wait as long again as the oldest has been there: those that read are soon gone, and the
        connection of one that does not is cut off at a time unknown here.
        """
        num_unsent, now = self.num_unsent_bytes, time.monotonic()
        if num_unsent and num_unsent + size > MAX_UNSENT_BYTES:
            _, since = next(iter(self._unsent.values()))
            raise LongTextsFull(num_unsent, "have answers under way", MAX_UNSENT_BYTES, _retry_after(now - since))
        answer = object()
        self._unsent[answer] = size, now
        self._metrics.long_texts_unsent.set(self.num_unsent_bytes)
        try:
            yield
        finally:
            del self._unsent[answer]
            self._metrics.long_texts_unsent.set(self.num_unsent_bytes)

    async def turn(self, work: Callable[[], Result]) -> Result:
        """A piece of the work, behind those of others that wait; with a pause behind it while tokens are generated."""
        async with self._turns:
            result = await asyncio.get_running_loop().run_in_executor(self._thread, work)
            if self._others_compute():
                await asyncio.sleep(PAUSE_SECONDS)
            return result

    def close(self) -> None:
        """Drop what waits; what runs is waited for."""
        self._thread.shutdown(cancel_futures=True)

    def _add(self, size: int) -> None:
        self.num_bytes += size
        self._metrics.long_texts_bytes.set(self.num_bytes)

    def _measure(self, size: int, seconds: float) -> None:
        """The rate at which the queue moves: of this text and all that was there beside it."""
        self._metrics.long_texts.observe(seconds)
        self._rate += MEASURED_SHARE * (self.num_bytes / max(seconds, 1e-6) - self._rate)


def _retry_after(seconds: float) -> int:
    return min(max(math.ceil(seconds), 1), MAX_RETRY_AFTER)


def text_size(text: str) -> int:
    """Bytes of UTF-8: there are no more tokens than these. (Half a surrogate pair is refused elsewhere.)"""
    return len(text) if text.isascii() else len(text.encode(errors="replace"))
