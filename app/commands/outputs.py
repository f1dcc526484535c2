"""What commands leave: files, checked before anything is computed and written whole or not at all, and the command to go on by."""

import json
import os
import shlex
import sys
from importlib.util import find_spec
from pathlib import Path

from app.errors import CommandError
from model.files import naming, replace_file

PICTURE_FORMATS = (".png", ".svg", ".pdf")
STANDARD_OUTPUT = Path("-")


def pasteable(*words: object) -> str:
    """A command that a shell takes as it is meant, whatever blanks a name has."""
    return shlex.join(["gpt2", *map(str, words)])


def check_files(*files: Path | None) -> None:
    """Raises CommandError: it is found out now, not when all has been measured."""
    for file in files:
        if file and not file.parent.is_dir():
            raise CommandError(f"{file}: there is no folder {file.parent}")
        if file and file != STANDARD_OUTPUT and not os.access(file if file.exists() else file.parent, os.W_OK):
            raise CommandError(f"{file}: it cannot be written there; name another file")


def check_picture(option: str, file: Path | None) -> None:
    """Raises CommandError."""
    if file and file.suffix not in PICTURE_FORMATS:
        raise CommandError(f"{option} is {file}; its name must end in {', '.join(PICTURE_FORMATS)}")
    if file and find_spec("matplotlib") is None:
        raise CommandError(f"{option} needs matplotlib; pip install 'gpt2-service[train]'")


def write_json(file: Path, found: object) -> None:
    """Raises an OSError that names the file."""
    write_bytes(file, json.dumps(found, indent=2).encode() + b"\n")


def write_bytes(file: Path, content: bytes) -> None:
    """Over what is there once it is whole, unless that is a device or a pipe. Raises an OSError that names the file."""
    if file == STANDARD_OUTPUT:
        sys.stdout.flush()
        sys.stdout.buffer.write(content)
    elif file.exists() and not file.is_file():
        with naming(file):
            file.write_bytes(content)
    else:
        replace_file(file.resolve(), lambda temporary: temporary.write_bytes(content))
