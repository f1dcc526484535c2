"""A worker that is watched: found when it hangs, replaced when it crashes. Lives on the event loop; knows no request."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from functools import partial

from app.engine.engine import NothingSucceeds, StepResult
from app.engine.supervisor import LOOK_SECONDS, Supervisor, stacks
from app.engine.worker import Command, Crashed, Message, RunningWorker, StartWorker, Stop, Warm
from app.errors import NotReady
from app.logs import traceback_of
from model.batch import RunnerLost

STOP_SECONDS = 5.0  # for the step under way when the service ends
log = logging.getLogger("gpt2.engine")


class WorkerEnded(Exception):
    """Without a word of why."""


class SupervisedWorker:
    """One worker at a time, of those that `start_worker` starts.

    `on_result` is given what comes of every step. `fail_all` ends what is under way when the worker hangs or crashes: it is given
    what makes an error for each. `lost` is set when only another process can help: a step that hangs cannot be ended, and would be
    a second user of the runner.
    """

    def __init__(
        self,
        start_worker: StartWorker,
        on_result: Callable[[StepResult], None],
        fail_all: Callable[[Callable[[], NotReady]], int],
        stall_seconds: float,
    ) -> None:
        self._start_worker, self._on_result, self._fail_all = start_worker, on_result, fail_all
        self._supervisor = Supervisor(stall_seconds)
        self._worker: RunningWorker | None = None
        self._number = -1
        self._warm: asyncio.Future[None] | None = None
        self._watch: asyncio.TimerHandle | None = None
        self._replacing: asyncio.Task[None] | None = None
        self._is_stalled = False
        self._crash: BaseException | None = None
        self.num_crashes = 0
        self.lost = asyncio.Event()

    async def start(self) -> None:
        """Start the first and return when it takes work; raises what warming it up raised."""
        self._warm = asyncio.get_running_loop().create_future()
        self._start_one()
        await self._warm
        self._look()

    def _start_one(self) -> None:
        assert self._worker is None or not self._worker.is_alive, "a worker that has not ended is not replaced"
        self._number += 1  # one that was replaced may still have something to say
        self._supervisor.hear()
        self._worker = self._start_worker(partial(self._publish, asyncio.get_running_loop(), self._number))

    async def stop(self) -> None:
        """End it after its current step. One that hangs is left behind."""
        if self._watch is not None:
            self._watch.cancel()
        if self._replacing is not None:
            self._replacing.cancel()
        self._number += 1  # nobody listens any more
        if self._worker is not None and self._worker.is_alive:
            self._worker.send(Stop())
            if not await self._has_ended(0.0 if self._is_stalled else STOP_SECONDS):
                log.error("a step has not ended within %g s; it is left behind", STOP_SECONDS)

    async def _has_ended(self, seconds: float) -> bool:
        """Wait for the worker's end; by short looks, since threads to wait in may all be taken."""
        assert self._worker is not None
        deadline = time.monotonic() + seconds
        while not self._worker.join(0.0):
            if time.monotonic() >= deadline:
                return False
            await asyncio.sleep(0.005)
        return True

    def send(self, command: Command) -> None:
        assert self._worker is not None
        self._worker.send(command)

    @property
    def silent_seconds(self) -> float:
        """Since its last sign of life, as far as that counts towards a stall; 0 until it has started."""
        return self._supervisor.silent_seconds

    def check_alive(self) -> None:
        """Raise NotReady, saying why, unless it takes work. Looks at plain values only, so that it answers at any load."""
        if self._crash is not None:
            raise NotReady(_stopped(self._crash))
        if self._warm is None or not self._warm.done():
            raise NotReady("the engine has not started")
        if self._worker is None or not self._worker.is_alive:
            raise NotReady("the engine has been stopped")
        if self._is_stalled:
            raise self._stalled()

    # No sign of life, or the end

    def _stalled(self) -> NotReady:
        return NotReady(f"the engine has given no sign of life for {self._supervisor.silent_seconds:.0f} s")

    def _look(self) -> None:
        """Let nobody wait for an engine that hangs or is no more."""
        assert self._worker is not None
        if self._supervisor.is_stalled():
            self._on_stall()
            return
        if not (self._worker.is_alive or self._crash):
            self._on_crash(WorkerEnded("its thread has ended"))
        self._watch = asyncio.get_running_loop().call_later(LOOK_SECONDS, self._look)

    def _on_stall(self) -> None:
        self._is_stalled = True
        num_failed = self._fail_all(self._stalled)
        log.critical("%s; %d requests are told so. Where the threads stand:\n%s", self._stalled(), num_failed, stacks())
        self.lost.set()

    def _on_crash(self, error: BaseException) -> None:
        log.error("%s\n%s", _stopped(error), traceback_of(error))
        self._crash = error
        self.num_crashes += 1
        self._number += 1  # it has said its last
        self._fail_all(lambda: NotReady(_stopped(error)))
        if self._warm is not None and not self._warm.done():
            self._warm.set_exception(error)
        elif self._supervisor.may_replace(error):
            self._replacing = asyncio.create_task(self._replace())
        else:
            log.critical("no other engine would help. Where the threads stand:\n%s", stacks())
            self.lost.set()

    async def _replace(self) -> None:
        if not await self._has_ended(STOP_SECONDS):
            log.critical("the thread of the engine that has stopped does not end")
            self.lost.set()
            return
        try:
            self._start_one()
        except Exception as error:  # as where no more threads may be started
            log.critical("no other engine could be started:\n%s", traceback_of(error))
            self.lost.set()

    # Messages: called by the worker wherever it runs, then on the event loop, once a step

    def _publish(self, loop: asyncio.AbstractEventLoop, number: int, message: Message) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended, and with it everyone who could be told
            loop.call_soon_threadsafe(self._receive, number, message)

    def _receive(self, number: int, message: Message) -> None:
        if number != self._number:
            return
        self._supervisor.hear()
        match message:
            case Crashed(error):
                self._on_crash(error)
            case Warm(slowest_step):
                self._on_warm(slowest_step)
            case StepResult():
                self._on_result(message)

    def _on_warm(self, slowest_step: float) -> None:
        assert self._warm is not None
        self._supervisor.expect_steps_of(slowest_step)
        if self._warm.done():
            log.warning("another engine has taken the place of the one that has stopped")
            self._crash = None
        else:
            self._warm.set_result(None)


def _stopped(error: BaseException) -> str:
    """Of an error that is not this project's own the type alone: its message may hold text of a request."""
    own = isinstance(error, (WorkerEnded, NothingSucceeds, RunnerLost))
    return f"the engine has stopped: {type(error).__name__}{f': {error}' if own else ''}"
