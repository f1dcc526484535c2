"""A door: takes a request from Ray's proxy, has a replica answer it, and stays with the answer to its end.

Until an answer's first byte has left, a replica that dies costs the client nothing but time: another one is asked. After that the
stream ends with an error event. Knows no model and no engine; costs a few milliseconds a request, and one message a token.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.responses import error_response
from app.errors import GenerationFailed, NotReady, ServiceError, native_error, openai_error
from app.sse import DONE, event
from deploy.ray.exchange import Exchange, blocks_of, carried
from deploy.ray.exposition import merged
from ray.exceptions import RayError, TaskCancelledError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

MAX_TRIES = 3  # of a request; one that has ended three replicas may be what ends them
PROBE_SECONDS = 2.0  # for health and metrics: who asks for them waits for no replica that is still to come
LOST = "the replica that wrote this has ended; the same request may be sent again"
log = logging.getLogger("gpt2.door")


class Door:
    """Ray's ingress; `max_body_bytes` is the service's setting of that name."""

    def __init__(self, replicas: DeploymentHandle, max_body_bytes: int) -> None:
        self._replicas, self._max_body_bytes = replicas, max_body_bytes

    def __serve_build_asgi_app__(self) -> ASGIApp:
        """Ray's hook; the application is a function, since uvicorn takes a method for one of ASGI 2."""

        async def application(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] == "lifespan":
                await _live(receive, send)
            elif scope["type"] == "http":
                await self._answer(scope, receive, send)

        return application

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = await _read(receive, self._max_body_bytes)
        if body is None:
            return  # the client has left
        exchange = Exchange(carried(scope), body, blocks_of(body) if scope["method"] == "POST" else ())
        messages = self._messages(exchange)
        has_begun = is_stream = False
        try:
            async with aclosing(messages):
                async for message in messages:
                    if message["type"] == "http.response.start":
                        is_stream = _header(message, b"content-type").startswith(b"text/event-stream")
                        message = _without_request_id(message, scope)
                    await send(message)
                    has_begun = True
        except ServiceError as error:
            if not has_begun:
                scope.setdefault("state", {})
                await error_response(scope, error)(scope, receive, send)
            elif is_stream:
                await send({"type": "http.response.body", "body": _last_events(scope["path"], error), "more_body": False})
            else:
                raise  # the connection closes on an incomplete answer, which its length or its coding tells

    def _messages(self, exchange: Exchange) -> AsyncGenerator[Message, None]:
        path = exchange.scope["path"]
        if path == "/metrics":
            return self._of_all(exchange)
        return _within(self._of_one(exchange), PROBE_SECONDS) if path.startswith("/health") else self._of_one(exchange)

    async def _of_one(self, exchange: Exchange) -> AsyncGenerator[Message, None]:
        """A replica's answer; begun again by another one for as long as nothing of it has been passed on."""
        for tries_left in reversed(range(MAX_TRIES)):
            has_begun = False
            try:
                async with aclosing(self._tried(exchange, takes_503=not tries_left)) as messages:
                    async for message in messages:
                        yield message
                        has_begun = True
                return
            except TaskCancelledError:
                raise asyncio.CancelledError from None  # the client has left, and Ray has told the replica first
            except _Refused as refused:
                exchange = replace(exchange, avoid=refused.replica)
                log.warning("replica %s takes no requests; %d tries left", refused.replica, tries_left)
            except (RayError, RayServeException) as error:
                if has_begun:
                    log.warning("a replica has ended within an answer: %s", type(error).__name__)
                    raise GenerationFailed(LOST) from None
                log.warning("a replica has ended before its answer: %s; %d tries left", type(error).__name__, tries_left)
        raise NotReady(f"{MAX_TRIES} replicas have ended over this request")

    async def _tried(self, exchange: Exchange, takes_503: bool) -> AsyncGenerator[Message, None]:
        """One replica's answer, its head together with the first of its body. Raises _Refused, and what Ray raises."""
        stream = self._replicas.options(stream=True).answer.remote(exchange)
        held: Message | None = None
        try:
            async for batch in stream:
                for message in batch:
                    if message["type"] == "http.response.start":
                        held = message
                        if message["status"] == 503 and not takes_503:
                            raise _Refused(message["replica"])
                        continue
                    if held is not None:
                        yield held
                        held = None
                    yield message
        except BaseException:
            stream.cancel()  # the client has left, or another replica is asked
            raise

    async def _of_all(self, exchange: Exchange) -> AsyncGenerator[Message, None]:
        """The series of all replicas in one exposition; what refuses the request, a missing key, is passed on as it is."""
        asked = self._replicas.broadcast("whole", exchange)
        try:
            answers = await asked.results_async(timeout_s=PROBE_SECONDS, return_exceptions=True)
        except (TimeoutError, RayServeException):
            answers = []
        whole = [messages for messages in answers if not isinstance(messages, BaseException)]
        if not whole:
            raise NotReady(f"no replica has answered within {PROBE_SECONDS:g} s")
        head, *rest = whole[0]
        if head["status"] != 200:
            for message in (head, *rest):
                yield message
            return
        texts = {messages[0]["replica"]: b"".join(message.get("body", b"") for message in messages) for messages in whole}
        body = merged({name: text.decode() for name, text in texts.items()}).encode()
        headers = [(name, value) for name, value in head["headers"] if name != b"content-length"]
        yield {**head, "headers": [*headers, (b"content-length", b"%d" % len(body))]}
        yield {"type": "http.response.body", "body": b"" if exchange.scope["method"] == "HEAD" else body}


class _Refused(Exception):
    """A replica that drains or whose engine has stopped; another may take the request."""

    def __init__(self, replica: str) -> None:
        super().__init__(replica)
        self.replica = replica


async def _live(receive: Receive, send: Send) -> None:
    """There is nothing to start or to stop."""
    while (await receive())["type"] == "lifespan.startup":
        await send({"type": "lifespan.startup.complete"})
    await send({"type": "lifespan.shutdown.complete"})


async def _read(receive: Receive, limit: int) -> bytes | None:
    """The body; of one over the limit as much as shows that it is, since the replica is to refuse it. None if its client left."""
    parts: list[bytes] = []
    size, more = 0, True
    while more and size <= limit:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        more = message.get("more_body", False)
    return b"".join(parts)


async def _within(messages: AsyncGenerator[Message, None], seconds: float) -> AsyncGenerator[Message, None]:
    deadline = asyncio.get_running_loop().time() + seconds
    try:
        while True:
            async with asyncio.timeout_at(deadline):
                message = await anext(messages, None)
            if message is None:
                return
            yield message
    except TimeoutError:
        raise NotReady(f"no replica has answered within {seconds:g} s") from None
    finally:
        await messages.aclose()


def _header(message: Message, name: bytes) -> bytes:
    return next((value for given, value in message["headers"] if given == name), b"")


def _without_request_id(message: Message, scope: Scope) -> Message:
    """Ray's proxy adds it to every answer, the same one, unless it was no harmless one and the service has made another."""
    given = next((value for name, value in scope["headers"] if name == b"x-request-id"), b"")
    headers = [(name, value) for name, value in message["headers"] if not (name == b"x-request-id" and value == given)]
    return {**message, "headers": headers}


def _last_events(path: str, error: ServiceError) -> bytes:
    return event(openai_error(error)) + DONE if path.startswith("/v1/") else event(native_error(error))
