"""Tables as rows of fields: .csv by commas or semicolons, .tsv by tabs. Knows no records.

Quotation marks of a .csv are those of RFC 4180. A .tsv may have them so, as spreadsheets write it, or as marks of its text like any
other, as most corpora do: its own lines tell.
"""

import csv
from collections.abc import Iterator
from pathlib import Path

from model.training.data.text_blocks import MAX_LINE_CHARS, bare_suffix, lines
from model.training.errors import TrainingError

SUFFIXES = (".csv", ".tsv")
LINE_OF_CR = "a line ends with CR alone, as on old Macs; save it with LF, or CR and LF"
MARK = '"'


def rows(file: Path) -> Iterator[tuple[int, list[str]]]:
    """The rows, the header first, each with the number of its last line; none of what is blank.

    Raises TrainingError for quotation marks and ends of lines that are not those of a table.
    """
    csv.field_size_limit(MAX_LINE_CHARS)
    header = next((line for _, line in lines(file) if line.strip()), "").rstrip("\r\n")
    if "\r" in header:
        raise TrainingError(f"{file}: {LINE_OF_CR}")
    if bare_suffix(file) == ".tsv":
        yield from _quoted_rows(file, "\t") if _has_quoted_fields(file) else _plain_rows(file)
    else:  # semicolons are from spreadsheets in German or French, say, where the comma is the decimal point
        yield from _quoted_rows(file, ";" if ";" in header and "," not in header else ",")


def _quoted_rows(file: Path, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    # Strictly: a quotation mark that nothing closes would swallow the rows behind it.
    reader = csv.reader((line for _, line in lines(file)), delimiter=delimiter, strict=True)
    try:
        yield from ((reader.line_num, row) for row in reader if row)
    except csv.Error as error:
        where = f"{file}, line {reader.line_num}"
        if "new-line character" in str(error):
            raise TrainingError(f"{where}: {LINE_OF_CR}") from error
        remedy = f"a field with {MARK} in it stands between two, its own written twice"
        raise TrainingError(f"{where}: the quotation marks are not as in a table ({error}): {remedy}") from error


def _plain_rows(file: Path) -> Iterator[tuple[int, list[str]]]:
    for number, line in lines(file):
        if row := line.rstrip("\r\n"):
            yield number, row.split("\t")


def _has_quoted_fields(file: Path) -> bool:
    """Whether a .tsv's marks are a table's: if its fields can be parted by them, and no more rows speak against it than for it."""
    held: list[str] = []  # the lines of a row

    def kept() -> Iterator[str]:
        for _, line in lines(file):
            held.append(line)
            yield line

    balance = num_columns = 0
    try:
        for row in csv.reader(kept(), delimiter="\t", strict=True):
            if not num_columns and held[0].startswith(MARK):  # no name of a column has such
                return True
            num_columns = num_columns or len(row)
            balance += _vote(row, held, num_columns)
            held.clear()
    except csv.Error:
        return False
    return balance >= 0


def _vote(row: list[str], held: list[str], num_columns: int) -> int:
    """1 where a row's marks are a table's, -1 where they are the text's, 0 where they may be either.

    Who writes a table puts marks around each field that has one, or the end of a line; what is left of its lines are no rows.
    """
    if len(held) > 1:
        are_rows = num_columns > 1 and all(line.count("\t") == num_columns - 1 for line in held)
        return -1 if are_rows else 1
    marks, marks_of_text = held[0].count(MARK), sum(field.count(MARK) for field in row)
    if not marks_of_text:
        return 0
    return -1 if marks == marks_of_text else 1
