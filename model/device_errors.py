"""PyTorch's errors on a device, as those that the border has a word for: no room, and a device that answers nothing more."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from model.batch import RunnerLost


@contextmanager
def translated_errors() -> Iterator[None]:
    """Raise MemoryError and RunnerLost in place of what torch and Triton raise; all else passes."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise MemoryError(str(error)) from error
    except RuntimeError as error:
        message = str(error)
        if "CUDA" in message and "out of memory" in message:
            raise MemoryError(message) from error
        if "CUDA" in message and not _answers():
            raise RunnerLost(message) from error
        raise


def _answers() -> bool:
    """Whether the device still does anything for this process: after an illegal access, say, it answers all with that error."""
    try:
        torch.cuda.synchronize()
    except RuntimeError:
        return False
    return True
