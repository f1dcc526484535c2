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
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise MemoryError(str(error)) from error
        if "CUDA" in str(error) and not _answers():
            raise RunnerLost(str(error)) from error
        raise


def is_out_of_memory(error: MemoryError | RuntimeError) -> bool:
    """A device's, or the processor's own."""
    message = str(error)
    is_told = isinstance(error, (MemoryError, torch.OutOfMemoryError)) or ("CUDA" in message and "out of memory" in message)
    return is_told or "DefaultCPUAllocator: can't allocate memory" in message


def _answers() -> bool:
    """Whether the device still does anything for this process: after an illegal access, say, it answers all with that error."""
    try:
        torch.cuda.synchronize()
    except RuntimeError:
        return False
    return True
