"""The queue between the event loop and the engine's thread. Commands go in by a queue, outputs come out by one callback a step.

The event loop owns the mailboxes, the thread owns the engine; nothing is shared, so there is no lock. Knows token ids, not text.
"""

import asyncio
import contextlib
import itertools
import math
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from app.engine.engine import Engine, StepResult
from app.engine.sequence import EngineRequest, FailureOutput, TokenOutput
from app.errors import GenerationFailed, NotReady, QueueFull, ServiceError

RATE_SECONDS = 30.0  # how far back the rate of completions is measured
IDLE_SECONDS = 1.0  # how often an idle engine says that it lives
STALL_SECONDS = 30.0  # without a sign of life for so long the engine counts as hung; the slowest step on record took 2 s


@dataclass(frozen=True, slots=True)
class Submit:
    request: EngineRequest


@dataclass(frozen=True, slots=True)
class Abort:
    sequence_id: int


@dataclass(frozen=True, slots=True)
class Stop:
    pass


Command = Submit | Abort | Stop


class Mailbox:
    """The outputs of one sequence, for one reader. A slow reader finds several at once; none is ever lost or merged."""

    def __init__(self, sequence_id: int) -> None:
        self.sequence_id = sequence_id
        self._outputs: list[TokenOutput] = []
        self._error: ServiceError | None = None
        self._reader: asyncio.Future[None] | None = None

    def put(self, output: TokenOutput) -> None:
        self._outputs.append(output)
        self._wake()

    def fail(self, error: ServiceError) -> None:
        """Let the reader's next `get` raise, once it has read what came before."""
        self._error = error
        self._wake()

    async def get(self, patience: float | None = None) -> list[TokenOutput]:
        """All outputs since the last call, none if `patience` seconds pass without any; raises what `fail` was given."""
        if not self._outputs and self._error is None:
            await self._wait(patience)
        outputs, self._outputs = self._outputs, []
        if not outputs and self._error is not None:
            raise self._error
        return outputs

    async def _wait(self, patience: float | None) -> None:
        # A future and a timer by hand: asyncio.wait_for would make a task a token.
        loop = asyncio.get_running_loop()
        self._reader = loop.create_future()
        timer = None if patience is None else loop.call_later(patience, self._wake)
        try:
            await self._reader
        finally:
            self._reader = None
            if timer is not None:
                timer.cancel()

    def _wake(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)


class AsyncEngine:
    """Runs an Engine in a thread of its own and gives each sequence a mailbox.

    At most `max_running` sequences (the engine's slots) and `max_waiting` more are taken in; `on_step` is called on the event loop
    with the statistics of every step.
    """

    def __init__(self, engine: Engine, max_waiting: int, on_step: Callable[[StepResult], None] | None = None) -> None:
        self.engine, self.max_waiting, self.on_step = engine, max_waiting, on_step
        self.max_running = engine.runner.num_slots
        self.heartbeat = time.time()
        self._beat = time.monotonic()
        self._commands: queue.SimpleQueue[Command] = queue.SimpleQueue()
        self._mailboxes: dict[int, Mailbox] = {}
        self._ids = itertools.count()
        self._finish_times: deque[float] = deque(maxlen=64)
        self._empty = asyncio.Event()
        self._empty.set()
        self._draining = False
        self._crash: BaseException | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._warm: asyncio.Future[None] | None = None
        self._thread = threading.Thread(target=self._run, name="gpt2-engine", daemon=True)

    async def start(self) -> None:
        """Start the thread and return when the runner is warm; raises what warming it up raised."""
        self._loop = asyncio.get_running_loop()
        self._warm = self._loop.create_future()
        self._thread.start()
        await self._warm

    async def stop(self) -> None:
        """End the thread after its current step; what still runs gets a NotReady."""
        self._commands.put(Stop())
        if self._thread.is_alive():
            await asyncio.to_thread(self._thread.join)
        self._fail_all(NotReady("the service is shutting down"))

    async def drain(self, seconds: float) -> int:
        """Take nothing new and wait for what runs; returns how many sequences had to be cut off at the limit."""
        self._draining = True
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._empty.wait(), seconds)
        num_left = len(self._mailboxes)
        self._fail_all(NotReady("the service is shutting down and the time limit for running requests has passed"))
        return num_left

    @property
    def num_unfinished(self) -> int:
        return len(self._mailboxes)

    def check_ready(self) -> None:
        """Raise NotReady, saying why, unless requests are taken in. Looks at plain values only, so that it answers at any load."""
        if self._draining:
            raise NotReady("the service is shutting down")
        if self._crash is not None:
            raise NotReady(f"the engine has stopped: {self._crash!r}")
        if not self._thread.is_alive():
            raise NotReady("the engine has not started")
        if (silence := time.monotonic() - self._beat) > STALL_SECONDS:
            raise NotReady(f"the engine has given no sign of life for {silence:.0f} s")

    def submit(self, request: EngineRequest) -> Mailbox:
        """Take a request in under a new sequence id; raises NotReady or QueueFull. Who submits also aborts, in a `finally`."""
        self.check_ready()
        num_waiting = len(self._mailboxes) - self.max_running
        if num_waiting >= self.max_waiting:
            raise QueueFull(num_waiting, self.max_waiting, self._retry_after(num_waiting))
        mailbox = Mailbox(next(self._ids))
        self._mailboxes[mailbox.sequence_id] = mailbox
        self._empty.clear()
        self._commands.put(Submit(replace(request, sequence_id=mailbox.sequence_id, arrived_at=time.monotonic())))
        return mailbox

    def abort(self, mailbox: Mailbox) -> None:
        """End a sequence; its slot is free by the next step. Nothing happens if it has ended."""
        if self._forget(mailbox.sequence_id):
            self._commands.put(Abort(mailbox.sequence_id))

    def _retry_after(self, num_waiting: int) -> int:
        """Seconds until those who wait will have started, at the rate of the latest completions."""
        now = time.monotonic()
        recent = [finished for finished in self._finish_times if now - finished < RATE_SECONDS]
        if not recent:
            return 1
        rate = len(recent) / max(now - recent[0], 1e-3)
        return min(max(math.ceil(num_waiting / rate), 1), 60)

    def _forget(self, sequence_id: int) -> Mailbox | None:
        mailbox = self._mailboxes.pop(sequence_id, None)
        if mailbox is not None:
            self._finish_times.append(time.monotonic())
        if not self._mailboxes:
            self._empty.set()
        return mailbox

    def _fail_all(self, error: ServiceError) -> None:
        for mailbox in list(self._mailboxes.values()):
            mailbox.fail(error)
            self.abort(mailbox)

    # On the event loop, once a step.

    def _deliver(self, result: StepResult) -> None:
        self.heartbeat, self._beat = time.time(), time.monotonic()
        for output in result.outputs:
            self._deliver_output(output)
        if self.on_step is not None:
            self.on_step(result)

    def _deliver_output(self, output: TokenOutput | FailureOutput) -> None:
        mailbox = self._mailboxes.get(output.sequence_id)
        if mailbox is None:
            return  # aborted while the step ran
        if isinstance(output, FailureOutput):
            self._forget(output.sequence_id)
            mailbox.fail(GenerationFailed(output.message))
            return
        if output.finish_reason is not None:
            self._forget(output.sequence_id)
        mailbox.put(output)

    def _on_warm(self) -> None:
        self.heartbeat, self._beat = time.time(), time.monotonic()
        assert self._warm is not None
        self._warm.set_result(None)

    def _on_crash(self, error: BaseException) -> None:
        self._crash = error
        if self._warm is not None and not self._warm.done():
            self._warm.set_exception(error)
        self._fail_all(NotReady(f"the engine has stopped: {error!r}"))

    # On the engine's thread.

    def _run(self) -> None:
        assert self._loop is not None
        try:
            # Here and not at load: each thread has helpers and buffers of its own, which its first step would wait for.
            self.engine.runner.warm_up()
            self._loop.call_soon_threadsafe(self._on_warm)
            while self._carry_out(self._next_commands()):
                self._loop.call_soon_threadsafe(self._deliver, self.engine.step())
        except BaseException as error:
            self._loop.call_soon_threadsafe(self._on_crash, error)

    def _next_commands(self) -> Iterable[Command]:
        """All commands that are there; if the engine is idle, wait a little for one."""
        commands: list[Command] = []
        try:
            if not self.engine.has_work:
                commands.append(self._commands.get(timeout=IDLE_SECONDS))
            while True:
                commands.append(self._commands.get_nowait())
        except queue.Empty:
            return commands

    def _carry_out(self, commands: Iterable[Command]) -> bool:
        for command in commands:
            match command:
                case Submit(request):
                    self.engine.submit(request)
                case Abort(sequence_id):
                    self.engine.abort(sequence_id)
                case Stop():
                    return False
        return True
