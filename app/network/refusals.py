"""Tells of what the protocol refuses, which never becomes a request: each in the metrics, a few a second in the log."""

from collections.abc import Callable

import structlog

from app.errors import ServiceError
from app.middleware import LineLimit

log = structlog.stdlib.get_logger("gpt2.network")


class Refusals:
    """Of all connections of a server; `count` is the metrics'."""

    def __init__(self, count: Callable[[ServiceError], None]) -> None:
        self._count, self._lines = count, LineLimit()

    def tell(self, error: ServiceError, request_id: str) -> None:
        self._count(error)
        if self._lines.has_room():
            log.info("refused", id=request_id, status=error.status, reason=error.message)
