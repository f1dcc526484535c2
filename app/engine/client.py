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

from app.engine.door import Door, Visit
from app.engine.engine import StepResult
from app.engine.mailbox import Mailbox
from app.engine.sequence import EngineRequest, FailureOutput, Output, TokensOutput
from app.engine.supervised_worker import SupervisedWorker
from app.engine.worker import Abort, StartWorker, Submit
from app.errors import Draining, GenerationFailed, ServiceError

ENDS = ("completed", "failed", "aborted", "expired")
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


class EngineClient:
    """One engine, run by a worker that `start_worker` starts; after a crash another takes its place.

    `on_step` is called on the event loop with the statistics of every step. `counts` are those of the requests that were accepted
    and of those that ended, by how: all the others are inside. After `stall_seconds` without a sign of life the engine counts as
    hung.
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
        self.limits, self._on_step = limits, on_step
        self._door = Door(limits.num_slots, max_waiting, max_queued_tokens, max_wait_seconds)
        self._inside: dict[int, _Inside] = {}
        self.counts = Counter(dict.fromkeys(("accepted", *ENDS), 0))
        self._next_id = 0
        self._empty = asyncio.Event()
        self._empty.set()
        self._worker = SupervisedWorker(start_worker, self._on_result, self._fail_all, stall_seconds)
        self.num_repeated_steps = 0
        self._max_tokens: int | None = None  # of a step, while memory is short

    async def start(self) -> None:
        """Start a worker and return when it takes work; raises what warming it up raised."""
        await self._worker.start()

    async def stop(self) -> None:
        """End the worker after its current step; what still runs gets a NotReady. A step that hangs is left behind."""
        await self._worker.stop()
        self._fail_all(Draining)

    async def drain(self, seconds: float) -> int:
        """Take nothing new and wait for what runs; returns how many requests had to be cut off at the limit."""
        self._door.close()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._empty.wait(), seconds)
        return self._fail_all(lambda: Draining("the service is shutting down and the time limit for running requests has passed"))

    @property
    def num_unfinished(self) -> int:
        """Requests that have not ended."""
        return len(self._inside)

    def check_ready(self) -> None:
        """Raise NotReady, saying why, unless requests are taken in. Looks at plain values only, so that it answers at any load."""
        self._door.check_open()
        self._worker.check_alive()

    @property
    def lost(self) -> asyncio.Event:
        """Set when only another process can help."""
        return self._worker.lost

    @property
    def num_crashes(self) -> int:
        """Of engines; each but the last was replaced."""
        return self._worker.num_crashes

    @property
    def silent_seconds(self) -> float:
        """Since the engine's last sign of life, as `stall_seconds` counts it; 0 until it has started."""
        return self._worker.silent_seconds

    @property
    def num_queued_tokens(self) -> int:
        """Work that was taken on: of the requests inside their prompts and all that they may generate."""
        return self._door.num_tokens

    @property
    def num_waiting_samples(self) -> int:
        """Samples inside beyond the slots that there are: what `max_waiting` bounds."""
        return max(self._door.num_inside - self._door.max_running, 0)

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
            self._worker.send(Submit(request_id, request, time.monotonic()))
        self.counts["accepted"] += len(requests)
        return mailbox

    def abort(self, mailbox: Mailbox, how: str = "aborted") -> None:
        """Give up what has not ended of its requests; their slots are free by the next step."""
        for request_id in mailbox.request_ids:
            if (inside := self._inside.get(request_id)) is not None:
                self._leave(request_id, inside.samples, how)
                self._worker.send(Abort(request_id))

    def end_sample(self, request_id: int, sample: int) -> None:
        """End a sample whose text is complete, if it has not ended by itself; its slot is free by the next step."""
        if (inside := self._inside.get(request_id)) is not None and sample in inside.samples:
            self._leave(request_id, {sample}, "completed")
            self._worker.send(Abort(request_id, sample))

    def _leave(self, request_id: int, samples: set[int], how: str) -> None:
        inside = self._inside[request_id]
        self._door.leave(inside.visit, len(samples), inside.work_of(samples), is_completed=how == "completed")
        inside.samples = inside.samples - samples
        if not inside.samples:
            del self._inside[request_id]
            self.counts[how] += 1
        if not self._inside:
            self._empty.set()

    def _fail_all(self, error: Callable[[], ServiceError]) -> int:
        """End all requests, and tell how many. Each reader gets an error of its own: a traceback grows with all who raise it."""
        all_inside = list(self._inside.values())
        for inside in all_inside:
            inside.mailbox.fail(error())
            self.abort(inside.mailbox, "failed")
        return len(all_inside)

    def _on_result(self, result: StepResult) -> None:
        """Of every step, on the event loop."""
        for output in result.outputs:
            self._deliver(output)
        stats = result.stats
        self._door.compute(stats.num_prompt_tokens + stats.num_reused_tokens + stats.num_generated_tokens)
        self._report_room(stats.max_tokens)
        if stats.error is not None:
            self.num_repeated_steps += 1
            log.error("a step was run again in parts, since it failed so:\n%s", stats.error)
        if self._on_step is not None:
            self._on_step(result)

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
