"""The training loop. Knows a model, batches and a recipe; not where text comes from, nor how a terminal looks.

Everything in a run follows from its recipe and its step number, so that a run which was interrupted goes on bit for bit: on a CPU,
with the same number of threads. Not so one with a deadline, whose learning rates follow the clock.
"""

import contextlib
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from model.gpt2 import GPT2
from model.training.data.source import Batch, DataSource
from model.training.deadline import Deadline
from model.training.distributed import Processes
from model.training.errors import Diverged
from model.training.memory import give_back_memory
from model.training.objective import Measured, NextTokenLoss, Objective, measure
from model.training.optimizer import Optimizers
from model.training.recipe import Recipe

# A crash loses so much of a run, or a little more where the network is so large that saving it takes more than this share of the
# time: 0.1 to 0.7 s for 7 and 14 M parameters, 1 to 7 s for 124 M, on a busy machine.
SAVE_SECONDS, MAX_SAVING_SHARE = 30.0, 0.02
LAST_INTERVAL = 0.25  # of the steps between validations, at least, before the last one; else it and the one before are one


@dataclass(frozen=True, slots=True)
class Step:
    """What one optimiser step did; the loss is in nats a target, before the step."""

    number: int
    loss: float
    num_tokens: int
    seconds: float

    @property
    def tokens_per_second(self) -> float:
        return self.num_tokens / self.seconds


@dataclass(frozen=True, slots=True)
class Validation:
    """The model after `step` steps on held-out text; the loss is in nats a target."""

    step: int
    loss: float
    is_best: bool
    accuracy: float | None = None  # of the targets, where the objective can tell


EXACT_MATCH, REWARD_ACCURACY = "exact match", "reward accuracy"


class Score(NamedTuple):
    """What is told of a model besides its loss."""

    name: str  # EXACT_MATCH or REWARD_ACCURACY
    share: float


@dataclass(frozen=True, slots=True)
class Part:
    """From here on a run was made on this machine."""

    machine: str
    step: int
    tokens: int
    seconds: float


@dataclass(slots=True)
class Progress:
    """Where a run stands; saved and restored with the weights and the averages."""

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    best_loss: float = math.inf
    best_step: int = 0
    num_worse: int = 0  # validations since the best one; those while the rates rise are not counted
    best_score: Score | None = None  # of the best model
    parts: list[Part] = field(default_factory=list)

    def note_machine(self, machine: str) -> None:
        """The run goes on there."""
        if not self.parts or self.parts[-1].machine != machine:
            self.parts.append(Part(machine, self.step, self.tokens, self.seconds))


class Observer(Protocol):
    """Who watches a run, in the first process alone: prints, plots, saves."""

    def on_step(self, step: Step) -> None: ...

    def on_validation(self, validation: Validation) -> None:
        """The model was measured; if it is the best, it and the run are to be saved as they are now."""

    def on_checkpoint(self) -> None:
        """The run may be saved as it is now."""


class Trainer:
    """Trains a model for recipe.max_steps, to the deadline, until it no longer improves, or until `stop` is called."""

    def __init__(
        self,
        model: GPT2,
        data: DataSource,
        recipe: Recipe,
        observer: Observer,
        processes: Processes | None = None,
        deadline: Deadline | None = None,
        objective: Objective | None = None,
    ) -> None:
        """`objective` is by default to foretell the next token."""
        self.model, self.recipe, self.progress, self._deadline = model, recipe, Progress(), deadline
        self.optimizers = Optimizers(model, recipe)
        self._data, self._observer, self._processes = data, observer, processes or Processes()
        self._device = model.wte.weight.device
        self._loss: Objective = objective or NextTokenLoss(model, recipe.bfloat16, recipe.compiled, recipe.checkpoint_activations)
        self._parallel: nn.Module = DistributedDataParallel(self._loss) if self._processes.num > 1 else self._loss
        self._stopping = self._is_overdue = False
        self._began_at = 0
        self._next: Batch | None = None  # on the device already

    def stop(self) -> None:
        """End after the step that is being made; the run can go on later."""
        self._stopping = True

    def run(self, save_seconds: float = SAVE_SECONDS) -> bool:
        """Step until the end; the result is whether it was reached, rather than `stop` called."""
        self._began_at, next_save = self.progress.step, time.monotonic() + save_seconds
        while not self.finished:
            if self._processes.any(self._stopping):
                self._stopping = True
                self._observer.on_checkpoint()
                return False
            self._observer.on_step(self._step())
            if self._is_time_to_validate or self._is_at_end:
                self._validate()
            if (begin := time.monotonic()) >= next_save:
                self._observer.on_checkpoint()
                took = (now := time.monotonic()) - begin
                next_save = now + max(save_seconds, took / MAX_SAVING_SHARE)
        self._observer.on_checkpoint()
        return True

    @property
    def is_stopping(self) -> bool:
        """Whether `stop` was called, in this process or another."""
        return self._stopping

    @property
    def finished(self) -> bool:
        """Whether all steps are made, the deadline has passed, or the last `patience` validations were no better."""
        return self.is_tired or self._is_at_end

    @property
    def is_tired(self) -> bool:
        """Whether the last `patience` validations were no better."""
        return self.recipe.patience is not None and self.progress.num_worse >= self.recipe.patience

    @property
    def _is_time_to_validate(self) -> bool:
        """Not right before the end, where it is done anyway."""
        step, every = self.progress.step, self.recipe.validate_every
        return step % every == 0 and self.recipe.max_steps - step >= LAST_INTERVAL * every

    @property
    def _is_at_end(self) -> bool:
        return self._is_overdue or self.progress.step >= self.recipe.max_steps

    def _step(self) -> Step:
        begin, number = time.monotonic(), self.progress.step
        torch.manual_seed((self.recipe.seed << 32) + (number << 8) + self._processes.rank)  # for dropout
        self._parallel.train()
        with self._saved_on_failure():
            total, num_tokens = self._gradients(number)
        mean = _finite(self._processes.sum(total).item(), number)
        share = None if self._deadline is None else self._deadline.share
        self.optimizers.step(self.recipe.learning_rate_factor(number, share))
        seconds = time.monotonic() - begin
        self.progress.step += 1
        self.progress.tokens += num_tokens
        self.progress.seconds += seconds
        self._look_at_the_clock()
        return Step(self.progress.step, mean, num_tokens, seconds)

    def _gradients(self, number: int) -> tuple[Tensor, int]:
        """Those of a step, made; the result is this process's share of the loss and the number of all processes' tokens."""
        batch, self._next = self._next or self._load(number), None
        total = torch.zeros((), device=self._device)
        if self._device.type == "cpu":  # what a validation, a picture or a file took in between
            give_back_memory()
        for number_of_part, part in enumerate(batch.parts):
            with self._gradients_shared(last=number_of_part == len(batch.parts) - 1):
                loss = self._parallel(*part) / batch.num_targets
                (loss * self._processes.num).backward()  # the processes' gradients are averaged, not summed
            total += loss.detach()
            if self._device.type == "cpu":
                give_back_memory()
        if self._device.type == "cuda":  # which works on for tens of milliseconds until the loss is there
            self._next = self._load(number + 1)
        return total, self._processes.num * sum(part[0].numel() for part in batch.parts)

    @contextlib.contextmanager
    def _saved_on_failure(self) -> Iterator[None]:
        """Save what was made before a step that cannot be made, for want of memory, say: no weight has been changed by it yet."""
        try:
            yield
        except Exception:
            if self.progress.step > self._began_at:
                with contextlib.suppress(Exception):  # what was raised before says more
                    self._observer.on_checkpoint()
            raise

    def _load(self, step: int) -> Batch:
        """The batch of this step, on the device."""
        batch = self._data.batch(step)
        return Batch([tuple(map(self._to_device, part)) for part in batch.parts], batch.num_targets)

    def _to_device(self, ids: Tensor) -> Tensor:
        """To a GPU from pinned memory, for which nobody waits."""
        return ids.pin_memory().to(self._device, non_blocking=True) if self._device.type == "cuda" else ids.to(self._device)

    def _look_at_the_clock(self) -> None:
        if self._deadline is not None:
            self._deadline.begin()
            self._is_overdue = self._deadline.has_passed

    def _gradients_shared(self, last: bool) -> contextlib.AbstractContextManager[None]:
        """Processes exchange gradients once a step, with its last part."""
        if isinstance(self._parallel, DistributedDataParallel) and not last:
            return self._parallel.no_sync()
        return contextlib.nullcontext()

    def _validate(self) -> None:
        progress = self.progress
        measured = self.measure()
        loss = _finite(measured.loss, progress.step)
        is_best = loss < progress.best_loss
        if is_best:
            progress.best_loss, progress.best_step, progress.num_worse = loss, progress.step, 0
        elif progress.step > self.recipe.first_step + self.recipe.num_warmup_steps:
            progress.num_worse += 1
        self._observer.on_validation(Validation(progress.step, loss, is_best, measured.accuracy))

    def measure(self) -> Measured:
        """The network as it is on what is held out."""
        return measure(self._loss, self._data.validation(max(0, self.progress.step - 1)), self._processes)


def _finite(loss: float, step: int) -> float:
    """Weights that are no numbers must never be saved over good ones."""
    if not math.isfinite(loss):
        raise Diverged(f"the loss is {loss} after step {step}")
    return loss
