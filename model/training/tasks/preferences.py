"""Pairs of answers of which one is preferred: tokenised once into a run's directory, measured before the first step."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from model.gpt2 import GPT2
from model.training.base import Base
from model.training.data.options import DataOptions
from model.training.data.preference_files import read_preferences
from model.training.data.preferences import PreferenceData, Preferences
from model.training.data.selection import Selection
from model.training.distributed import Processes
from model.training.dpo_loss import DPO, DPOLoss
from model.training.recipe import Recipe
from model.training.tasks.splits import SPLITS, RowTask, load_splits, save_splits, split_file
from model.training.tasks.task import Material

REFERENCE_PAIRS = 8  # measured at once


def prepare_preferences(
    selection: Selection, options: DataOptions, dpo: DPO, base: Base, directory: Path, report: Callable[[str], None]
) -> "PreferenceTask":
    save_splits(read_preferences, selection, options, base, directory, report)
    return PreferenceTask(directory, dpo, names=tuple(map(str, options.paths)))


@dataclass(frozen=True)
class PreferenceTask(RowTask):
    """What `prepare_preferences` made, and how it is learned."""

    dpo: DPO

    @property
    def rows(self) -> str:
        return "pairs"

    @property
    def material(self) -> Material:
        train, _ = self.splits
        tokens = float(np.mean(train.chosen.lengths + train.rejected.lengths))
        repeated = self.rows_until_repeated
        return Material(len(train), tokens, is_text=False, sequences_per_row=2, rows_until_repeated=repeated)

    def source(self, recipe: Recipe, processes: Processes) -> PreferenceData:
        return PreferenceData(*self.splits, recipe, processes, self.sets)

    def objective(self, model: GPT2, recipe: Recipe) -> DPOLoss:
        return DPOLoss(model, self.dpo.beta, recipe.bfloat16)

    def measure_reference(self, model: GPT2, recipe: Recipe, report: Callable[[str], None]) -> None:
        """What the reference says of all pairs: the network itself as it is, with LoRA too, which adds nothing yet."""
        report("measuring what the model says of all pairs, which it is held to")
        for name, pairs in zip(SPLITS, self.splits, strict=True):
            measured_by(model, pairs, recipe.bfloat16).save(split_file(self.directory, name))

    @property
    def splits(self) -> tuple[Preferences, Preferences]:
        """Read each time: `measure_reference` changes the files, in one process of several."""
        return load_splits(self.directory, Preferences)


@torch.no_grad()
def measured_by(reference: GPT2, pairs: Preferences, bfloat16: bool = False) -> Preferences:
    """The pairs with what a network says of each before it is trained, in the run's precision and without dropout."""
    objective = DPOLoss(reference, beta=1.0, bfloat16=bfloat16).eval()
    device, found = reference.wte.weight.device, np.zeros(len(pairs), dtype=np.float32)
    order = np.argsort(pairs.lengths, kind="stable")
    groups = [order[i : i + REFERENCE_PAIRS] for i in range(0, len(order), REFERENCE_PAIRS)]
    for places in tqdm(groups, desc="measuring", unit=" batches", delay=2, leave=False, disable=None):
        tokens, targets, none = (tensor.to(device) for tensor in pairs.part(places))
        found[places] = objective.margins(tokens, targets, torch.zeros_like(none)).cpu().numpy()
    return replace(pairs, reference=found)
