"""Windows of tokenised text as batches: one process's share of each, by the recipe."""

from collections.abc import Iterator
from itertools import islice

from torch import Tensor

from model.training.data.batches import validation_batches, window_sampler
from model.training.data.shards import TokenShards
from model.training.data.source import Batch
from model.training.distributed import Processes
from model.training.recipe import Recipe

VALIDATION_ROWS = 16


class WindowData:
    """Windows of token shards: one process's share of each batch, in the recipe's parts and at the step's window length."""

    def __init__(self, shards: TokenShards, context: int, recipe: Recipe, processes: Processes) -> None:
        self._sampler = window_sampler(shards, context, recipe.seed)
        self._validation = shards.validation
        self._context, self._recipe, self._processes = context, recipe, processes
        self._windows_per_part = recipe.batch_size // (recipe.accumulation * processes.num)

    def batch(self, step: int) -> Batch:
        length = self._recipe.window_length(step, self._context)
        size, rank = self._windows_per_part, self._processes.rank
        first = step * self._recipe.batch_size + rank * size * self._recipe.accumulation
        parts = [self._sampler.batch(first + part * size, size, length) for part in range(self._recipe.accumulation)]
        return Batch(parts, self._recipe.batch_size * self._context)

    def validation(self, step: int) -> Iterator[tuple[Tensor, Tensor]]:
        """In windows of the step's length: positions that were never trained would drown what was learned."""
        length = self._recipe.window_length(step, self._context)
        ratio = self._context // length  # as many tokens whatever their length
        batches = validation_batches(self._validation, length, self._recipe.validation_windows * ratio, VALIDATION_ROWS * ratio)
        return islice(batches, self._processes.rank, None, self._processes.num)
