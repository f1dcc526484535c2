"""What a run asks of its data: a batch for each step, and what is held out."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Batch:
    """One step's material, in the parts that one process runs one after another; each is what the objective takes.

    For the next token these are inputs and targets, (B, T) each.
    """

    parts: Sequence[tuple[Tensor, ...]]
    num_targets: int  # learned from in all parts of all processes


class DataSource(Protocol):
    def batch(self, step: int) -> Batch:
        """The batch of this step, this process's share of it."""

    def validation(self, step: int) -> Iterator[tuple[Tensor, ...]]:
        """Parts that are never trained on, as they are to be measured after this step; this process's share."""
