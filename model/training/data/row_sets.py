"""Sets of rows that have shares of what is trained on, whatever their sizes. Knows numbers of rows alone."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from model.files import replace_file
from model.training.damage import damage_named
from model.training.data.weighted_sets import WeightedSet, with_shares

PASS_BITS = 32  # of a Philox key, for how often a set was gone through


@dataclass(frozen=True, slots=True)
class RowSets:
    """Rows that lie set by set, so many of each."""

    sizes: tuple[int, ...]
    weights: tuple[float, ...]

    def epoch(self, number: int, seed: int) -> NDArray[np.int64]:
        """About as many rows as there are, of each set its share; each is gone through in a new order whenever it has ended."""
        num_rows, begin = sum(self.sizes), 0
        parts = []
        for number_of_set, (size, weight) in enumerate(zip(self.sizes, self.weights, strict=True)):
            share = weight / sum(self.weights)
            first, last = (int(epochs * num_rows * share) for epochs in (number, number + 1))
            parts.append(begin + _drawn(size, first, last, (seed, number_of_set)))
            begin += size
        return np.concatenate(parts)

    def weighted(self, names: Sequence[str]) -> list[WeightedSet]:
        """`names` are those of the paths, as they were given."""
        return with_shares(self.sizes, self.weights, names)

    def save(self, file: Path) -> None:
        replace_file(file, lambda temporary: temporary.write_text(json.dumps(asdict(self)) + "\n"))

    @classmethod
    def load(cls, file: Path) -> "RowSets":
        with damage_named(file):
            values = json.loads(file.read_text())
            return cls(tuple(map(int, values["sizes"])), tuple(map(float, values["weights"])))


def _drawn(size: int, first: int, last: int, seeds: tuple[int, int]) -> NDArray[np.int64]:
    """What is drawn from `first` on up to `last`, of a set that is gone through in a new order each time."""
    passes = range(first // size, (last - 1) // size + 1)
    seed, number_of_set = seeds
    keys = ([seed, (number_of_set + 1 << PASS_BITS) + number] for number in passes)  # none is that of an epoch's own order
    orders = [np.random.Generator(np.random.Philox(key=key)).permutation(size) for key in keys]
    drawn = np.concatenate(orders) if orders else np.zeros(0, dtype=np.int64)
    offset = passes.start * size
    return drawn[first - offset : last - offset]
