"""What a run has written and cannot read again: one line that names the file and what helps."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError

from model.training.errors import TrainingError

REMEDY = "; put back a copy of it, or train anew with another --out"


@contextlib.contextmanager
def damage_named(file: Path) -> Iterator[None]:
    """Let whatever goes wrong in reading a file that a run has written say, as TrainingError, which one it is, and what helps."""
    try:
        yield
    except FileNotFoundError as error:
        raise TrainingError(f"{file} is missing{REMEDY}") from error
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, AttributeError) as error:
        what = f"it has no {error}" if isinstance(error, KeyError) else error
        raise TrainingError(f"{file} is damaged: {what}{REMEDY}") from error
