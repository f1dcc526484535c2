"""Records made one by one into what is learned, with a tally of what is not. Knows neither fields nor tokens."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from tqdm import tqdm

from model.training.data.leftovers import listed
from model.training.data.records import Record, place, records
from model.training.errors import TemplateError, TrainingError

Made = TypeVar("Made")


@dataclass(slots=True)
class Tally:
    """What was read, and what was not learned of it."""

    what: str  # records are read as: examples, pairs
    num_read: int = 0
    left_out: dict[str, list[str]] = field(default_factory=dict)  # where they are, by the reason
    bad: list[str] = field(default_factory=list)  # what is wrong with them, and where
    num_empty: int = 0  # that teach to say nothing
    unused: Counter[str] = field(default_factory=Counter)  # fields, by their names

    def leave_out(self, reason: str, where: str) -> None:
        self.left_out.setdefault(reason, []).append(where)

    def lines(self) -> list[str]:
        """A line on each kind of thing that was left out or not used."""
        lines = []
        if self.bad:
            lines.append(f"left out: {len(self.bad):,} records that are no {self.what}; the first: {self.bad[0]}")
        for reason, where in self.left_out.items():
            lines.append(f"{len(where):,} of {self.num_read:,} {self.what} are left out: {reason}; the first is {where[0]}")
        if self.num_empty:
            empty = f"{self.num_empty:,} of {self.num_read:,} {self.what} have an empty completion"
            lines.append(f"{empty}, which teaches to say nothing")
        if self.unused:
            found = [f'"{name}" ({count:,})' for name, count in self.unused.most_common()]
            lines.append(f"fields that are not used, with the number of {self.what} that have them: {listed(found)}")
        return lines


def made_of_records(
    files: Sequence[Path], make: Callable[[Record], Made], tally: Tally, skip_bad: bool
) -> Iterator[tuple[str, Made]]:
    """What `make` makes of each record, behind the place where that stands. Records of which it makes nothing, by TrainingError,
    are left out with `skip_bad`, and end the reading without it; a template's faults always do.
    """
    with tqdm(unit=f" {tally.what}", unit_scale=True, desc="tokenising", leave=False, disable=None) as bar:
        for file in files:
            for number, record in records(file, (lambda error: tally.bad.append(str(error))) if skip_bad else None):
                bar.update()
                where = place(file, number)
                try:
                    made = make(record)
                except TemplateError:
                    raise
                except TrainingError as error:
                    if not skip_bad:
                        raise TrainingError(f"{where}: {error}") from error
                    tally.bad.append(f"{where}: {error}")
                    continue
                tally.num_read += 1
                yield where, made
