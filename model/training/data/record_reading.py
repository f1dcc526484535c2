"""Records made one by one into what is learned, with a tally of what is not. Knows neither fields nor tokens."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from tqdm import tqdm

from model.input_files import cut
from model.training.data.leftovers import Leftovers, listed, numbered
from model.training.data.records import Record, place, records
from model.training.errors import TemplateError, TrainingError

Made = TypeVar("Made")


@dataclass(slots=True)
class Tally(Leftovers):
    """What was read of records, and what was not learned of it."""

    learned: str = "completion"  # what it is called that a record teaches to say
    num_read: int = 0
    empty_files: list[str] = field(default_factory=list)  # without any record
    left_out: dict[str, list[str]] = field(default_factory=dict)  # where records are, by the reason
    num_empty: int = 0  # that teach to say nothing
    num_partly_empty: int = 0  # of which some answers do, among others
    end_token: str = ""  # as text
    num_with_end_token: int = 0  # that have it elsewhere than at an answer's end
    unwritten: Counter[str] = field(default_factory=Counter)  # messages that the chat template leaves out, by their roles

    def leave_out(self, reason: str, where: str) -> None:
        self.left_out.setdefault(reason, []).append(where)

    def lines(self) -> list[str]:
        """A line on each kind of thing that was left out or not used."""
        lines = self.bad_lines()
        if self.empty_files:
            lines.append(f"left out: {numbered(len(self.empty_files), 'file')} without a record; the first: {self.empty_files[0]}")
        for reason, where in self.left_out.items():
            lines.append(f"{len(where):,} of {self.num_read:,} {self.what} are left out: {reason}; the first is {where[0]}")
        if self.num_empty:
            lines.append(f"{self._share(self.num_empty)} an empty {self.learned}, which teaches to say nothing")
        if self.num_partly_empty:
            lines.append(f"{self._share(self.num_partly_empty)} an empty answer among others, which teaches to say nothing there")
        if self.num_with_end_token:
            share = self._share(self.num_with_end_token)
            lines.append(f"{share} {self.end_token} inside: it is the end token there, too; take it out if no text ends there")
        return [*lines, *self._unwritten_lines(), *self.unused_lines()]

    def _share(self, count: int) -> str:
        return f"{count:,} of {self.num_read:,} {self.what} have"

    def _unwritten_lines(self) -> list[str]:
        if not self.unwritten:
            return []
        found = [f"{count:,} of the role {cut(role)}" for role, count in self.unwritten.most_common()]
        return [f"messages that the chat template does not write: {listed(found)}; --template names another"]

    def check_learned(self, files: Sequence[Path]) -> None:
        """Refuse what teaches nothing, when all is read."""
        names = listed(list(map(str, files)))
        if not self.num_read:
            raise TrainingError(f"there are no {self.what} in {names}")
        if self.num_empty == self.num_read:
            raise TrainingError(f"all {self.learned}s in {names} are empty; there is nothing to learn")


def made_of_records(files: Sequence[Path], make: Callable[[Record], Made], tally: Tally) -> Iterator[tuple[str, Made]]:
    """What `make` makes of each record, behind the place where that stands. What cannot be read, and records of which it makes
    nothing, by TrainingError, are left out or refused as the tally has it; a template's faults always are refused.
    """
    readable = readable_files(files, tally)
    with tqdm(unit=f" {tally.what}", unit_scale=True, desc="tokenising", leave=False, disable=None) as bar:
        for file in readable:
            for number, record in records(file, tally.bad_record):
                bar.update()
                where = place(file, number)
                try:
                    made = make(record)
                except TemplateError:
                    raise
                except TrainingError as error:
                    tally.bad_record(TrainingError(f"{where}: {error}"))
                    continue
                tally.num_read += 1
                yield where, made


def readable_files(files: Sequence[Path], tally: Tally) -> list[Path]:
    """The files that can be read to their ends, which is tried before any is tokenised, as it is of texts: all that cannot be are
    refused at once, or left out whole.
    """
    readable = []
    with tqdm(unit=" records", unit_scale=True, desc="reading", leave=False, disable=None) as bar:
        for file in files:
            bad = Leftovers(tally.skip_bad)  # they are told when they are met again
            num_records = 0
            try:
                for _ in records(file, bad.bad_record):
                    bar.update()
                    num_records += 1
            except TrainingError as error:
                tally.bad_file(error)
                continue
            if num_records + bad.num_bad_records:
                readable.append(file)
            else:
                tally.empty_files.append(str(file))
    tally.check_bad()
    return readable
