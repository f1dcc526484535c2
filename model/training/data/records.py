"""Files of records as dictionaries: JSONL, arrays of JSON, and tables with a header. Knows no field by its name but `text`."""

import json
import re
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

from model.input_files import cut
from model.training.data import tables
from model.training.data.text_blocks import bare_suffix, lines, text_blocks
from model.training.errors import TrainingError

Record = dict[str, object]
LINES = (".jsonl", ".ndjson", ".jsonlines")  # suffixes of files with a record a line
BLANKS = re.compile(r"[ \t\r\n]+")


def holds_records(file: Path) -> bool:
    """Whether it is, by its suffix, a file of records."""
    return bare_suffix(file) in READERS


def is_table(file: Path) -> bool:
    return bare_suffix(file) in tables.SUFFIXES


def begins_with_record(text: str) -> bool:
    """Whether the first line that is not blank is an object of JSON, which text hardly ever begins with."""
    line = text.lstrip().partition("\n")[0]
    try:
        return line.startswith("{") and isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def check_characters(text: str, name: str) -> None:
    """JSON can write half a surrogate pair, which no tokenizer can read."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise TrainingError(f"{name} has half a surrogate pair, which is no character") from error


def place(file: Path, number: int) -> str:
    """Where a record stands: in a line or, of an array, which item it is."""
    return f"{file}, {'item' if bare_suffix(file) == '.json' else 'line'} {number}"


def records(file: Path, on_bad: Callable[[TrainingError], object] | None = None) -> Iterator[tuple[int, Record]]:
    """The records with their numbers, as `place` says them; blank lines are passed over.

    What is no record is given to `on_bad` and left out, and raises TrainingError where that is None. So does in any case what
    leaves nothing to go on with: an array that breaks off, a file that is no text.
    """
    for number, value in READERS[bare_suffix(file)](file):
        if isinstance(value, dict):
            yield number, value
            continue
        problem = value if isinstance(value, TrainingError) else TrainingError(f"{place(file, number)} is not a JSON object")
        if on_bad is None:
            raise problem
        on_bad(problem)


def _cause(error: ValueError | RecursionError, of_a_line: bool) -> str:
    """Without the decoder's line number: it counts in what was decoded, not in the file; nor its column, unless that was a line."""
    if not isinstance(error, json.JSONDecodeError):
        return str(error)
    return f"{error.msg} at column {error.colno}" if of_a_line else error.msg


def _jsonl(file: Path) -> Iterator[tuple[int, object]]:
    for number, line in lines(file):
        if not line.strip():
            continue
        try:
            yield number, json.loads(line)
        except (ValueError, RecursionError) as error:
            cause = tables.LINE_OF_CR if _goes_on_behind_cr(line, error) else _cause(error, of_a_line=True)
            yield number, TrainingError(f"{place(file, number)} is not JSON: {cause}")


def _goes_on_behind_cr(line: str, error: ValueError | RecursionError) -> bool:
    """Whether a line is a record, the end of a line of CR alone, and more."""
    return isinstance(error, json.JSONDecodeError) and error.msg == "Extra data" and "\r" in line[: error.pos]


def _json(file: Path) -> Iterator[tuple[int, object]]:
    """An array's items or, as many name files of that kind too, a record of each line."""
    beginning = next(text_blocks(file), "").strip()
    has_lines = "\n" in beginning and begins_with_record(beginning)
    yield from (_jsonl if has_lines else _array)(file)


def _array(file: Path) -> Iterator[tuple[int, object]]:
    """The items of an array of objects, or of strings, which are texts."""
    array = _Array(file)
    if array.peek() == "{":
        field = array.array_field()
        remedy = f"save the array in its field {cut(field)} alone, or put" if field else "put"
        raise TrainingError(f"{file} is an object of JSON, not an array: {remedy} the object into [ ] if it is a record")
    array.take("[")
    if array.peek() == "]":
        array.take("]")
    else:
        for number in count(1):
            item = array.item(number)
            yield number, {"text": item} if isinstance(item, str) else item
            if array.take(",]") == "]":
                break
    if char := array.peek():
        raise TrainingError(f"{file} goes on behind its array, with {char}; make one array of it, or a .jsonl with a record a line")


class _Array:
    """An array of JSON that is read a block at a time: it may be larger than memory, if no item is."""

    def __init__(self, file: Path) -> None:
        self._file, self._blocks = file, text_blocks(file)
        self._text, self._position = "", 0

    def peek(self) -> str:
        """The next character that is no blank; none at the end."""
        while True:
            found = BLANKS.match(self._text, self._position)
            self._position = found.end() if found else self._position
            if self._position < len(self._text):
                return self._text[self._position]
            if not self._read():
                return ""

    def take(self, expected: str) -> str:
        """The next character, which must be one of those expected."""
        if (char := self.peek()) not in tuple(expected):
            wanted, found = " or ".join(expected), char or "the end"
            raise TrainingError(f"{self._file} is no JSON array of objects or strings: {wanted} should stand where {found} does")
        self._position += 1
        return char

    def item(self, number: int) -> object:
        self.peek()
        while True:
            try:
                value, self._position = json.JSONDecoder().raw_decode(self._text, self._position)
                return value
            except (ValueError, RecursionError) as error:
                if isinstance(error, RecursionError) or not self._read():
                    raise TrainingError(f"{place(self._file, number)} is not JSON: {_cause(error, of_a_line=False)}") from error

    def array_field(self) -> str | None:
        """Of an object the first field that holds an array; it is read no further."""
        self.take("{")
        while self.peek() == '"':
            name = str(self.item(1))
            self.take(":")
            if self.peek() == "[":
                return name
            self.item(1)
            self.take(",}")
        return None

    def _read(self) -> bool:
        """Twice as much as is left: an item is not tried again for each block of it. Whether there was more."""
        blocks = [self._text[self._position :]]
        size = 0
        while size <= len(blocks[0]) and (block := next(self._blocks, "")):
            blocks.append(block)
            size += len(block)
        self._text, self._position = "".join(blocks), 0
        return size > 0


def _table(file: Path) -> Iterator[tuple[int, object]]:
    rows = tables.rows(file)
    _, header = next(rows, (0, []))
    if twice := next((name for name in header if name and header.count(name) > 1), None):  # unnamed ones are not read at all
        raise TrainingError(f"{file} has the column {cut(twice)} twice; rename or delete one")
    for number, row in rows:
        if len(row) == len(header):
            yield number, dict(zip(header, row, strict=True))
        else:
            yield number, TrainingError(f"{place(file, number)} has {len(row)} fields, and the header {len(header)}")


READERS: dict[str, Callable[[Path], Iterator[tuple[int, object]]]] = {
    **dict.fromkeys(LINES, _jsonl),
    ".json": _json,
    **dict.fromkeys(tables.SUFFIXES, _table),
}
