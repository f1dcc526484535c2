"""What is said where the system lets no more threads start. Knows none of them."""

import contextlib
from collections.abc import Iterator

from app.errors import StartupError


@contextlib.contextmanager
def threads_needed() -> Iterator[None]:
    """Around what starts threads that the service cannot do without; a container's limit of processes counts threads too."""
    try:
        yield
    except RuntimeError as error:
        if str(error) != "can't start new thread":
            raise
        raise StartupError(
            "no more threads may be started: raise the limit of processes (docker run --pids-limit, ulimit -u), or set "
            "GPT2_THREADS lower"
        ) from error
