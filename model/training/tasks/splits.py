"""Records that are learned, of one set or of several with weights: one part to train on and one held out, in a run's directory.

Alike for examples and for pairs of answers.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, Self

from model.training.base import Base
from model.training.data.example_files import ExampleEncoder
from model.training.data.options import DataOptions
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

    @classmethod
    def concatenated(cls, *parts: Self) -> Self: ...

    def split(self, num_held_out: int) -> tuple[Self, Self]: ...

    def save(self, file: Path) -> None: ...


Read = Callable[[Sequence[Path], ExampleEncoder, int, Callable[[str], None], bool], Learned]


def save_splits(
    read: Read, selection: Selection, options: DataOptions, base: Base, directory: Path, report: Callable[[str], None]
) -> None:
    """Tokenise the records of a selection by `read` into `directory`; `report` takes a line on each decision."""
    for line in selection.leftovers.lines():
        report(line)
    encoder = example_encoder(options.template, base, report)
    how = (encoder, base.config.n_positions, report, options.skip_bad)
    train = [read(files, *how) for files in selection.sets]
    if selection.validation:
        held_out = [read(selection.validation, *how)]
    else:
        names = [f" of {path}" for path in options.paths] if selection.weights else [""]
        parted = [_parted(rows, options.validation_fraction, name) for rows, name in zip(train, names, strict=True)]
        train, held_out = ([parts[which] for parts in parted] for which in (0, 1))
    for name, rows in zip(SPLITS, (train, held_out), strict=True):
        if not all(map(len, rows)):
            raise TrainingError(f"there is nothing for {name}: nothing fits into {base.config.n_positions} tokens")
        rows[0].concatenated(*rows).save(split_file(directory, name))
    if selection.weights:
        RowSets(tuple(map(len, train)), selection.weights).save(directory / SETS)
    keep_template(encoder.writer, options.template, directory, report)


def split_file(directory: Path, name: str) -> Path:
    return directory / f"{name}.safetensors"


def _parted(rows: Learned, fraction: float | None, of: str) -> tuple[Learned, Learned]:
    """Those to train on and those held out, one at least; fraction None is 10 %, but no more than is worth measuring."""
    if len(rows) < 2:
        raise TrainingError(f"{len(rows)} of the records{of} fit; two at least are needed, one of them to be held out")
    wanted = min(len(rows) // 10, MAX_VALIDATION_ROWS) if fraction is None else round(len(rows) * fraction)
    return rows.split(min(max(1, wanted), len(rows) - 1))


@dataclass(frozen=True)
class RowTask(Task):
    """What `save_splits` made."""

    names: tuple[str, ...] = field(default=(), kw_only=True)  # of the paths that weights are of, as far as these are told of

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
