"""Carries out commands and steps, one after another. Knows no event loop: commands come by a queue, messages go out by a callback.

Whoever starts a worker decides where it runs: in a thread, or in a test's own, turn by turn.
"""

import contextlib
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from app.engine.engine import Engine, StepResult
from app.engine.sequence import EngineRequest

IDLE_SECONDS = 1.0  # how often an idle engine says that it lives
WARM_UP_TOKENS = 128  # what a runner's warm-up runs, or fewer


@dataclass(frozen=True, slots=True)
class Submit:
    request_id: int
    request: EngineRequest
    arrived_at: float


@dataclass(frozen=True, slots=True)
class Abort:
    """End one sample of a request, or all."""

    request_id: int
    sample: int | None = None


@dataclass(frozen=True, slots=True)
class Stop:
    """End after the current step."""


@dataclass(frozen=True, slots=True)
class Warm:
    """The engine takes work. `slowest_step` is about what its largest steps take, in seconds; 0 where the warm-up does not tell."""

    slowest_step: float = 0.0


@dataclass(frozen=True, slots=True)
class Crashed:
    """The worker has ended by an error outside of a step's own."""

    error: BaseException


Command = Submit | Abort | Stop
Message = Warm | StepResult | Crashed
Publish = Callable[[Message], None]


class Worker:
    """Owns an engine: all that happens to it happens in `run`, or in `turn`."""

    def __init__(self, engine: Engine, publish: Publish) -> None:
        self._engine, self._publish = engine, publish
        self.commands: queue.SimpleQueue[Command] = queue.SimpleQueue()

    def run(self) -> None:
        """Take turns until told to stop; whatever goes wrong is published."""
        try:
            self.warm_up()
            while self.turn(IDLE_SECONDS):
                pass
        except BaseException as error:
            self._publish(Crashed(error))

    def warm_up(self) -> None:
        """Where steps will run, and not at load: each thread has helpers and buffers of its own, for which its first step waits."""
        started = time.monotonic()
        self._engine.runner.warm_up()
        seconds, capabilities = time.monotonic() - started, self._engine.runner.capabilities
        # A device compiles meanwhile, which says nothing of its steps.
        num_chunks = 0.0 if capabilities.is_asynchronous else max(self._engine.scheduler.max_batch_tokens / WARM_UP_TOKENS, 1.0)
        self._publish(Warm(seconds * num_chunks))

    def turn(self, patience: float) -> bool:
        """Carry out the commands that are there, then a step; an idle engine waits up to `patience` seconds. False once stopped."""
        self._engine.wait()
        for command in self._take_commands(patience):
            match command:
                case Submit(request_id, request, arrived_at):
                    self._engine.submit(request_id, request, arrived_at)
                case Abort(request_id, sample):
                    self._engine.abort(request_id, sample)
                case Stop():
                    return False
        self._publish(self._engine.step(self._publish))
        return True

    def _take_commands(self, patience: float) -> list[Command]:
        commands: list[Command] = []
        with contextlib.suppress(queue.Empty):
            if not self._engine.has_work:
                commands.append(self.commands.get(timeout=patience))
            while True:
                commands.append(self.commands.get_nowait())
        return commands


class RunningWorker(Protocol):
    """A worker that was started, as its owner sees it."""

    def send(self, command: Command) -> None: ...

    @property
    def is_alive(self) -> bool: ...

    def join(self, seconds: float) -> bool:
        """Wait for its end; whether it has ended. A step that hangs cannot be ended from outside."""


StartWorker = Callable[[Publish], RunningWorker]


class ThreadWorker:
    """A worker in a thread of its own, which does not keep the process from ending."""

    def __init__(self, engine: Engine, publish: Publish) -> None:
        self._worker = Worker(engine, publish)
        self._thread = threading.Thread(target=self._worker.run, name="gpt2-engine", daemon=True)
        self._thread.start()

    def send(self, command: Command) -> None:
        self._worker.commands.put(command)

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def join(self, seconds: float) -> bool:
        self._thread.join(seconds)
        return not self._thread.is_alive()
