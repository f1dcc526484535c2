"""Files that are written whole or not at all, also in a crash or on a full disk; what fails to be written is named."""

import contextlib
import errno
import os
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from safetensors import SafetensorError

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
NO_READER = (errno.EPIPE, errno.EIO)  # of a pipe whose other end is closed, and of a terminal that is
SYSTEM_ERROR = re.compile(r"os error (\d+)")  # how safetensors' text has an error of the system


def replace_file(file: Path, write: Callable[[Path], object]) -> None:
    """Let `write` make a file beside `file`, then rename it over `file`; if that fails, `file` is as it was.

    Raises an OSError that names `file`.
    """
    temporary = file.with_name(file.name + ".tmp")
    with naming(file), _taken_away(temporary):
        temporary.touch()
        mode = temporary.stat().st_mode
        write(temporary)
        temporary.chmod(mode)  # safetensors makes its files readable by their owner alone.
        with temporary.open("rb+") as written:
            os.fsync(written.fileno())
        temporary.replace(file)


@contextlib.contextmanager
def naming(file: Path) -> Iterator[None]:
    """Let an error of the system name the file: that of a write names none, and safetensors makes a text of it."""
    try:
        yield
    except SafetensorError as error:
        if not (found := SYSTEM_ERROR.search(str(error))):
            raise
        number = int(found[1])
        raise OSError(number, os.strerror(number), str(file)) from error
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(file)) from error


@contextlib.contextmanager
def written_if_possible() -> Iterator[None]:
    """What tells of work, on standard error, is no reason to end it: a line that has no room or no reader any more is lost."""
    try:
        yield
    except OSError as error:
        if error.errno not in NO_ROOM + NO_READER:
            raise


@contextlib.contextmanager
def all_or_none(directory: Path, names: Iterable[str]) -> Iterator[None]:
    """Take away again what was made of these files, and of their directory, if one of them cannot be written."""
    made = [file for name in names if not (file := directory / name).exists()]
    is_new = not directory.exists()
    try:
        yield
    except BaseException:
        with contextlib.suppress(OSError):
            for file in made:
                file.unlink(missing_ok=True)
            if is_new:
                directory.rmdir()
        raise


@contextlib.contextmanager
def _taken_away(file: Path) -> Iterator[None]:
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # of a directory that takes no changes; what was raised before says more
            file.unlink(missing_ok=True)
