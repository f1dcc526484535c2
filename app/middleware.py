"""Around every request: its id, one log line, one count; HEAD, the door's refusals, and faults that nobody caught.

Pure ASGI: nothing here buffers a stream or hides a disconnect.
"""

import asyncio
import json
import re
import time
import uuid
from collections.abc import Awaitable, Callable

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.responses import error_response
from app.errors import Draining, ServiceError
from app.generation import TextGenerator
from app.logs import traceback_of
from app.metrics import ENGINE_ROUTES, ROUTES, Metrics

SAFE_ID = re.compile(r"[\w.:-]{1,128}", re.ASCII)
# W3C Trace Context: version, trace, parent and flags; later versions than 00 may say more. All zeros are no ids, ff is no version.
TRACEPARENT = re.compile(r"(?!ff)(?!00-.{53})[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-.*)?")
SHOWN_PATH = 200
MAX_TOLD = 10  # lines a second about requests that were turned away: each takes as long as all else that these cost the service
QUIET_ROUTES = ("/health", "/metrics")  # asked for every few seconds; their answers are seen elsewhere
log = structlog.stdlib.get_logger("gpt2.requests")


def outcome_of(status: int) -> str:
    if status == 401:
        return "unauthorized"
    if status in (429, 503):
        return "rejected"
    if status == 499:  # the client left
        return "aborted"
    if status == 504:
        return "expired"
    return "completed" if status < 400 else "invalid" if status < 500 else "failed"


def request_id_of(given: str) -> str:
    return given if SAFE_ID.fullmatch(given) else uuid.uuid4().hex


class LineLimit:
    """Of lines about what was turned away a few a second are told; the metrics count it all."""

    def __init__(self) -> None:
        self._second = self._num_told = 0

    def has_room(self) -> bool:
        """For one more, which is counted in."""
        if self._second != (now := int(time.monotonic())):
            self._second, self._num_told = now, 0
        self._num_told += 1
        return self._num_told <= MAX_TOLD


class RequestMiddleware:
    """Takes a client's x-request-id if it is a harmless one, else makes one, and returns it with every answer.

    HEAD is routed as GET; the server, which knows better, sends no body.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app, self.metrics = app, metrics
        self._lines = LineLimit()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started, status = time.monotonic(), 500
        given = Headers(scope=scope)
        state = scope.setdefault("state", {})
        # The protocol has made one already, if it refused the request before its turn came.
        request_id = state.setdefault("request_id", request_id_of(given.get("x-request-id", "")))
        if trace := TRACEPARENT.fullmatch(given.get("traceparent", "")):
            state["trace"] = trace[1]

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["x-request-id"] = request_id
                if scope["app"].state.is_draining:  # another connection may lead to a service that stays
                    headers["connection"] = "close"
            await send(message)

        routed = {**scope, "method": "GET"} if scope["method"] == "HEAD" else scope
        try:
            await self.app(routed, receive, send_with_id)
        finally:
            status = state.get("status", status)  # the protocol's, where it answered before the application did
            outcome = state["outcome"] = state.get("outcome") or outcome_of(status)
            self._record(scope, request_id, status, outcome, time.monotonic() - started)

    def _record(self, scope: Scope, request_id: str, status: int, outcome: str, seconds: float) -> None:
        path = scope["path"]
        reason = scope["state"].get("reason")
        if reason is not None and not path.startswith(QUIET_ROUTES):
            self.metrics.rejected.labels(reason).inc()
        if scope["method"] == "POST" and path in ROUTES:
            self.metrics.requests.labels(path, outcome).inc()
        if not path.startswith(QUIET_ROUTES) and (reason is None or self._lines.has_room()):
            log.info(
                "request",
                id=request_id,
                method=scope["method"],
                path=shown_path(path),
                status=status,
                outcome=outcome,
                milliseconds=round(1000 * seconds, 1),
                **{name: value for name in ("key", "trace") if (value := scope["state"].get(name))},
            )


class DoorMiddleware:
    """Refuses the engine's requests while it has room for none, before their bodies are read: many are refused when time is dear.

    So a request that is at fault may be told of it only when it comes again. What depends on the request is looked at later.
    """

    def __init__(self, app: ASGIApp, generator: TextGenerator) -> None:
        self.app, self._generator = app, generator

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "POST" and scope["path"] in ENGINE_ROUTES:
            try:
                self._generator.client.check_room()
            except ServiceError as error:
                await error_response(scope, error)(scope, receive, send)
                return
        await self.app(scope, receive, send)


def shown_path(path: str) -> str:
    """Fit for a log: short, and without what would begin a line of its own there or steer a terminal."""
    path = path[:SHOWN_PATH]
    return path if path.isprintable() else json.dumps(path)[1:-1]


class AnswerBroken(Exception):
    """An answer that had begun cannot go on: the server is to close its connection."""


class FaultMiddleware:
    """Answers exceptions that nobody caught, and logs them under the request's id.

    Starlette's own place for that is outside of all middleware, where a page of another origin could not read the answer; and
    the server's log would tell an exception's message, which may hold text of the request.
    """

    def __init__(self, app: ASGIApp, answer: Callable[[Request], Awaitable[Response]]) -> None:
        self.app, self._answer = app, answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        has_started = False

        async def send_and_note(message: Message) -> None:
            nonlocal has_started
            has_started = True
            await send(message)

        try:
            await self.app(scope, receive, send_and_note)
        except asyncio.CancelledError:  # the server ends, and has waited for as long as it does
            if has_started:
                scope["state"].setdefault("outcome", "aborted")  # the server closes the connection
            else:
                await error_response(scope, Draining())(scope, receive, send)
        except (KeyboardInterrupt, SystemExit, GeneratorExit):
            raise
        except BaseException as error:  # a panic of a library in Rust is no Exception
            log.error("something broke", id=scope["state"]["request_id"], traceback=traceback_of(error))
            if has_started:
                raise AnswerBroken from None
            response = await self._answer(Request(scope))
            await response(scope, receive, send)
