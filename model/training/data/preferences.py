"""Pairs of answers to one prompt, of which one is preferred: as token ids, with what the reference says of each, and as batches.

Knows no network.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file
from torch import Tensor

from model.files import replace_file
from model.training.damage import damage_named
from model.training.data.example_batches import ShuffledBatches, by_length
from model.training.data.examples import Example, Examples
from model.training.data.row_sets import RowSets
from model.training.data.source import Batch
from model.training.distributed import Processes
from model.training.recipe import Recipe

ARRAYS = ("ids", "targets", "lengths")


@dataclass(frozen=True, slots=True)
class Preferences:
    """Pairs: example i of `chosen` is preferred to example i of `rejected`; both have the same prompt."""

    chosen: Examples
    rejected: Examples
    reference: NDArray[np.float32]  # (N,), log ref(chosen) - log ref(rejected) in nats

    @classmethod
    def of(cls, pairs: list[tuple[Example, Example]]) -> "Preferences":
        """Not yet measured: the reference has no opinion."""
        chosen, rejected = (Examples.of([pair[which] for pair in pairs]) for which in (0, 1))
        return cls(chosen, rejected, np.zeros(len(pairs), dtype=np.float32))

    @classmethod
    def concatenated(cls, *parts: "Preferences") -> "Preferences":
        chosen, rejected = (Examples.concatenated(*(getattr(part, which) for part in parts)) for which in ("chosen", "rejected"))
        return cls(chosen, rejected, np.concatenate([part.reference for part in parts]))

    def __len__(self) -> int:
        return len(self.reference)

    def __getitem__(self, places: NDArray[np.int64]) -> "Preferences":
        return Preferences(self.chosen[places], self.rejected[places], self.reference[places])

    @property
    def lengths(self) -> NDArray[np.int32]:
        """Of the longer answer with its prompt, in tokens: (N,)."""
        return np.maximum(self.chosen.lengths, self.rejected.lengths)

    def part(self, places: NDArray[np.int64]) -> tuple[Tensor, Tensor, Tensor]:
        """What DPOLoss takes of these pairs: inputs and targets (2P, T), the chosen answers first, and the reference (P,)."""
        both = Examples.concatenated(self.chosen[places], self.rejected[places])
        return *both.rows(np.arange(2 * len(places))), torch.from_numpy(self.reference[places])

    def split_places(self, num_held_out: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The numbers of those to train on, and of about `num_held_out` for validation, by a hash of the preferred answers."""
        return self.chosen.split_places(num_held_out)

    def num_among(self, others: "Preferences") -> int:
        """How many pairs have a preferred answer that is also among others', to the same prompt."""
        return self.chosen.num_among(others.chosen)

    def save(self, file: Path) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        arrays: dict[str, NDArray[np.int32] | NDArray[np.float32]] = {"reference": self.reference}
        for which, part in (("chosen", self.chosen), ("rejected", self.rejected)):
            arrays |= {f"{which}.{name}": getattr(part, name) for name in ARRAYS}
        replace_file(file, lambda temporary: save_file(arrays, temporary))

    @classmethod
    def load(cls, file: Path) -> "Preferences":
        with damage_named(file):
            arrays = load_file(file)
            chosen, rejected = (Examples(*(arrays[f"{which}.{name}"] for name in ARRAYS)) for which in ("chosen", "rejected"))
            return cls(chosen, rejected, arrays["reference"])


class PreferenceData:
    """Batches of pairs of like length."""

    def __init__(
        self, train: Preferences, validation: Preferences, recipe: Recipe, processes: Processes, sets: RowSets | None = None
    ) -> None:
        self._train, self._validation, self._processes = train, validation, processes
        self._batches = ShuffledBatches(train.lengths, recipe, processes, sets)

    def batch(self, step: int) -> Batch:
        chosen = self._batches.rows(step)
        return Batch([self._train.part(part) for part in self._batches.parts(chosen)], len(chosen))

    def validation(self, step: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        return map(self._validation.part, by_length(self._validation.lengths, self._processes))
