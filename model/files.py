"""Files that are replaced whole: whoever reads finds the old contents or the new ones, also after a crash or on a full disk."""

import os
from collections.abc import Callable
from pathlib import Path


def replace_file(file: Path, write: Callable[[Path], object]) -> None:
    """Let `write` make a file beside `file`, then rename it over `file`; if that fails, `file` is as it was."""
    temporary = file.with_name(file.name + ".tmp")
    try:
        temporary.touch()
        mode = temporary.stat().st_mode
        write(temporary)
        temporary.chmod(mode)  # safetensors makes its files readable by their owner alone.
        with temporary.open("rb+") as written:
            os.fsync(written.fileno())
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)
