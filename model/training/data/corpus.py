"""Texts as documents, whole or in parts as they are read. Knows nothing of tokens.

A document ends at a mark `<|endoftext|>`, at the end of its record or at the end of its file.
"""

import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from model.training.data.example_records import learned_otherwise
from model.training.data.leftovers import Leftovers, listed
from model.training.data.options import DataOptions
from model.training.data.records import Record, begins_with_record, check_characters, holds_records, is_table, place, records
from model.training.data.selection import Selection, select
from model.training.data.text_blocks import NoText, text_blocks
from model.training.errors import TrainingError

# model.tokenizer.END_OF_TEXT and what goes with it: the blanks around one that has a line for itself, and the line's end.
MARK = re.compile(r"(?P<own>^[ \t]{0,64})?<\|endoftext\|>(?P<end>[ \t]{0,64}(?:\r?\n|\Z))?", re.MULTILINE)
LONGEST_MARK = 64 + 13 + 64 + 2


class Part(NamedTuple):
    """A part of a document, and whether one begins with it."""

    begins: bool
    text: str


@dataclass(frozen=True, slots=True)
class TextSet:
    files: list[Path]
    num_chars: int


@dataclass(frozen=True, slots=True)
class Corpus:
    """Texts that were all read once: they can be, and their sizes are known."""

    sets: list[TextSet]
    weights: tuple[float, ...]  # of the sets; none for one alone
    validation: list[Path]
    num_bytes: int  # of UTF-8 text to train on
    skip_bad: bool = False

    @property
    def files(self) -> list[Path]:
        """Those to train on."""
        return [file for texts in self.sets for file in texts.files]

    def __str__(self) -> str:
        num = len(self.files)
        return f"{self.num_bytes:,} bytes of text in {num:,} file{'s' if num > 1 else ''}"

    def parts(self, file: Path) -> Iterator[Part]:
        return document_parts(file, Leftovers(self.skip_bad))


def survey(selection: Selection, report: Callable[[str], None] = lambda line: None) -> Corpus:
    """Read all files once. What cannot be read is refused, all of it at once, or left out; `report` is told what is not used."""
    leftovers = selection.leftovers
    with tqdm(unit="B", unit_scale=True, desc="reading", leave=False, disable=None) as bar:
        sets = [[(file, *size) for file in files if (size := _size(file, leftovers, bar.update))] for files in selection.sets]
        held_out = [(file, *size) for file in selection.validation if (size := _size(file, leftovers, bar.update))]
    leftovers.check_bad()
    for line in leftovers.lines():
        report(line)
    for files, read in zip(selection.sets, sets, strict=True):
        if not sum(num_bytes for _, _, num_bytes in read):
            raise TrainingError(f"there is no text in {listed(list(map(str, files)))}")
    if selection.validation and not sum(num_bytes for _, _, num_bytes in held_out):
        raise TrainingError(f"there is no text in {listed(list(map(str, selection.validation)))} (--validation); name another")
    validation = [file for file, _, _ in held_out]
    texts = [TextSet([file for file, _, _ in read], sum(num_chars for _, num_chars, _ in read)) for read in sets]
    num_bytes = sum(num_bytes for read in sets for _, _, num_bytes in read)
    return Corpus(texts, selection.weights, validation, num_bytes, leftovers.skip_bad)


def _size(file: Path, leftovers: Leftovers, on_progress: Callable[[int], object]) -> tuple[int, int] | None:
    """A file's characters and bytes of text; None if it cannot be read."""
    num_chars = num_bytes = 0
    try:
        for _, text in document_parts(file, leftovers):
            size = len(text.encode())
            num_chars, num_bytes = num_chars + len(text), num_bytes + size
            on_progress(size)
    except TrainingError as error:
        leftovers.bad_file(error)
        return None
    return num_chars, num_bytes


def read_corpus(paths: Sequence[Path]) -> Corpus:
    """That of files and folders, none of which may be bad."""
    return survey(select(DataOptions(paths=paths)))


def documents(file: Path, skip_bad: bool = False) -> Iterator[str]:
    """The documents of one file, in order; raises TrainingError for what is no text, nor records with a `text` field."""
    yield from _joined(document_parts(file, Leftovers(skip_bad)))


def _joined(parts: Iterable[Part]) -> Iterator[str]:
    document: list[str] = []
    for begins, text in parts:
        if begins and document:
            yield "".join(document)
            document = []
        document.append(text)
    if document:
        yield "".join(document)


def beginning(selection: Selection, max_bytes: int | None, report: Callable[[str], None]) -> list[str]:
    """All documents, or the first `max_bytes` bytes of them, less a character that these would cut; files are read no further."""
    found: list[str] = []
    left = sys.maxsize if max_bytes is None else max_bytes
    for file in selection.files:
        try:
            parts, size = _first_parts(file, selection.leftovers, left)
        except TrainingError as error:
            selection.leftovers.bad_file(error)
            continue
        found += _joined(parts)
        left -= size
        if left <= 0:
            break
    selection.leftovers.check_bad()
    for line in selection.leftovers.lines():
        report(line)
    if left < 0:
        found[-1] = found[-1].encode()[:left].decode(errors="ignore")
    return list(filter(None, found))


def _first_parts(file: Path, leftovers: Leftovers, num_bytes: int) -> tuple[list[Part], int]:
    """Parts until there are so many bytes, and how many these are."""
    parts, size = [], 0
    for part in document_parts(file, leftovers):
        parts.append(part)
        size += len(part.text.encode())
        if size >= num_bytes:
            break
    return parts, size


def document_parts(file: Path, leftovers: Leftovers) -> Iterator[Part]:
    """The documents in parts of about a megabyte or less; those that are blank are left out."""
    if not holds_records(file):
        yield from _not_blank(_parted(_text_blocks(file), leftovers))
        return
    for number, record in records(file, leftovers.bad_record):
        try:
            text = _text(file, number, record)
        except TrainingError as error:
            if is_table(file) and "text" not in record:  # nor does any other row have it
                raise
            leftovers.bad_record(error)
            continue
        leftovers.unused.update(name for name in record if name != "text")
        yield from _not_blank(_parted([text], leftovers))


def _text_blocks(file: Path) -> Iterator[str]:
    """Those of a text; raises TrainingError for records, which nobody wants to be learned with their punctuation."""
    blocks = text_blocks(file)
    first = next(blocks, "")
    if begins_with_record(first):
        raise NoText(f"{file} has records of JSON and is not named .jsonl", "rename it, or leave it out (--skip-bad)")
    yield from chain([first], blocks)


def _text(file: Path, number: int, record: Record) -> str:
    if is_table(file) and "text" not in record:
        columns = listed([f'"{name}"' for name in record])
        remedy = learned_otherwise(record) or 'of a table of texts the column "text" is read: rename one'
        raise TrainingError(f"{file} has the columns {columns}; {remedy}")
    text = record.get("text")
    if not isinstance(text, str):
        missing = f'{place(file, number)}: no "text" field that is a string'
        raise TrainingError("; ".join(filter(None, (missing, learned_otherwise(record)))))
    check_characters(text, f'{place(file, number)}: "text"')
    return text


def _parted(blocks: Iterable[str], leftovers: Leftovers) -> Iterator[str | None]:
    """What lies between marks, and None for a mark."""
    text = "\n"  # with the character before what is to come, which tells whether a line begins there
    for block in chain(blocks, [""]):
        text += block
        safe = len(text) - LONGEST_MARK if block else len(text)  # what begins before it is in sight as a whole
        start = 1
        for mark in MARK.finditer(text, 1):
            if mark.start() >= safe:
                break
            yield text[start : mark.start()]
            yield None
            leftovers.num_marks_in_lines += mark["own"] is None or mark["end"] is None
            start = mark.end()
        line_end = text.rfind("\n", start, max(safe, 0)) if block else -1
        stop = max(start, line_end + 1 if line_end >= 0 else safe)
        yield text[start:stop]
        text = text[stop - 1 :]


def _not_blank(pieces: Iterable[str | None]) -> Iterator[Part]:
    """Documents of pieces, a None between two of them."""
    begins, held = True, ""
    for piece in pieces:
        if piece is None:
            begins, held = True, ""
            continue
        held += piece
        if held and not (begins and held.isspace()):
            yield Part(begins, held)
            begins, held = False, ""
