"""Which data a run is given, and what of it is held out: what pre-training and fine-tuning let a user choose alike."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from model.training.errors import TrainingError


@dataclass(frozen=True, slots=True, kw_only=True)
class DataOptions:
    """Files and folders; what is not given is chosen for them."""

    paths: Sequence[Path]
    validation_fraction: float | None = None
    validation: Sequence[Path] = ()  # held out instead of a part of `paths`
    include: tuple[str, ...] = ()  # patterns of names of files in folders to read whatever their suffix
    skip_bad: bool = False  # leave out files and records that cannot be read
    weights: tuple[float, ...] = ()  # one number for each of `paths`: its share of what is trained on
    template: str | None = None  # by which conversations are written: a name, or a file

    def __post_init__(self) -> None:
        """Refuse what no data could make right, before any is read."""
        if self.validation_fraction is not None and not 0 < self.validation_fraction < 1:
            raise TrainingError(f"the validation fraction is {self.validation_fraction}; it must lie between 0 and 1")
        if self.validation and self.validation_fraction is not None:
            raise TrainingError("--validation names what is held out: with it there is no --validation-fraction; leave one out")
        if self.weights and len(self.weights) != len(self.paths):
            raise TrainingError(
                f"weights given: {len(self.weights)}; paths: {len(self.paths)}; give each path one, parted by commas without blanks"
            )
        if not all(0 < weight < float("inf") for weight in self.weights):
            raise TrainingError(f"the weights are {', '.join(map(str, self.weights))}; each must be above 0")
        if len(self.weights) == 1:
            raise TrainingError("one path takes no weight, it is all that is trained on; leave --weights out or name more paths")
