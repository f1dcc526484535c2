"""Files from strangers: looked at before they are opened and after, read no further than a bound, and told of in a line.

A checkpoint is a directory that somebody made. A pipe in it would be waited for without an end, a device never ends, and whatever
is larger than a GPT-2 can have there would only be read into memory to be refused.
"""

import json
import os
import reprlib
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

CONFIG_BYTES = 1 << 20  # of a config, a template or an index: those of GPT-2's releases have 1 to 30 kB
VOCABULARY_BYTES = 1 << 24  # GPT-2's have 1 MB, the largest known of 250,000 tokens 15 MB
MAX_TOKEN_ID = (1 << 24) - 1

_SHOWN = reprlib.Repr()
_SHOWN.maxstring = _SHOWN.maxother = 80
_SHOWN.maxlong = 40


class FileUnusable(ValueError):
    """The file cannot be read at all; the message names it and says why."""


def is_there(file: Path) -> bool:
    """Whether there is such a file; raises FileUnusable for one that is there but can hold nothing, as a link to nowhere."""
    try:
        mode = file.stat().st_mode
    except FileNotFoundError:
        if file.is_symlink():
            raise FileUnusable(f"{cut(str(file))} is a link to a file that is missing; copy the file itself") from None
        return False
    except (OSError, ValueError) as error:  # a name with a zero byte is none
        raise FileUnusable(f"{cut(str(file))} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    _check_regular(file, mode)
    return True


def read_file(file: Path, limit: int) -> bytes:
    """The contents of a regular file of `limit` bytes at most; raises FileUnusable."""
    if not is_there(file):
        raise FileUnusable(f"No such file: {cut(str(file))}")
    try:
        with _open(file) as opened:
            _check_regular(file, os.fstat(opened.fileno()).st_mode)  # it may be another one by now
            contents = opened.read(limit + 1)
    except OSError as error:
        raise FileUnusable(f"{file} cannot be read: {error.strerror}") from error
    if len(contents) > limit:
        raise FileUnusable(f"{file} is larger than {limit} bytes, the most that is read of such a file")
    return contents


def read_text(file: Path, limit: int) -> str:
    try:
        return read_file(file, limit).decode()
    except UnicodeDecodeError as error:
        raise FileUnusable(f"{file} is not UTF-8 text: {error.reason} at byte {error.start}") from error


def read_json(file: Path, limit: int) -> object:
    """Any JSON value, in which no object has a key twice."""
    contents = read_file(file, limit)
    try:
        return json.loads(contents.decode(), object_pairs_hook=_without_repetition)
    except (ValueError, RecursionError) as error:
        raise FileUnusable(f"{file} is not JSON: {error}") from error


def shown(value: object) -> str:
    """A value as Python writes it, cut short: whoever wrote the file may have made it as long as they like."""
    return _SHOWN.repr(value)


def cut(name: str) -> str:
    """A name as it is, unless it is too long or odd for a line."""
    return name if len(name) <= 400 and name.isprintable() else shown(name)


def repeated_key(pairs: Iterable[tuple[str, object]]) -> str:
    """The first key of an object that stands there twice; one does."""
    seen: set[str] = set()
    return next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]


def _without_repetition(pairs: list[tuple[str, object]]) -> dict[str, object]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        raise ValueError(f"the key {shown(repeated_key(pairs))} stands twice in one object")
    return fields


def _open(file: Path) -> BinaryIO:
    """Without waiting for anybody, as one who opens a pipe does for who writes into it."""
    return open(file, "rb", opener=lambda name, flags: os.open(name, flags | getattr(os, "O_NONBLOCK", 0)))


def _check_regular(file: Path, mode: int) -> None:
    if not stat.S_ISREG(mode):
        raise FileUnusable(f"{cut(str(file))} is no file but {_kind(mode)}")


def _kind(mode: int) -> str:
    kinds = {
        stat.S_ISDIR: "a directory",
        stat.S_ISFIFO: "a pipe",
        stat.S_ISSOCK: "a socket",
        stat.S_ISCHR: "a device",
        stat.S_ISBLK: "a device",
    }
    return next((name for is_kind, name in kinds.items() if is_kind(mode)), "something else")
