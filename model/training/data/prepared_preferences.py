"""Data for preference optimisation: pairs of answers, tokenised and measured once into a run's directory."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from model.gpt2 import GPT2
from model.training.base import Base
from model.training.data.options import DataOptions
from model.training.data.preference_files import read_preferences
from model.training.data.preferences import PreferenceData, Preferences
from model.training.data.selection import select
from model.training.data.task import Task
from model.training.distributed import Processes
from model.training.dpo_loss import DPO, DPOLoss
from model.training.errors import TrainingError
from model.training.finetune_defaults import Material, num_held_out
from model.training.recipe import Recipe

SPLITS = ("train", "validation")


def prepare_preferences(
    options: DataOptions, dpo: DPO, base: Base, directory: Path, report: Callable[[str], None]
) -> "PreparedPreferences":
    """Tokenise the pairs into `directory`; `report` takes a line on each decision."""
    selection = select(options)
    if selection.weights or options.template is not None:
        option, data = ("--weights", "texts") if selection.weights else ("--template", "conversations")
        raise TrainingError(f"{option} is for {data}, and the data are pairs of answers; leave it out")
    for line in selection.leftovers.lines():
        report(line)
    how = (base.tokenizer, base.config.eos_token_id, base.config.n_positions, report)
    pairs = read_preferences(selection.files, *how, options.skip_bad)
    if selection.validation:
        parts = (pairs, read_preferences(selection.validation, *how, options.skip_bad))
    else:
        parts = pairs.split(num_held_out(len(pairs), options.validation_fraction))
    for name, part in zip(SPLITS, parts, strict=True):
        part.save(directory / f"{name}.safetensors")
    return PreparedPreferences(directory, dpo)


@dataclass(frozen=True, slots=True)
class PreparedPreferences(Task):
    """What `prepare_preferences` made, and how it is learned."""

    dpo: DPO

    @property
    def rows(self) -> str:
        return "pairs"

    @property
    def material(self) -> Material:
        train, _ = self._pairs()
        return Material(len(train), float(np.mean(train.chosen.lengths + train.rejected.lengths)), is_examples=True)

    @property
    def counts(self) -> str:
        train, validation = self._pairs()
        return f"{len(train) + len(validation):,} pairs of answers, of which {len(validation):,} were held out"

    def source(self, recipe: Recipe, processes: Processes) -> PreferenceData:
        return PreferenceData(*self._pairs(), recipe, processes)

    def objective(self, model: GPT2, recipe: Recipe) -> DPOLoss:
        return DPOLoss(model, self.dpo.beta, recipe.bfloat16)

    def measure_base(self, model: GPT2, recipe: Recipe) -> None:
        """What the reference says of all pairs: the network itself as it is, with LoRA too, which adds nothing yet."""
        for name in SPLITS:
            file = self.directory / f"{name}.safetensors"
            Preferences.load(file).measured_by(model, recipe.bfloat16).save(file)

    def _pairs(self) -> tuple[Preferences, Preferences]:
        train, validation = (Preferences.load(self.directory / f"{name}.safetensors") for name in SPLITS)
        return train, validation
