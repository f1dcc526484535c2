"""Batches of examples of like length, so that padding is small. Knows token ids alone."""

from collections.abc import Iterator
from itertools import islice

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from model.training.data.examples import Examples
from model.training.data.row_sets import RowSets
from model.training.data.source import Batch
from model.training.distributed import Processes
from model.training.recipe import Recipe

VALIDATION_ROWS = 16
# Examples are sorted by length within so many batches: the padding is small, and what makes up a batch is still largely chance.
SORTED_BATCHES = 16


class ShuffledBatches:
    """Which rows make up a step's batch: rows of like length, each epoch in a new order.

    A batch is a function of the seed and the step, as in model.training.data.batches.
    """

    def __init__(self, lengths: NDArray[np.int32], recipe: Recipe, processes: Processes, sets: RowSets | None = None) -> None:
        """`sets` have shares of the rows; without them each row comes once an epoch."""
        self._lengths, self._recipe, self._processes, self._sets = lengths, recipe, processes, sets
        self.batches_per_epoch = -(-len(lengths) // recipe.batch_size)
        self._epoch = -1
        self._batches = np.empty((0, 0), dtype=np.int64)  # (batches_per_epoch, batch_size)

    def rows(self, step: int) -> NDArray[np.int64]:
        """The numbers of the rows of a step's batch, of all processes."""
        epoch, place = divmod(step, self.batches_per_epoch)
        if epoch != self._epoch:
            self._shuffle(epoch)
        rows: NDArray[np.int64] = self._batches[place]
        return rows

    def parts(self, rows: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        """This process's share of a batch, in the recipe's parts."""
        # Neighbours in length go to different processes: none waits long for another.
        shares = self._recipe.accumulation * self._processes.num
        first = self._processes.rank * self._recipe.accumulation
        return [rows[first + part :: shares] for part in range(self._recipe.accumulation)]

    def _shuffle(self, epoch: int) -> None:
        generator = np.random.Generator(np.random.Philox(key=[self._recipe.seed, epoch]))
        size = self._recipe.batch_size
        rows = len(self._lengths) if self._sets is None else self._sets.epoch(epoch, self._recipe.seed)
        # The epoch's last batch is filled up with rows of its beginning.
        order = np.resize(generator.permutation(rows), self.batches_per_epoch * size)
        groups = (order[i : i + SORTED_BATCHES * size] for i in range(0, len(order), SORTED_BATCHES * size))
        by_length = np.concatenate([group[np.argsort(self._lengths[group], kind="stable")] for group in groups])
        self._batches = generator.permutation(by_length.reshape(-1, size))
        self._epoch = epoch


def by_length(lengths: NDArray[np.int32], processes: Processes) -> Iterator[NDArray[np.int64]]:
    """All rows for validation, neighbours in length together; this process's share."""
    order = np.argsort(lengths, kind="stable")
    batches = (order[i : i + VALIDATION_ROWS] for i in range(0, len(order), VALIDATION_ROWS))
    return islice(batches, processes.rank, None, processes.num)


class ExampleData:
    """Batches of examples, each one's tokens padded to the longest of its batch."""

    def __init__(
        self, train: Examples, validation: Examples, recipe: Recipe, processes: Processes, sets: RowSets | None = None
    ) -> None:
        self._train, self._validation, self._processes = train, validation, processes
        self._batches = ShuffledBatches(train.lengths, recipe, processes, sets)

    @property
    def batches_per_epoch(self) -> int:
        return self._batches.batches_per_epoch

    def batch(self, step: int) -> Batch:
        chosen = self._batches.rows(step)
        return Batch([self._train.rows(part) for part in self._batches.parts(chosen)], self._train.num_targets(chosen))

    def validation(self, step: int) -> Iterator[tuple[Tensor, Tensor]]:
        return map(self._validation.rows, by_length(self._validation.lengths, self._processes))
