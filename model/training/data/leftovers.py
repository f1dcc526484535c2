"""What of the data is left out or not used, counted, so that nothing is lost in silence."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from model.training.data.text_blocks import BINARY, NoText
from model.training.errors import TrainingError

NAMED = 5


@dataclass(slots=True)
class Leftovers:
    """Counts of one reading of the data."""

    skip_bad: bool = False
    what: str = "texts"  # records are read as
    suffixes: Counter[str] = field(default_factory=Counter)  # of files in folders that are not read
    no_files: list[str] = field(default_factory=list)  # names in folders that lead to no file: links to nothing, pipes
    bad: list[str] = field(default_factory=list)  # what is wrong with files and folders, with their names
    remedy: str = ""  # what helps with the first of them
    num_bad_records: int = 0
    first_bad_record: str = ""
    unused: Counter[str] = field(default_factory=Counter)  # fields of records, by their names
    num_marks_in_lines: int = 0

    def bad_file(self, error: TrainingError) -> None:
        """Keep why a file or folder cannot be read, for `check_bad`: as text, since a traceback would hold what was read of it."""
        cause, remedy = (error.cause, error.remedy) if isinstance(error, NoText) else (str(error), "")
        self.remedy = self.remedy if self.bad else remedy
        self.bad.append(cause)

    def bad_record(self, error: TrainingError) -> None:
        """Count a record that cannot be read; unless such are to be left out, it is an error."""
        if not self.skip_bad:
            raise error
        self.num_bad_records += 1
        self.first_bad_record = self.first_bad_record or str(error)

    def check_bad(self) -> None:
        """Refuse all that cannot be read at once, not one after each attempt; unless such are to be left out.

        Of several it is said once what helps; of what is left out, not at all.
        """
        if self.skip_bad or not self.bad:
            return
        if len(self.bad) == 1:
            raise TrainingError("; ".join(filter(None, (self.bad[0], self.remedy))))
        raise TrainingError(f"{len(self.bad)} files cannot be read: {listed(self.bad, '; ')}; --skip-bad leaves such out")

    def lines(self) -> list[str]:
        """A line on each kind."""
        return [*self._folder_lines(), *self.bad_lines(), *self.unused_lines(), *self._mark_lines()]

    def _folder_lines(self) -> list[str]:
        lines = []
        if self.suffixes:
            found = [f"{count:,} {suffix}" for suffix, count in self.suffixes.most_common()]
            others = (suffix for suffix, _ in self.suffixes.most_common())
            first = next((suffix for suffix in others if suffix.startswith(".") and suffix not in BINARY), None)
            remedy = f"; --include '*{first}' reads such files" if first else ""
            lines.append(f"left out of the folders: {listed(found)}{remedy}")
        if self.no_files:
            lines.append(f"left out of the folders: {no_files_line(self.no_files)}")
        return lines

    def bad_lines(self) -> list[str]:
        lines = []
        if self.bad:
            lines.append(f"left out: {numbered(len(self.bad), 'file')} that cannot be read; the first: {self.bad[0]}")
        if self.num_bad_records:
            lines.append(f"left out: {numbered(self.num_bad_records, 'bad record')}; the first: {self.first_bad_record}")
        return lines

    def unused_lines(self) -> list[str]:
        if not self.unused:
            return []
        found = [f'"{name}" ({count:,})' for name, count in self.unused.most_common()]
        return [f"fields that are not used, with the number of {self.what} that have them: {listed(found)}"]

    def _mark_lines(self) -> list[str]:
        if not self.num_marks_in_lines:
            return []
        return [f"{self.num_marks_in_lines:,} <|endoftext|> inside lines: each ends a document, as one on its own line does"]


def numbered(count: int, name: str) -> str:
    return f"{count:,} {name}{'s' if count > 1 else ''}"


def no_files_line(names: Sequence[str]) -> str:
    return f"{numbered(len(names), 'name')} without a file behind, as links to nothing are; the first: {names[0]}"


def listed(found: Sequence[str], separator: str = ", ") -> str:
    """The first of them, and how many others there are."""
    others = f" and {len(found) - NAMED:,} other{'s' if len(found) > NAMED + 1 else ''}" if len(found) > NAMED else ""
    return separator.join(found[:NAMED]) + others
