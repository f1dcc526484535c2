"""Around every request: its id, one log line, one count; HEAD, and faults that nobody caught.

Pure ASGI: nothing here buffers a stream or hides a disconnect.
"""

import re
import time
import uuid
from collections.abc import Awaitable, Callable

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.metrics import ROUTES, Metrics

SAFE_ID = re.compile(r"[\w.:-]{1,128}", re.ASCII)
QUIET_ROUTES = ("/health", "/metrics")  # asked for every few seconds; their answers are seen elsewhere
log = structlog.stdlib.get_logger("gpt2.requests")


def outcome_of(status: int) -> str:
    if status in (429, 503):
        return "rejected"
    if status in (499, 504):  # the client left, or its own deadline passed
        return "aborted"
    return "completed" if status < 400 else "invalid" if status < 500 else "failed"


class RequestMiddleware:
    """Takes a client's x-request-id if it is a harmless one, else makes one, and returns it with every answer.

    HEAD is routed as GET; the server, which knows better, sends no body.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started, status = time.monotonic(), 500
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if SAFE_ID.fullmatch(given) else uuid.uuid4().hex
        state = scope.setdefault("state", {})
        state["request_id"] = request_id

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["x-request-id"] = request_id
            await send(message)

        routed = {**scope, "method": "GET"} if scope["method"] == "HEAD" else scope
        try:
            await self.app(routed, receive, send_with_id)
        finally:
            self._record(scope, request_id, status, state.get("outcome") or outcome_of(status), time.monotonic() - started)

    def _record(self, scope: Scope, request_id: str, status: int, outcome: str, seconds: float) -> None:
        path = scope["path"]
        if scope["method"] == "POST" and path in ROUTES:
            self.metrics.requests.labels(path, outcome).inc()
        if not path.startswith(QUIET_ROUTES):
            log.info(
                "request",
                id=request_id,
                method=scope["method"],
                path=path[:200],
                status=status,
                outcome=outcome,
                milliseconds=round(1000 * seconds, 1),
            )


class FaultMiddleware:
    """Answers exceptions that nobody caught, and raises them again for the server's log.

    Starlette's own place for that is outside of all middleware, where a page of another origin could not read the answer.
    """

    def __init__(self, app: ASGIApp, answer: Callable[[Request, Exception], Awaitable[Response]]) -> None:
        self.app, self._answer = app, answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        has_started = False

        async def send_and_note(message: Message) -> None:
            nonlocal has_started
            has_started = True
            await send(message)

        try:
            await self.app(scope, receive, send_and_note)
        except Exception as error:
            if not has_started:
                response = await self._answer(Request(scope), error)
                await response(scope, receive, send)
            raise
