"""Which files are read: those named, and those in the folders named that hold text by their names. Opens none."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from model.input_files import FileUnusable, is_there
from model.training.data.leftovers import Leftovers, listed, no_files_line
from model.training.data.options import DataOptions
from model.training.data.records import LINES
from model.training.data.text_blocks import BINARY, COMPRESSED, REMEDIES, NoText, bare_suffix
from model.training.errors import TrainingError

TEXT_SUFFIXES = (".txt", ".text", ".md", *LINES)


@dataclass(frozen=True, slots=True)
class Selection:
    """Files to train on, in one set or, with weights, in one for each path; those to validate on; what was left out."""

    sets: list[list[Path]]
    weights: tuple[float, ...]
    validation: list[Path]
    leftovers: Leftovers

    @property
    def files(self) -> list[Path]:
        """Those to train on."""
        return [file for files in self.sets for file in files]


def select(options: DataOptions) -> Selection:
    """Look into the folders; raises TrainingError for what is not there or cannot be read."""
    leftovers = Leftovers(options.skip_bad)
    unmatched = set(options.include)
    search = _Search(options.include, leftovers, unmatched)
    validation = list(dict.fromkeys(file for path in options.validation for file in search.files(path)))
    seen = {file.resolve() for file in validation}
    sets = []
    for path in options.paths:
        files = [file for file in search.files(path) if file.resolve() not in seen]
        if not files and (validation or options.weights):
            raise TrainingError(f"{path} has nothing that is not named already, before it or by --validation; leave it out")
        seen.update(file.resolve() for file in files)
        sets.append(files)
    if unmatched:
        raise TrainingError(f"--include '{sorted(unmatched)[0]}' matches no file in the folders named")
    leftovers.check_bad()
    return Selection(
        sets if options.weights else [[file for files in sets for file in files]], options.weights, validation, leftovers
    )


def text_files(paths: Sequence[Path]) -> list[Path]:
    """The files named, and those below the folders named that hold text by their suffix, in a fixed order."""
    return select(DataOptions(paths=paths)).files


@dataclass(frozen=True, slots=True)
class _Search:
    include: tuple[str, ...]
    leftovers: Leftovers
    unmatched: set[str]  # patterns that no file had yet

    def files(self, path: Path) -> list[Path]:
        """The path itself, or what it has below it."""
        if not path.is_dir():
            _check_file(path)
            return [path]
        others: list[str] = []
        texts = []
        no_files = []
        for file in sorted(self._below(path)):
            if not file.is_file():
                no_files.append(str(file))
            elif self._is_text(file, path):
                _check_file(file)
                texts.append(file)
            else:
                others.append(bare_suffix(file) or file.name)
        if not texts and not self.leftovers.bad:
            raise TrainingError(_no_text(path, sorted(set(others)), no_files))
        self.leftovers.suffixes.update(others)
        self.leftovers.no_files += no_files
        return texts

    def _below(self, folder: Path) -> Iterator[Path]:
        """All that is no folder and not hidden; linked folders are searched last, and each once however many ways lead there."""
        starts, seen = [folder], set()
        for start in starts:  # which grow meanwhile
            for below, folders, names in os.walk(start, onerror=self._unreadable):
                if (real := os.path.realpath(below)) in seen:
                    folders.clear()
                    continue
                seen.add(real)
                folders[:] = sorted(name for name in folders if not name.startswith("."))
                starts += (path for name in folders if (path := Path(below, name)).is_symlink())  # not followed by os.walk
                yield from (Path(below, name) for name in names if not name.startswith("."))

    def _unreadable(self, error: OSError) -> None:
        cause, remedy = f"{error.filename} cannot be read: {error.strerror}", "allow it, or leave it out (--skip-bad)"
        self.leftovers.bad_file(NoText(cause, remedy))

    def _is_text(self, file: Path, folder: Path) -> bool:
        matched = [pattern for pattern in self.include if _matches(file, folder, pattern)]
        self.unmatched.difference_update(matched)
        # A vocabulary's merges.txt is no text, though it has the suffix.
        return bool(matched) or (bare_suffix(file) in TEXT_SUFFIXES and file.name != "merges.txt")


def _matches(file: Path, folder: Path, pattern: str) -> bool:
    """Whether a pattern is that of the file's name, or, with a slash, of its way below the folder; packed or not."""
    name = file.relative_to(folder).as_posix() if "/" in pattern else file.name
    unpacked = name.removesuffix(file.suffix) if file.suffix.lower() in COMPRESSED else name
    return fnmatchcase(name, pattern) or fnmatchcase(unpacked, pattern)


def _check_file(path: Path) -> None:
    """Texts are read more than once: of a pipe nothing would be left, and a device never ends."""
    try:
        if not is_there(path):
            raise TrainingError(f"no such file or folder: {path}")
    except FileUnusable as error:
        raise TrainingError(str(error)) from error
    if remedy := REMEDIES.get(bare_suffix(path)):
        raise TrainingError(f"{path}: {bare_suffix(path)} is not read as text; {remedy}, and name that")


def _no_text(folder: Path, found: list[str], no_files: list[str]) -> str:
    suffixes = f"{', '.join(TEXT_SUFFIXES)}, also with .xz or .gz"
    if not found and no_files:
        return f"{folder} has no text files ({suffixes}) but {no_files_line(no_files)}"
    if not found:
        return f"{folder} has no text files ({suffixes}); put some there"
    pattern = next((name for name in found if name.startswith(".") and name not in BINARY), None)
    remedy = f"--include '*{pattern}' reads such files" if pattern else "name such a file itself if it holds text"
    return f"{folder} has no text files ({suffixes}) but {listed(found)}; {remedy}"
