"""What the service sees of the engine: submit, abort, drain, limits. Lives on the event loop; knows token ids, not text.

The event loop owns door and mailboxes, the worker owns the engine; nothing is shared, so there is no lock. Commands go in by the
worker's queue, its messages come back by one callback a step.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from app.engine.door import Door
from app.engine.engine import StepResult
from app.engine.mailbox import Mailbox
from app.engine.sequence import EngineRequest, FailureOutput, Output, TokensOutput
from app.engine.worker import Abort, Crashed, Message, RunningWorker, StartWorker, Stop, Submit, Warm
from app.errors import GenerationFailed, NotReady, ServiceError
from model.batch import RunnerLost

STALL_SECONDS = 30.0  # without a sign of life for so long the engine counts as hung; the slowest step on record took 2 s
STOP_SECONDS = 5.0  # for the step under way when the service ends
log = logging.getLogger("gpt2.engine")


@dataclass(frozen=True, slots=True)
class Limits:
    """What the engine can take: positions of a sequence, token ids, sequences at once."""

    max_positions: int
    vocab_size: int
    num_slots: int


@dataclass(slots=True, eq=False)
class _Inside:
    """A request that was let in, and its samples that have not ended."""

    mailbox: Mailbox
    samples: set[int]


class EngineClient:
    """One engine, run by a worker that `start_worker` starts; after a crash `start` puts another in its place.

    `on_step` is called on the event loop with the statistics of every step. `lost` is set when only another process can help.
    """

    def __init__(
        self,
        start_worker: StartWorker,
        limits: Limits,
        max_waiting: int,
        on_step: Callable[[StepResult], None] | None = None,
    ) -> None:
        self.limits, self._start_worker, self._on_step = limits, start_worker, on_step
        self._door = Door(limits.num_slots, max_waiting)
        self._inside: dict[int, _Inside] = {}
        self._next_id = 0
        self._empty = asyncio.Event()
        self._empty.set()
        self._worker: RunningWorker | None = None
        self._worker_number = -1
        self._warm: asyncio.Future[None] | None = None
        self._watch: asyncio.TimerHandle | None = None
        self._beat = 0.0
        self._crash: BaseException | None = None
        self._max_tokens: int | None = None  # of a step, while memory is short
        self.lost = asyncio.Event()

    async def start(self) -> None:
        """Start a worker and return when it takes work; raises what warming it up raised.

        A dead worker is replaced; one that hangs may still come back to the runner, of which it would be a second user.
        """
        assert self._worker is None or not self._worker.is_alive, "a worker that has not ended is not replaced"
        loop = asyncio.get_running_loop()
        if self._watch is not None:
            self._watch.cancel()
        self._crash, self._beat, self._warm = None, 0.0, loop.create_future()
        self._worker_number += 1  # one that was replaced may still have something to say
        self._worker = self._start_worker(partial(self._from_worker, loop, self._worker_number))
        await self._warm
        self._look_for_stall()

    async def stop(self) -> None:
        """End the worker after its current step; what still runs gets a NotReady. A step that hangs is left behind."""
        if self._watch is not None:
            self._watch.cancel()
        if self._worker is not None and self._worker.is_alive:
            self._worker.send(Stop())
            if not await asyncio.to_thread(self._worker.join, STOP_SECONDS):
                log.error("a step has not ended within %g s; it is left behind", STOP_SECONDS)
        self._fail_all(lambda: NotReady("the service is shutting down"))

    async def drain(self, seconds: float) -> int:
        """Take nothing new and wait for what runs; returns how many requests had to be cut off at the limit."""
        self._door.close()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._empty.wait(), seconds)
        num_left = len(self._inside)
        self._fail_all(lambda: NotReady("the service is shutting down and the time limit for running requests has passed"))
        return num_left

    @property
    def num_unfinished(self) -> int:
        """Requests that have not ended."""
        return len(self._inside)

    def check_ready(self) -> None:
        """Raise NotReady, saying why, unless requests are taken in. Looks at plain values only, so that it answers at any load."""
        self._door.check_open()
        if self._crash is not None:
            raise NotReady(f"the engine has stopped: {self._crash!r}")
        if self._worker is None or not self._beat:
            raise NotReady("the engine has not started")
        if not self._worker.is_alive:
            raise NotReady("the engine has been stopped")
        if self._is_stalled:
            raise self._stalled()

    def submit(self, *requests: EngineRequest, patience: float | None = None) -> Mailbox:
        """Take in requests that belong together, all of them or none. Who submits also aborts, in a `finally`.

        Raises NotReady, QueueFull, or WaitTooLong where they would wait for longer than `patience` seconds.
        """
        self.check_ready()
        self._door.enter(sum(request.num_samples for request in requests), patience)
        mailbox = Mailbox(range(self._next_id, self._next_id + len(requests)))
        self._next_id = mailbox.request_ids.stop
        self._empty.clear()
        for request_id, request in zip(mailbox.request_ids, requests, strict=True):
            self._inside[request_id] = _Inside(mailbox, set(range(request.num_samples)))
            self._send(Submit(request_id, request, time.monotonic()))
        return mailbox

    def abort(self, mailbox: Mailbox) -> None:
        """Give up what has not ended of its requests; their slots are free by the next step."""
        for request_id in mailbox.request_ids:
            if (inside := self._inside.get(request_id)) is not None:
                self._leave(request_id, inside.samples, is_completed=False)
                self._send(Abort(request_id))

    def end_sample(self, request_id: int, sample: int) -> None:
        """End a sample whose text is complete, if it has not ended by itself; its slot is free by the next step."""
        if (inside := self._inside.get(request_id)) is not None and sample in inside.samples:
            self._leave(request_id, {sample}, is_completed=True)
            self._send(Abort(request_id, sample))

    def _send(self, command: Submit | Abort) -> None:
        assert self._worker is not None
        self._worker.send(command)

    def _leave(self, request_id: int, samples: set[int], is_completed: bool) -> None:
        inside = self._inside[request_id]
        self._door.leave(len(samples), is_completed)
        inside.samples = inside.samples - samples
        if not inside.samples:
            del self._inside[request_id]
        if not self._inside:
            self._empty.set()

    def _fail_all(self, error: Callable[[], ServiceError]) -> None:
        """Each reader gets an error of its own: a traceback grows with everyone who raises it."""
        for inside in list(self._inside.values()):
            inside.mailbox.fail(error())
            self.abort(inside.mailbox)

    # A worker that gives no sign of life.

    @property
    def _is_stalled(self) -> bool:
        return time.monotonic() - self._beat > STALL_SECONDS

    def _stalled(self) -> NotReady:
        return NotReady(f"the engine has given no sign of life for {time.monotonic() - self._beat:.0f} s")

    def _look_for_stall(self) -> None:
        """Let nobody wait for an engine that hangs: its clients are told, and those who come are refused until it moves again."""
        if self._is_stalled and self._inside:
            log.error("%s; %d requests are told so", self._stalled(), len(self._inside))
            self._fail_all(self._stalled)
        self._watch = asyncio.get_running_loop().call_later(min(1.0, STALL_SECONDS) / 2, self._look_for_stall)

    # Messages: called by the worker wherever it runs, then on the event loop, once a step.

    def _from_worker(self, loop: asyncio.AbstractEventLoop, number: int, message: Message) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended, and with it everyone who could be told
            loop.call_soon_threadsafe(self._receive, number, message)

    def _receive(self, number: int, message: Message) -> None:
        if number != self._worker_number:
            return
        self._beat = time.monotonic()
        match message:
            case Crashed(error):
                self._on_crash(error)
            case Warm():
                assert self._warm is not None
                self._warm.set_result(None)
            case StepResult():
                for output in message.outputs:
                    self._deliver(output)
                self._report_room(message.stats.max_tokens)
                if self._on_step is not None:
                    self._on_step(message)

    def _deliver(self, output: Output) -> None:
        inside = self._inside.get(output.request_id)
        if inside is None:
            return  # aborted while the step ran
        if isinstance(output, FailureOutput):
            self._leave(output.request_id, inside.samples, is_completed=False)
            inside.mailbox.fail(GenerationFailed(output.message))
            return
        if isinstance(output, TokensOutput):
            if output.sample not in inside.samples:
                return
            if output.finish_reason is not None:
                self._leave(output.request_id, {output.sample}, is_completed=True)
        elif output.is_last:
            self._leave(output.request_id, inside.samples, is_completed=True)
        inside.mailbox.put(output)

    def _report_room(self, max_tokens: int | None) -> None:
        before, self._max_tokens = self._max_tokens, max_tokens
        if max_tokens is None and before is not None:
            log.info("memory suffices again: steps are as large as they may be")
        elif max_tokens is not None and (before is None or max_tokens < before):
            log.warning("a step found no memory: it is done again in steps of at most %d tokens", max_tokens)

    def _on_crash(self, error: BaseException) -> None:
        log.error("the engine has stopped", exc_info=error)
        self._crash = error
        if self._warm is not None and not self._warm.done():
            self._warm.set_exception(error)
        self._fail_all(lambda: NotReady(f"the engine has stopped: {error!r}"))
        if isinstance(error, RunnerLost):
            self.lost.set()
