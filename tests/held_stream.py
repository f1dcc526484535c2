"""Where the lines of a server go that tests run in this process, whose service leaves structlog as it comes.

structlog's own logger writes by `print`, which holds no reference to `sys.stdout` while it writes (CPython's issue 130163): where a
test ends meanwhile, its captured stream is freed under the server's thread, and the whole run dies of a segmentation fault.
"""

import contextlib
import sys
from typing import Any


class HeldStreamLogger:
    """Writes to the standard output of the moment, which lasts as long as the line takes; what was closed gets none."""

    def msg(self, message: str) -> None:
        stream = sys.stdout
        with contextlib.suppress(ValueError):  # closed with its test
            stream.write(f"{message}\n")
            stream.flush()

    log = debug = info = warn = warning = error = critical = exception = fatal = failure = err = msg


def held_stream_logger(*_: Any) -> HeldStreamLogger:
    """What structlog makes loggers with."""
    return HeldStreamLogger()
