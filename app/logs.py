"""Structured log lines: readable ones on a terminal, JSON elsewhere. Never a prompt or a generated text."""

import logging
import select
import sys
import traceback
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    import structlog

PIECE = 1000  # characters: at most the 4096 bytes for which a pipe has room if it has any


def is_console(log_format: str) -> bool:
    return log_format == "console" or (log_format == "auto" and sys.stderr.isatty())


def traceback_of(error: BaseException) -> str:
    """Where an error and its causes came from, and their types; no messages, which may hold text of a request."""
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    before = "" if cause is None else f"{traceback_of(cause)}\n\nand of that came:\n"
    return f"{before}{''.join(traceback.format_tb(error.__traceback__))}{type(error).__module__}.{type(error).__qualname__}"


class _Handler(logging.StreamHandler[TextIO]):
    """Writes what can be written at once: a log that nobody reads, as in a pipe that is full, must not stop the service."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self._poll = select.poll()
        self._poll.register(stream, select.POLLOUT)
        self._num_lost = 0
        self._before = ""  # of the next line, where the last one was cut

    def emit(self, record: logging.LogRecord) -> None:
        try:
            if self._num_lost and self._write(_lost(self._num_lost)):
                self._num_lost = 0
            self._num_lost += not self._write(record)
        except OSError:  # a disk that is full, a reader that has gone
            self._num_lost += 1
        except Exception:  # a line that cannot be formatted
            self.handleError(record)

    def _write(self, record: logging.LogRecord) -> bool:
        line = self._before + self.format(record) + self.terminator
        for start in range(0, len(line), PIECE):
            if not self._poll.poll(0):
                self._before = self.terminator if start else self._before
                return False
            self.stream.write(line[start : start + PIECE])
            self.flush()
        self._before = ""
        return True


def _lost(num: int) -> logging.LogRecord:
    text = f"lines lost here, since there was no room for them or nobody read them: {num}"
    return logging.makeLogRecord({"name": "gpt2", "levelno": logging.WARNING, "levelname": "WARNING", "msg": text})


def configure_logging(log_format: str, *processors: "structlog.types.Processor") -> None:
    """Send the service's and uvicorn's lines to standard error in one format: auto, console or json.

    Each line passes through `processors`, of which one may add the ids of the trace that it belongs to.
    """
    import structlog  # for the service alone; the other commands have no log

    console = is_console(log_format)
    timestamper = structlog.processors.TimeStamper(fmt="%H:%M:%S" if console else "iso", utc=not console)
    level, errors = structlog.stdlib.add_log_level, structlog.processors.format_exc_info
    shared: list[structlog.types.Processor] = [*processors, level, timestamper, errors]
    renderer = structlog.dev.ConsoleRenderer() if console else structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
    )
    handler = _Handler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer], foreign_pre_chain=shared
        )
    )
    root = logging.getLogger()
    root.handlers, root.level = [handler], logging.INFO
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)  # start-up reports its own progress
    logging.getLogger("uvicorn.access").disabled = True  # the request middleware writes one line a request, with its id
