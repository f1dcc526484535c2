"""Where a run keeps its things: the checkpoint to serve and, below `training/`, what it needs to go on.

OUT/config.json, model.safetensors, vocab.json, merges.txt   the best model so far
OUT/README.md                                                the card of that model
OUT/training/run.json                                        what is trained on what, and the recipe
OUT/training/state.safetensors                               the latest weights and averages, for resuming
OUT/training/best.json                                       what the best model was measured at, and when
OUT/training/log.csv, loss.png, tensorboard/                 the losses
OUT/training/tokens/                                         the text, tokenised
OUT/training/begun.json                                      which files of a vocabulary were there before the run
OUT/training/lock                                            while a process trains there: its number
"""

import contextlib
import json
import math
import shutil
from collections.abc import Callable, Collection, Iterator
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from model.files import replace_file
from model.gpt2 import GPT2
from model.tokenizer_files import FILES as VOCABULARY_FILES
from model.training import card
from model.training.damage import REMEDY, damage_named
from model.training.distributed import Processes
from model.training.errors import TrainingError
from model.training.optimizer import Optimizers
from model.training.overwriting import check_no_kind, check_no_tokenizer
from model.training.progress import read_log
from model.training.run_lock import training_lock
from model.training.trainer import EXACT_MATCH, Part, Progress, Score

Planned = TypeVar("Planned")

WEIGHT, AVERAGE = "weight/", "average/"
NOTHING_SAVED = "the run ended before anything was saved: it begins again at its first step"
BEGINS_ANEW = "an earlier run here ended before anything was saved: this one begins anew"
LOG_ROUNDING = 5e-5  # it has four digits
EXPORTS = ("model.safetensors", "adapter_model.safetensors")


class RunDirectory:
    """The files of one training run below a checkpoint's directory."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.training = out / "training"
        self.log, self.plot, self.tokens = self.training / "log.csv", self.training / "loss.png", self.training / "tokens"
        self.events = self.training / "tensorboard"
        self._plan, self._state = self.training / "run.json", self.training / "state.safetensors"
        self._best, self._begun = self.training / "best.json", self.training / "begun.json"

    def locked(self, processes: Processes) -> contextlib.AbstractContextManager[None]:
        """For this run alone, in the first of its processes."""
        return training_lock(self.out) if processes.is_first else contextlib.nullcontext()

    def check_unused(self) -> None:
        """Refuse to train over another run or checkpoint, or over what is no run's."""
        if self.has_state:
            raise TrainingError(f"{self.out} holds an earlier run; go on with it by --resume, or choose another --out")
        check_no_kind(self.out)
        if self._has_begun:
            return
        whole_tokens = (self.tokens / "index.json").exists()  # which a killed run has left to the next one
        for file in (self.log, self.plot, self.events, *(() if whole_tokens else (self.tokens,))):
            if file.exists():
                raise TrainingError(f"{file} exists already, of no run, and would be overwritten; choose another --out")

    def check_no_tokenizer(self) -> None:
        """Refuse one where that of a base is to come; what a killed run has left is none."""
        check_no_tokenizer(self.out, {}, self._vocabulary_of_debris() if self._is_debris else ())

    @property
    def _has_begun(self) -> bool:
        return self._begun.exists() or self._plan.exists()

    @property
    def _is_debris(self) -> bool:
        """Whether a run was killed here before it had saved anything."""
        return self._has_begun and not self.has_state and self._exported() is None

    def begin(self, report: Callable[[str], None]) -> None:
        """Make ready for a new run, which holds the lock; raises TrainingError over another run or checkpoint."""
        self.check_unused()
        self.take_debris_away(report)
        there = [name for name in VOCABULARY_FILES if (self.out / name).exists()]
        replace_file(self._begun, lambda file: file.write_text(json.dumps({"vocabulary_before": there}) + "\n"))

    def take_debris_away(self, report: Callable[[str], None]) -> None:
        """What is left of a run that was killed before it had saved anything, and would be in another one's way.

        Tokens that are whole stay: whoever tokenises knows whether they are of the same text.
        """
        if not self._is_debris:
            return
        report(BEGINS_ANEW)
        for name in self._vocabulary_of_debris():
            for file in (self.out / name, self.out / f"{name}.tmp"):
                file.unlink(missing_ok=True)
        if not (self.tokens / "index.json").exists():
            shutil.rmtree(self.tokens, ignore_errors=True)
        shutil.rmtree(self.events, ignore_errors=True)
        files = (self._plan, self._state, self._best, self.log, self.plot, self._begun)
        for file in files:
            for left in (file, file.with_name(file.name + ".tmp")):
                left.unlink(missing_ok=True)

    def _vocabulary_of_debris(self) -> list[str]:
        """The files that the earlier run made; none where it did not say so."""
        try:
            before = json.loads(self._begun.read_text())["vocabulary_before"]
            return [name for name in VOCABULARY_FILES if name not in before]
        except (OSError, ValueError, KeyError, TypeError):
            return []

    @contextlib.contextmanager
    def nothing_left_on_failure(self, processes: Processes) -> Iterator[None]:
        """Take away what was prepared for a run which then could not begin, and would be in another one's way."""
        before = set(self.out.iterdir()) if self.out.exists() else set()
        try:
            yield
        except BaseException:
            if processes.is_first:
                shutil.rmtree(self.tokens, ignore_errors=True)
                with contextlib.suppress(OSError):  # there is more in it, or it takes no changes
                    for name in VOCABULARY_FILES:
                        if self.out / name not in before:
                            (self.out / name).unlink(missing_ok=True)
                    self._plan.unlink(missing_ok=True)
                    self._begun.unlink(missing_ok=True)
            raise

    def write_plan(self, plan: dict[str, object]) -> None:
        self.training.mkdir(parents=True, exist_ok=True)
        replace_file(self._plan, lambda file: file.write_text(json.dumps(plan, indent=2) + "\n"))

    def read_plan(self, kind: str, read: Callable[[dict[str, Any]], Planned]) -> Planned:
        """What `read` makes of the plan of a run of this kind."""
        if not self._plan.exists():
            if self._begun.exists():
                raise TrainingError(f"the run in {self.out} ended before it was planned; begin it again without --resume")
            raise TrainingError(f"{self.out} holds no run to resume")
        with damage_named(self._plan):
            values = json.loads(self._plan.read_text())
            found = values["kind"]
        if found != kind:
            raise TrainingError(f"{self.out} holds a run of gpt2 train {found}; resume it by that command")
        self._check_state()
        with damage_named(self._plan):
            return read(values)

    @property
    def has_state(self) -> bool:
        return self._state.exists()

    def _check_state(self) -> None:
        """Refuse to begin anew over a model that the run has made: without a state, that is all there is of it."""
        if not self.has_state and (exported := self._exported()) is not None:
            raise TrainingError(
                f"{self._state} is missing, without which the run would begin anew and write over {exported}, the best model it "
                "has made; that is as it was. Use it as it is, or train anew with another --out"
            )

    def _exported(self) -> Path | None:
        return next((file for name in EXPORTS if (file := self.out / name).exists()), None)

    def note_export(self, step: int, loss: float) -> None:
        """Keep what the model that was just written was measured at."""
        noted = json.dumps({"step": step, "validation_loss": loss}) + "\n"
        replace_file(self._best, lambda file: file.write_text(noted))

    def exported_loss(self) -> float:
        """The validation loss of the model that is there, infinity if there is none; earlier versions noted it in the log alone."""
        if self._exported() is None:
            return math.inf
        try:
            return float(json.loads(self._best.read_text())["validation_loss"])
        except (OSError, ValueError, KeyError, TypeError):
            losses = [float(row["validation_loss"]) for row in read_log(self.log) if row["validation_loss"]]
            return min(losses, default=math.inf) + LOG_ROUNDING

    def save_state(self, model: GPT2, optimizers: Optimizers, progress: Progress) -> None:
        """Replace the state by that of now, without weights that are frozen; on any failure the earlier one stays."""
        tensors: dict[str, Tensor] = {WEIGHT + name: parameter for name, parameter in _trained(model).items()}
        tensors |= {AVERAGE + name: average for name, average in optimizers.state().items()}
        on_cpu = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        metadata = {"progress": json.dumps(asdict(progress))}
        replace_file(self._state, lambda file: save_file(on_cpu, file, metadata=metadata))

    def load_state(self, model: GPT2, optimizers: Optimizers) -> Progress:
        """Put the saved weights and averages into place; says where the run stands: at its beginning if nothing was saved."""
        if not self.has_state:
            return Progress()
        with damage_named(self._state), safe_open(self._state, framework="pt") as file:
            progress = _progress(file.metadata())
            tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no dict
        weights, averages = _below(WEIGHT, tensors), _below(AVERAGE, tensors)
        trained = _trained(model)
        self._check_fits(weights, trained, {name for name, _ in model.named_parameters()})
        with torch.no_grad():
            for name, parameter in trained.items():
                parameter.copy_(weights[name])
        optimizers.load_state(averages)
        return progress

    def _check_fits(self, weights: dict[str, Tensor], trained: dict[str, Tensor], known: Collection[str]) -> None:
        """Refuse a state that is not of the network which the plan describes."""
        odd = next((name for name in trained if name not in weights or weights[name].shape != trained[name].shape), None)
        if odd := odd or next((name for name in weights if name not in known), None):
            in_state, in_plan = (list(found[odd].shape) if odd in found else "missing" for found in (weights, trained))
            raise TrainingError(
                f"{self._state} does not fit {self._plan}: {odd} is {in_state} in the one, {in_plan} by the other; one of them is "
                f"damaged{REMEDY}"
            )

    def read_progress(self) -> Progress:
        """Where the run stands, without its weights."""
        if not self.has_state:
            return Progress()
        with damage_named(self._state), safe_open(self._state, framework="pt") as file:
            return _progress(file.metadata())

    def write_card(self, text: str) -> None:
        """Beside the model; not over a file that somebody else has written. Names that are no UTF-8 are written by their bytes."""
        file = self.out / card.NAME
        if not file.exists() or card.MARK in file.read_text(encoding="utf-8", errors="replace"):
            replace_file(file, lambda temporary: temporary.write_text(text, encoding="utf-8", errors="backslashreplace"))


def _below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _trained(model: GPT2) -> dict[str, Tensor]:
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def _progress(metadata: dict[str, str]) -> Progress:
    """Also as earlier versions wrote it."""
    values = json.loads(metadata["progress"])
    known = {field.name: values[field.name] for field in fields(Progress) if field.name in values}
    known["parts"] = [Part(**part) for part in values.get("parts", ())]
    if "best_exact_match" in values:  # its name when examples alone had a score
        known["best_score"] = (EXACT_MATCH, values["best_exact_match"])
    known["best_score"] = Score(*known["best_score"]) if known.get("best_score") else None
    return Progress(**known)
