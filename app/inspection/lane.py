"""The slow lane: one process that inspects, the queue for it and its life. Lives on the event loop; knows no body and no tensor.

The process is started by the first request, and by the next one after it died or was idle for a while: docs/operate.md tells how
much memory it takes. What nobody waits for any more is not computed on.
"""

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from app.errors import MAX_RETRY_AFTER, InspectionFailed, InspectionsFull
from app.inspection.child import Answer, Child
from app.inspection.unsent import Unsent
from app.metrics import Metrics
from model.config import GPT2Config

MAX_WAITING = 8  # beside the one that is computed
IDLE_SECONDS = 600.0
START_SECONDS = 300.0  # for PyTorch and the weights of the largest, at the lowest priority
ABANDON_SECONDS = 10.0  # for the layer under way; a process that takes longer is killed, and the next request starts another
LOOK_SECONDS = 0.05  # between two looks whether the service generates, while an inspection is computed
QUIET_SECONDS = 0.5  # without a request before it counts as one that does not: a client's requests follow each other
USUAL_SECONDS = 1.0  # of an inspection, until it is measured
MEASURED_SHARE = 0.2  # of the latest one in the mean
log = logging.getLogger("gpt2.inspection")


@dataclass(frozen=True, slots=True)
class NoLane:
    """The place of a lane where there is none; `reason` says why, and what to do."""

    reason: str

    async def drain(self, seconds: float) -> None:
        """As a lane, which may have something under way."""

    async def close(self) -> None:
        """As a lane, which may have a process."""


class Lane:
    """One process at most, which `new_child` starts, for a network of these sizes. To be called on the event loop alone.

    It is held back while `generates` says that the service does.
    """

    def __init__(self, config: GPT2Config, new_child: Callable[[], Child], metrics: Metrics, generates: Callable[[], bool]) -> None:
        self.config, self._new_child, self._metrics, self._generates = config, new_child, metrics, generates
        self._thread = ThreadPoolExecutor(1, "inspection")  # in which the process is waited for
        self._turns = asyncio.Lock()  # whose waiters are woken in their order
        self._starting: asyncio.Future[Child] | None = None  # or started
        self._child: Child | None = None  # of which there is a process, ready or not
        self._idle: asyncio.TimerHandle | None = None
        self._mean_seconds = USUAL_SECONDS
        self._number = 0  # of the request that was asked last
        self._is_closed = False
        self.unsent = Unsent(metrics)
        self.num_inside = 0
        self._empty = asyncio.Event()
        self._empty.set()

    @contextlib.contextmanager
    def place(self) -> Iterator[None]:
        """A place in the queue; raises InspectionsFull."""
        if self.num_inside > MAX_WAITING:
            seconds = min(max(math.ceil(self.num_inside * self._mean_seconds), 1), MAX_RETRY_AFTER)
            raise InspectionsFull(f"{self.num_inside - 1} inspections wait already", MAX_WAITING, seconds)
        self.unsent.check_room()
        self._count(1)
        try:
            yield
        finally:
            self._count(-1)

    async def ask(self, message: dict[str, object]) -> Answer:
        """When it is this one's turn; who is cancelled leaves the lane to the next.

        Raises InvalidRequest, InspectionFailed, and InspectionsFull if too much that came before is not read.
        """
        async with self._turns:
            self.unsent.check_room()
            self._stay()
            self._metrics.inspections_running.set(1)
            try:
                return await self._answer(await self._ready_child(), message)
            finally:
                self._metrics.inspections_running.set(0)
                self._idle = asyncio.get_running_loop().call_later(IDLE_SECONDS, self._drop)

    async def drain(self, seconds: float) -> None:
        """Wait for those that are inside, for so long at most."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._empty.wait(), seconds)

    async def close(self) -> None:
        """End the process; who still waits for it gets InspectionFailed."""
        self._is_closed = True
        self._stay()
        self._drop()
        await asyncio.to_thread(self._thread.shutdown)
        if self._child is not None:  # it was about to be a process when this began
            await asyncio.to_thread(self._child.close)
            self._child = None

    async def _ready_child(self) -> Child:
        """One that takes requests. Whose time is up while it starts leaves it to the next."""
        self._check_open()
        if self._child is not None and not self._child.is_alive:
            self._drop()
        if self._starting is None:
            self._metrics.inspection_starts.inc()
            self._starting = asyncio.get_running_loop().run_in_executor(self._thread, self._start)
            self._starting.add_done_callback(self._look_at_start)
        child = await asyncio.shield(self._starting)
        self._check_open()
        return child

    def _check_open(self) -> None:
        if self._is_closed:
            raise InspectionFailed("the service ends")

    def _start(self) -> Child:
        self._child = child = self._new_child()
        if self._is_closed:  # which may have found no process yet
            child.kill()
        child.wait_until_ready(START_SECONDS)
        return child

    def _look_at_start(self, starting: asyncio.Future[Child]) -> None:
        """Nobody may wait for it any more."""
        if starting.exception() is not None and starting is self._starting:
            self._drop()

    async def _answer(self, child: Child, message: dict[str, object]) -> Answer:
        started = time.monotonic()
        self._number += 1
        asking = asyncio.get_running_loop().run_in_executor(self._thread, child.ask, self._number, message)
        holding = asyncio.create_task(self._hold_back(child))
        try:
            answer = await asyncio.shield(asking)
        except asyncio.CancelledError:
            await self._settle(child, asking)
            raise
        finally:
            holding.cancel()
        self._measure(time.monotonic() - started)
        return answer

    async def _hold_back(self, child: Child) -> None:
        """Tell it whether the service generates: now, and whenever that changes."""
        told, latest = None, -math.inf
        while True:
            now = time.monotonic()
            if self._generates():
                latest = now
            if (is_held := now - latest < QUIET_SECONDS) is not told:
                await asyncio.to_thread(child.hold, told := is_held)
            await asyncio.sleep(LOOK_SECONDS)

    async def _settle(self, child: Child, asking: asyncio.Future[Answer]) -> None:
        """Have it stop, and take what it still answers."""
        await asyncio.to_thread(child.abandon, self._number)
        await asyncio.wait([asking], timeout=ABANDON_SECONDS)
        if not asking.done():
            child.kill()
            await asyncio.wait([asking])
        asking.exception()  # told to nobody

    def _stay(self) -> None:
        if self._idle is not None:
            self._idle.cancel()

    def _drop(self) -> None:
        """End the process, if there is one; who is computed for gets InspectionFailed."""
        child, self._child, self._starting = self._child, None, None
        if child is not None:
            child.kill()
            self._thread.submit(child.close)

    def _count(self, change: int) -> None:
        self.num_inside += change
        (self._empty.clear if self.num_inside else self._empty.set)()
        self._metrics.inspections_waiting.set(max(self.num_inside - 1, 0))

    def _measure(self, seconds: float) -> None:
        self._metrics.inspection.observe(seconds)
        self._mean_seconds += MEASURED_SHARE * (seconds - self._mean_seconds)
