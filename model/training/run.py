"""One run from its first step to its last: trains, shows, records and saves, alone or as one of several processes."""

import json
import math
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from textwrap import indent
from types import FrameType

from model.gpt2 import GPT2
from model.training.card import Card, figures, machine_name
from model.training.data.source import DataSource
from model.training.deadline import Deadline
from model.training.distributed import Processes
from model.training.errors import Diverged, Interrupted, TrainingError
from model.training.objective import Objective
from model.training.plot import PictureError, plot_losses, title_of
from model.training.progress import EventLog, LossLog, ProgressLine, counted
from model.training.recipe import Recipe
from model.training.run_directory import RunDirectory
from model.training.sampling import Probes
from model.training.trainer import REWARD_ACCURACY, Progress, Score, Step, Trainer, Validation


def train(
    model: GPT2,
    data: DataSource,
    recipe: Recipe,
    directory: RunDirectory,
    export: Callable[[], None],
    processes: Processes | None = None,
    tensorboard: bool = False,
    deadline: Deadline | None = None,
    probes: Probes | None = None,
    card: Card | None = None,
    objective: Objective | None = None,
    begun: Callable[[], None] | None = None,
) -> bool:
    """Train from where `directory`'s state stands; the result is whether the end was reached, rather than a signal.

    `export` writes what is to be served, whenever the model is better than before; `card` tells of it. `probes` are asked at each
    validation. `begun` is called when all is loaded, before the first step.
    """
    processes = processes or Processes()
    recipe.check_shares(processes.num, batch_is_fixed=True)  # also where more processes go on than began
    observer = _Recorder(directory, recipe, export, deadline, probes or Probes(), card) if processes.is_first else _Bystander()
    trainer = Trainer(model, data, recipe, observer, processes, deadline, objective)
    trainer.progress = directory.load_state(model, trainer.optimizers)
    if trainer.progress.step == recipe.first_step:
        trainer.progress.num_worse = 0  # a schedule that begins anew is given time to become better
    if isinstance(observer, _Recorder):
        observer.begin(trainer, tensorboard)
    if begun is not None:
        begun()
    try:
        with _interrupts(trainer.stop):
            finished = trainer.run()
        if finished and isinstance(observer, _Recorder):
            observer.end()
        return finished
    except Diverged as error:
        raise _told(error, trainer.progress, card) from error
    except KeyboardInterrupt as error:  # the second one
        if not processes.is_first:
            raise
        raise Interrupted(_kept(directory, trainer.progress)) from error
    finally:
        if isinstance(observer, _Recorder):
            observer.close()


def _told(error: Diverged, progress: Progress, card: Card | None) -> TrainingError:
    """What to do now: going on from what was saved is of no use where that is no better than the base."""
    if card is None or card.base_loss is None or progress.best_loss < card.base_loss:
        return error
    return TrainingError(
        f"{error.what}, and nothing better than the base was saved; begin anew with a smaller --learning-rate, in another --out"
    )


def _kept(directory: RunDirectory, progress: Progress) -> str:
    """What is saved of a run that was ended at once, and what is not."""
    if not directory.has_state:
        return "ended at once, before anything of the run was saved: --resume begins it again at its first step"
    saved = directory.read_progress().step
    lost = f"; what came after it, {counted(progress.step - saved, 'step')}, is lost" if progress.step > saved else ""
    unwritten = "; its model is not written yet, which --resume does" if math.isinf(directory.exported_loss()) else ""
    return f"ended at once; the run is saved as it was at step {saved:,}, from where --resume goes on{lost}{unwritten}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """What a run shows beside its losses, and how it was called; nothing of it changes the result."""

    tensorboard: bool = False
    samples: tuple[str, ...] = ()  # prompts that are continued at each validation
    command: str = ""

    def __post_init__(self) -> None:
        for prompt in self.samples:
            try:
                prompt.encode()
            except UnicodeEncodeError:
                raise TrainingError(f"--sample {prompt!r} is no UTF-8 text; give it in UTF-8, as the data is") from None


NOTHING_SHOWN = Shown()


class _Bystander:
    """The observer of the processes that are not the first."""

    def on_step(self, step: Step) -> None: ...

    def on_validation(self, validation: Validation) -> None: ...

    def on_checkpoint(self) -> None: ...


class _Recorder:
    """The observer of the first process: the live line, the CSV and the plot, the state and the checkpoint."""

    def __init__(
        self,
        directory: RunDirectory,
        recipe: Recipe,
        export: Callable[[], None],
        deadline: Deadline | None,
        probes: Probes,
        card: Card | None,
    ) -> None:
        self._directory, self._recipe, self._export, self._deadline = directory, recipe, export, deadline
        self._probes, self._card = probes, card

    def begin(self, trainer: Trainer, tensorboard: bool) -> None:
        self._trainer = trainer
        trainer.progress.note_machine(machine_name(trainer.model.wte.weight.device))
        step = trainer.progress.step
        self._exported_loss = self._directory.exported_loss()  # before the log forgets what is made again
        self._log = LossLog(self._directory.log, step)
        self._events = EventLog(self._directory.events, step) if tensorboard else None
        self._line = ProgressLine(self._recipe.max_steps, step, deadline=self._deadline)
        if step:
            self._line.write(
                f"the run stands at step {step:,}" + (", its end: nothing is left to train" if trainer.finished else "")
            )
        if step and step == trainer.progress.best_step:  # it may have died between its state and its model
            self._export_if_better()

    def on_step(self, step: Step) -> None:
        self._log.on_step(step, self._trainer.progress)
        self._line.on_step(step)
        if self._events is not None:
            self._events.on_step(step, self._recipe.learning_rate_factor(step.number - 1))

    def on_validation(self, validation: Validation) -> None:
        score = self._score(validation)
        self._log.on_validation(validation, self._trainer.progress, score)
        if self._events is not None:
            self._events.on_validation(validation, score)
        measured = figures(validation.loss, self._card.bits_per_nat if self._card else None, score)
        self._line.write(f"step {validation.step:,}: {measured}{self._remark(validation)}")
        for prompt, continuation in self._probes.samples(self._trainer.model):
            self._line.write(f"  {json.dumps(prompt, ensure_ascii=False)} goes on:")
            self._line.write(indent(continuation, "    "))
        if validation.is_best:
            self._trainer.progress.best_score = score
            # In this order: a run that dies between the two exports again what its state holds. The other way round it would go
            # on from an earlier state, and write over the better model.
            self._save_state()
            self._export_if_better()

    def _score(self, validation: Validation) -> Score | None:
        if validation.accuracy is not None:
            return Score(REWARD_ACCURACY, validation.accuracy)
        return self._probes.exact_match(self._trainer.model)

    def _remark(self, validation: Validation) -> str:
        if self._card is not None and self._card.base_loss is not None and validation.loss > self._card.base_loss:
            return ", worse than the base"
        return ", the best so far" if validation.is_best else ""

    def _export_if_better(self) -> None:
        """Not over a model that this run made later than where it stands now, in a part of it that was not saved."""
        progress = self._trainer.progress
        if progress.best_loss <= self._exported_loss:
            self._export()
            self._write_card()
            self._directory.note_export(progress.best_step, progress.best_loss)
            self._exported_loss = progress.best_loss
        else:
            self._line.write(f"the model in {self._directory.out} is better, {self._exported_loss:.4f}, and stays")

    def _write_card(self) -> None:
        if self._card is not None:
            self._directory.write_card(self._card.text(self._trainer.progress))

    def _save_state(self) -> None:
        self._directory.save_state(self._trainer.model, self._trainer.optimizers, self._trainer.progress)

    def on_checkpoint(self) -> None:
        self._save_state()
        if self._trainer.is_stopping:  # before the picture, a second in which somebody may lose patience
            self._line.write(f"saved at step {self._trainer.progress.step:,}")
        try:
            plot_losses(self._directory.log, self._directory.plot, title_of(self._trainer.model.config))
        except PictureError as error:
            self._line.write(f"the curves could not be drawn: {error}")

    def end(self) -> None:
        """Keep what the whole run has taken, and say why it ended if that was before all its steps were made."""
        self._write_card()
        if self._trainer.is_tired and self._trainer.progress.step < self._recipe.max_steps:
            self._line.write(
                f"ended early: {counted(self._trainer.progress.num_worse, 'validation')} without a better loss, at step "
                f"{self._trainer.progress.step:,} of {self._recipe.max_steps:,}"
            )

    def close(self) -> None:
        self._line.close()
        self._log.close()
        if self._events is not None:
            self._events.close()


@contextmanager
def _interrupts(stop: Callable[[], None]) -> Iterator[None]:
    """SIGINT, SIGTERM and SIGHUP end the run after the current step; a second one of the first two ends it at once.

    Of SIGHUP several come when a terminal is closed, of the system and of the shell; a run under `nohup` ignores it, and goes on.
    """

    def handle(signum: int, frame: FrameType | None) -> None:
        if signum != signal.SIGHUP:
            signal.signal(signum, previous[signum])
        stop()

    signums = [signal.SIGINT, signal.SIGTERM] + [signal.SIGHUP] * (signal.getsignal(signal.SIGHUP) != signal.SIG_IGN)
    previous = {int(signum): signal.signal(signum, handle) for signum in signums}
    try:
        yield
    finally:
        for signum, handler in previous.items():
            signal.signal(signum, handler)
