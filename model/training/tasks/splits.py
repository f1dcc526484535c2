"""Records that are learned, of one set or of several with weights: one part to train on and one held out, in a run's directory.

Alike for examples and for pairs of answers.
"""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from model.training.base import Base
from model.training.data.example_files import ExampleEncoder
from model.training.data.leftovers import listed
from model.training.data.options import DataOptions
from model.training.data.record_reading import Tally, readable_files
from model.training.data.row_sets import RowSets
from model.training.data.selection import Selection
from model.training.data.weighted_sets import WeightedSet, weights_line
from model.training.errors import TrainingError
from model.training.recipe import Recipe
from model.training.tasks.task import Task
from model.training.tasks.templates import example_encoder, keep_template, kept_template

SPLITS = ("train", "validation")
SETS = "sets.json"
MAX_VALIDATION_ROWS = 1000


class Learned(Protocol):
    """Examples, or pairs of answers."""

    def __len__(self) -> int: ...

    def __getitem__(self, places: NDArray[np.int64]) -> Self: ...

    @classmethod
    def concatenated(cls, *parts: Self) -> Self: ...

    def split_places(self, num_held_out: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]: ...

    def num_among(self, others: Self) -> int: ...

    def save(self, file: Path) -> None: ...

    @classmethod
    def load(cls, file: Path) -> Self: ...


Rows = TypeVar("Rows", bound=Learned)
Read = Callable[[Sequence[Path], ExampleEncoder, int, Callable[[str], None], bool], Learned]


def save_splits(
    read: Read, selection: Selection, options: DataOptions, base: Base, directory: Path, report: Callable[[str], None]
) -> None:
    """Tokenise the records of a selection by `read` into `directory`; `report` takes a line on each decision."""
    for line in selection.leftovers.lines():
        report(line)
    if len(selection.sets) > 1 or selection.validation:  # what cannot be read is named at once, not one reading after another
        readable_files([*selection.files, *selection.validation], Tally(options.skip_bad))
    encoder = example_encoder(options.template, base, report)
    how = (encoder, base.config.n_positions, report, options.skip_bad)
    sets = [read(files, *how) for files in selection.sets]
    rows = sets[0] if len(sets) == 1 else sets[0].concatenated(*sets)  # which would copy them
    if selection.validation:
        kept, train, held_out = np.arange(len(rows)), rows, read(selection.validation, *how)
        if known := held_out.num_among(train):
            share = f"{known:,} of {len(held_out):,} records to validate on"
            report(f"{share} are among those to train on, too: the figures tell in part what was learned by heart")
    else:
        kept, places = rows.split_places(_num_held_out(len(rows), options.validation_fraction))
        train, held_out = rows[kept], rows[places]
    for name, files, part in zip(SPLITS, (selection.files, selection.validation), (train, held_out), strict=True):
        if not len(part):
            names = listed(list(map(str, files)))
            raise TrainingError(f"there is nothing for {name}: nothing in {names} fits into {base.config.n_positions} tokens")
        part.save(split_file(directory, name))
    _keep_sets(kept, list(map(len, sets)), options, directory)
    keep_template(encoder.writer, options.template, directory, report)


def split_file(directory: Path, name: str) -> Path:
    return directory / f"{name}.safetensors"


def load_splits(directory: Path, kind: type[Rows]) -> tuple[Rows, Rows]:
    """What there is to train on, and what is held out."""
    train, validation = (kind.load(split_file(directory, name)) for name in SPLITS)
    return train, validation


def _num_held_out(num_rows: int, fraction: float | None) -> int:
    """Rows for validation, one at least; fraction None is 10 %, but no more than is worth measuring."""
    if num_rows < 2:
        raise TrainingError(f"{num_rows} of the records fit; two at least are needed, one of them to be held out")
    wanted = min(num_rows // 10, MAX_VALIDATION_ROWS) if fraction is None else round(num_rows * fraction)
    return min(max(1, wanted), num_rows - 1)


def _keep_sets(kept: NDArray[np.int64], sizes: Sequence[int], options: DataOptions, directory: Path) -> None:
    """How many of the rows to train on are of each set, where these have weights; the rows lie set by set."""
    (directory / SETS).unlink(missing_ok=True)  # of a run that ended before it began
    if not options.weights:
        return
    counts = np.bincount(np.searchsorted(np.cumsum(sizes), kept, side="right"), minlength=len(sizes))
    if not counts.all():
        raise TrainingError(
            f"--weights: nothing of {options.paths[int(counts.argmin())]} is left to train on; more of it, or leave it out"
        )
    RowSets(tuple(counts.tolist()), options.weights).save(directory / SETS)


@dataclass(frozen=True)
class RowTask(Task):
    """What `save_splits` made."""

    names: tuple[str, ...] = field(default=(), kw_only=True)  # of the paths that weights are of, as far as these are told of

    @property
    @abstractmethod
    def splits(self) -> tuple[Learned, Learned]:
        """What there is to train on, and what is held out."""

    @property
    def counts(self) -> str:
        train, validation = self.splits
        return f"{len(train) + len(validation):,} {self.rows}, of which {len(validation):,} were held out"

    @property
    def tokenizer_files(self) -> dict[str, bytes]:
        return kept_template(self.directory)

    @property
    def sets(self) -> RowSets | None:
        """Those that have weights."""
        file = self.directory / SETS
        return RowSets.load(file) if file.exists() else None

    @property
    def rows_until_repeated(self) -> float | None:
        return min((one.until_repeated for one in self._weighted_sets()), default=None)

    def remarks(self, recipe: Recipe) -> list[str]:
        sets = self._weighted_sets()
        return [weights_line(sets, recipe.max_steps * recipe.batch_size, self.rows)] if sets else []

    def _weighted_sets(self) -> list[WeightedSet]:
        sets = self.sets
        return [] if sets is None else sets.weighted(self.names)
