"""What the service sees of the engine: submit, abort, drain, limits. Lives on the event loop; knows token ids, not text.

The event loop owns door and mailboxes, the worker owns the engine; nothing is shared, so there is no lock. Commands go in by the
worker's queue, its messages come back by one callback a step.
"""

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from app.engine.door import Door, Visit
from app.engine.engine import NothingSucceeds, StepResult
from app.engine.mailbox import Mailbox
from app.engine.sequence import EngineRequest, FailureOutput, Output, TokensOutput
from app.engine.supervisor import LOOK_SECONDS, Supervisor, stacks
from app.engine.worker import Abort, Crashed, Message, RunningWorker, StartWorker, Stop, Submit, Warm
from app.errors import Draining, GenerationFailed, NotReady, ServiceError
from app.logs import traceback_of
from model.batch import RunnerLost

STOP_SECONDS = 5.0  # for the step under way when the service ends
ENDS = ("completed", "failed", "aborted", "expired")
log = logging.getLogger("gpt2.engine")


class WorkerEnded(Exception):
    """Without a word of why."""


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
    request: EngineRequest
    visit: Visit
    samples: set[int]

    def work_of(self, samples: set[int]) -> int:
        """What ends with these: of each what it may generate, and the prompt with the last."""
        num_prompt = len(self.request.prompt_ids) if len(samples) == len(self.samples) else 0
        return num_prompt + len(samples) * self.request.max_new_tokens


def _work(request: EngineRequest) -> int:
    """Tokens that it may take: its prompt, and all that it may generate."""
    return len(request.prompt_ids) + request.num_samples * request.max_new_tokens


def _stopped(error: BaseException) -> str:
    """Of an error that is not this project's own the type alone: its message may hold text of a request."""
    own = isinstance(error, (WorkerEnded, NothingSucceeds, RunnerLost))
    return f"the engine has stopped: {type(error).__name__}{f': {error}' if own else ''}"


class EngineClient:
    """One engine, run by a worker that `start_worker` starts; after a crash another takes its place.

    `on_step` is called on the event loop with the statistics of every step. `counts` are those of the requests that were accepted
    and of those that ended, by how: all the others are inside. After `stall_seconds` without a sign of life the engine counts as
    hung. `lost` is set when only another process can help: a step that hangs cannot be ended, and would be a second user of the
    runner.
    """

    def __init__(
        self,
        start_worker: StartWorker,
        limits: Limits,
        max_waiting: int,
        on_step: Callable[[StepResult], None] | None = None,
        max_queued_tokens: int | None = None,
        max_wait_seconds: float | None = None,
        stall_seconds: float = 30.0,
    ) -> None:
        self.limits, self._start_worker, self._on_step = limits, start_worker, on_step
        self._door = Door(limits.num_slots, max_waiting, max_queued_tokens, max_wait_seconds)
        self._inside: dict[int, _Inside] = {}
        self.counts = Counter(dict.fromkeys(("accepted", *ENDS), 0))
        self._next_id = 0
        self._empty = asyncio.Event()
        self._empty.set()
        self._worker: RunningWorker | None = None
        self._worker_number = -1
        self._warm: asyncio.Future[None] | None = None
        self._watch: asyncio.TimerHandle | None = None
        self._supervisor = Supervisor(stall_seconds)
        self._is_stalled = False
        self._crash: BaseException | None = None
        self._replacing: asyncio.Task[None] | None = None
        self.num_crashes = self.num_repeated_steps = 0
        self._max_tokens: int | None = None  # of a step, while memory is short
        self.lost = asyncio.Event()

    async def start(self) -> None:
        """Start a worker and return when it takes work; raises what warming it up raised."""
        self._warm = asyncio.get_running_loop().create_future()
        self._start_one()
        await self._warm
        self._look()

    def _start_one(self) -> None:
        assert self._worker is None or not self._worker.is_alive, "a worker that has not ended is not replaced"
        self._worker_number += 1  # one that was replaced may still have something to say
        self._supervisor.hear()
        self._worker = self._start_worker(partial(self._from_worker, asyncio.get_running_loop(), self._worker_number))

    async def stop(self) -> None:
        """End the worker after its current step; what still runs gets a NotReady. A step that hangs is left behind."""
        if self._watch is not None:
            self._watch.cancel()
        if self._replacing is not None:
            self._replacing.cancel()
        self._worker_number += 1  # nobody listens any more
        if self._worker is not None and self._worker.is_alive:
            self._worker.send(Stop())
            if not await self._has_ended(0.0 if self._is_stalled else STOP_SECONDS):
                log.error("a step has not ended within %g s; it is left behind", STOP_SECONDS)
        self._fail_all(Draining)

    async def _has_ended(self, seconds: float) -> bool:
        """Wait for the worker's end; by short looks, since threads to wait in may all be taken."""
        assert self._worker is not None
        deadline = time.monotonic() + seconds
        while not self._worker.join(0.0):
            if time.monotonic() >= deadline:
                return False
            await asyncio.sleep(0.005)
        return True

    async def drain(self, seconds: float) -> int:
        """Take nothing new and wait for what runs; returns how many requests had to be cut off at the limit."""
        self._door.close()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._empty.wait(), seconds)
        num_left = len(self._inside)
        self._fail_all(lambda: Draining("the service is shutting down and the time limit for running requests has passed"))
        return num_left

    @property
    def num_unfinished(self) -> int:
        """Requests that have not ended."""
        return len(self._inside)

    def check_ready(self) -> None:
        """Raise NotReady, saying why, unless requests are taken in. Looks at plain values only, so that it answers at any load."""
        self._door.check_open()
        if self._crash is not None:
            raise NotReady(_stopped(self._crash))
        if self._warm is None or not self._warm.done():
            raise NotReady("the engine has not started")
        if self._worker is None or not self._worker.is_alive:
            raise NotReady("the engine has been stopped")
        if self._is_stalled:
            raise self._stalled()

    @property
    def num_queued_tokens(self) -> int:
        """Work that was taken on: of the requests inside their prompts and all that they may generate."""
        return self._door.num_tokens

    @property
    def wait_seconds(self) -> float:
        """About how long a request that came now would wait for a slot."""
        return self._door.wait_seconds

    def check_room(self) -> None:
        """Raise what a request that comes now would get whatever it asks for: NotReady, QueueFull, WorkFull or WaitTooLong."""
        self.check_ready()
        self._door.check_room()

    def submit(self, *requests: EngineRequest, patience: float | None = None) -> Mailbox:
        """Take in requests that belong together, all of them or none. Who submits also aborts, in a `finally`.

        Raises NotReady, QueueFull, WorkFull, TooMuchWork, or WaitTooLong where they would wait for more than `patience` seconds.
        """
        self.check_ready()
        self._door.check(sum(map(_work, requests)), patience)
        mailbox = Mailbox(range(self._next_id, self._next_id + len(requests)))
        self._next_id = mailbox.request_ids.stop
        self._empty.clear()
        for request_id, request in zip(mailbox.request_ids, requests, strict=True):
            visit = self._door.enter(request.num_samples, _work(request))
            self._inside[request_id] = _Inside(mailbox, request, visit, set(range(request.num_samples)))
            self._send(Submit(request_id, request, time.monotonic()))
        self.counts["accepted"] += len(requests)
        return mailbox

    def abort(self, mailbox: Mailbox, how: str = "aborted") -> None:
        """Give up what has not ended of its requests; their slots are free by the next step."""
        for request_id in mailbox.request_ids:
            if (inside := self._inside.get(request_id)) is not None:
                self._leave(request_id, inside.samples, how)
                self._send(Abort(request_id))

    def end_sample(self, request_id: int, sample: int) -> None:
        """End a sample whose text is complete, if it has not ended by itself; its slot is free by the next step."""
        if (inside := self._inside.get(request_id)) is not None and sample in inside.samples:
            self._leave(request_id, {sample}, "completed")
            self._send(Abort(request_id, sample))

    def _send(self, command: Submit | Abort) -> None:
        assert self._worker is not None
        self._worker.send(command)

    def _leave(self, request_id: int, samples: set[int], how: str) -> None:
        inside = self._inside[request_id]
        self._door.leave(inside.visit, len(samples), inside.work_of(samples), is_completed=how == "completed")
        inside.samples = inside.samples - samples
        if not inside.samples:
            del self._inside[request_id]
            self.counts[how] += 1
        if not self._inside:
            self._empty.set()

    def _fail_all(self, error: Callable[[], ServiceError]) -> None:
        """Each reader gets an error of its own: a traceback grows with everyone who raises it."""
        for inside in list(self._inside.values()):
            inside.mailbox.fail(error())
            self.abort(inside.mailbox, "failed")

    # A worker that gives no sign of life, or has ended.

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
        log.critical("%s; %d requests are told so. Where the threads stand:\n%s", self._stalled(), len(self._inside), stacks())
        self._fail_all(self._stalled)
        self.lost.set()

    def _on_crash(self, error: BaseException) -> None:
        log.error("%s\n%s", _stopped(error), traceback_of(error))
        self._crash = error
        self.num_crashes += 1
        self._worker_number += 1  # it has said its last
        self._fail_all(lambda: NotReady(_stopped(error)))
        if self._warm is not None and not self._warm.done():
            self._warm.set_exception(error)
        elif self._supervisor.may_replace(error):
            self._replacing = asyncio.create_task(self._replace())
        else:
            log.critical("no other engine would help. Where the threads stand:\n%s", stacks())
            self.lost.set()

    async def _replace(self) -> None:
        if await self._has_ended(STOP_SECONDS):
            self._start_one()
        else:
            log.critical("the thread of the engine that has stopped does not end")
            self.lost.set()

    # Messages: called by the worker wherever it runs, then on the event loop, once a step.

    def _from_worker(self, loop: asyncio.AbstractEventLoop, number: int, message: Message) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended, and with it everyone who could be told
            loop.call_soon_threadsafe(self._receive, number, message)

    def _receive(self, number: int, message: Message) -> None:
        if number != self._worker_number:
            return
        self._supervisor.hear()
        match message:
            case Crashed(error):
                self._on_crash(error)
            case Warm(slowest_step):
                self._on_warm(slowest_step)
            case StepResult():
                for output in message.outputs:
                    self._deliver(output)
                stats = message.stats
                self._door.compute(stats.num_prompt_tokens + stats.num_reused_tokens + stats.num_generated_tokens)
                self._report_room(stats.max_tokens)
                if stats.error is not None:
                    self.num_repeated_steps += 1
                    log.error("a step was run again in parts, since it failed so:\n%s", stats.error)
                if self._on_step is not None:
                    self._on_step(message)

    def _on_warm(self, slowest_step: float) -> None:
        assert self._warm is not None
        self._supervisor.expect_steps_of(slowest_step)
        if self._warm.done():
            log.warning("another engine has taken the place of the one that has stopped")
            self._crash = None
        else:
            self._warm.set_result(None)

    def _deliver(self, output: Output) -> None:
        inside = self._inside.get(output.request_id)
        if inside is None:
            return  # aborted while the step ran
        if isinstance(output, FailureOutput):
            self._leave(output.request_id, inside.samples, "failed")
            inside.mailbox.fail(GenerationFailed(output.message))
            return
        if isinstance(output, TokensOutput):
            if output.sample not in inside.samples:
                return
            if output.finish_reason is not None:
                self._leave(output.request_id, {output.sample}, "completed")
        elif output.is_last:
            self._leave(output.request_id, inside.samples, "completed")
        inside.mailbox.put(output)

    def _report_room(self, max_tokens: int | None) -> None:
        before, self._max_tokens = self._max_tokens, max_tokens
        if max_tokens is None and before is not None:
            log.info("memory suffices again: steps are as large as they may be")
        elif max_tokens is not None and (before is None or max_tokens < before):
            log.warning("a step found no memory: it is done again in steps of at most %d tokens", max_tokens)
