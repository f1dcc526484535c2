"""Structured log lines: readable ones on a terminal, JSON elsewhere. Never a prompt or a generated text."""

import logging
import sys


def is_console(log_format: str) -> bool:
    return log_format == "console" or (log_format == "auto" and sys.stderr.isatty())


def configure_logging(log_format: str) -> None:
    """Send the service's and uvicorn's lines to standard error in one format: auto, console or json."""
    import structlog  # for the service alone; the other commands have no log

    console = is_console(log_format)
    timestamper = structlog.processors.TimeStamper(fmt="%H:%M:%S" if console else "iso", utc=not console)
    shared: list[structlog.types.Processor] = [structlog.stdlib.add_log_level, timestamper, structlog.processors.format_exc_info]
    renderer = structlog.dev.ConsoleRenderer() if console else structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer], foreign_pre_chain=shared
        )
    )
    root = logging.getLogger()
    root.handlers, root.level = [handler], logging.INFO
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)  # start-up reports its own progress
    logging.getLogger("uvicorn.access").disabled = True  # the request middleware writes one line a request, with its id
