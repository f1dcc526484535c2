"""Who may ask: an API key for every route but those named here, and how much runs under one key. Knows no engine.

Pure ASGI. The rule holds for the scope's method and path, which routes are chosen by too: never for an address made of the
Host header, or of what a proxy may have said.
"""

import math
import re
import time
from collections.abc import Callable

from starlette.types import ASGIApp, Receive, Scope, Send

from app.api import web
from app.api.responses import error_response
from app.errors import MAX_RETRY_AFTER, InvalidKey, KeyLimitReached, ServiceError
from app.keys import Keys

# For GET, and HEAD, which is routed as GET: probes, and what is the same for everybody.
OPEN_PATHS = frozenset({"/health", "/health/live", "/health/ready", "/health/startup", "/openapi.json", *web.FILES})
BEARER = re.compile(rb"bearer +([!-~]+)", re.IGNORECASE)


class RunningRequests:
    """When the requests under way began, by the name of their key; `limit` is the most of one key, 0 for any number."""

    def __init__(self, limit: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.limit = limit
        self._clock = clock
        self._started: dict[str, list[float]] = {}
        self._mean_seconds: float | None = None  # of the latest ones

    def enter(self, name: str) -> float:
        """Count a request in; the result is what `leave` wants to know of it. Raises KeyLimitReached."""
        now = self._clock()
        started = self._started.get(name, [])
        if self.limit and len(started) >= self.limit:
            raise KeyLimitReached(self.limit, self._retry_after(now - started[0]))
        self._started[name] = [*started, now]
        return now

    def leave(self, name: str, started: float) -> None:
        seconds = self._clock() - started
        self._mean_seconds = seconds if self._mean_seconds is None else 0.9 * self._mean_seconds + 0.1 * seconds
        self._started[name].remove(started)
        if not self._started[name]:
            del self._started[name]

    def count(self, name: str) -> int:
        return len(self._started.get(name, []))

    def _retry_after(self, elapsed: float) -> int:
        """Until the key's oldest request has taken as long as requests do; one that already has, as long again."""
        mean = self._mean_seconds
        left = elapsed if mean is None or mean <= elapsed else mean - elapsed
        return min(max(math.ceil(left), 1), MAX_RETRY_AFTER)


class KeyMiddleware:
    """Lets a request through that names a key, and counts those that make work until they have ended, however they end."""

    def __init__(self, app: ASGIApp, keys: Keys, running: RunningRequests, open_paths: frozenset[str]) -> None:
        self.app, self._keys, self._running, self._open_paths = app, keys, running, open_paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or (scope["method"] == "GET" and scope["path"] in self._open_paths):
            await self.app(scope, receive, send)
            return
        try:
            name = self._holder(scope)
            started = self._running.enter(name) if scope["method"] == "POST" else None
        except ServiceError as error:
            await error_response(scope, error)(scope, receive, send)
            return
        try:
            await self.app(scope, receive, send)
        finally:
            if started is not None:
                self._running.leave(name, started)

    def _holder(self, scope: Scope) -> str:
        """The name of the request's key, which its log line tells. Raises InvalidKey, whatever is wrong with it."""
        given = [value for header, value in scope["headers"] if header == b"authorization"]
        # The parser leaves white space behind a value, which is no part of it (RFC 9110, section 5.5).
        bearer = BEARER.fullmatch(given[0].rstrip(b" \t")) if len(given) == 1 else None
        name = self._keys.holder(bearer[1]) if bearer else None
        if name is None:
            raise InvalidKey
        scope["state"]["key"] = name
        return name
