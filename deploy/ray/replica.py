"""A replica: the whole service of one process, its model loaded once, called through Ray in the place of a socket."""

import asyncio
import logging
import os
import sys
from collections.abc import AsyncGenerator, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI
from starlette.types import Message

import ray
from app.commands.options import settings_from
from app.environment import prepare_for_torch
from app.errors import ENGINE_LOST_EXIT_CODE, StartupError
from app.logs import configure_logging
from app.settings import Settings
from deploy.ray.exchange import Exchange
from deploy.ray.scaling import QUEUED_TOKENS
from ray import serve

if TYPE_CHECKING:
    from app.bootstrap import Service

SWITCH_SECONDS = 0.0005  # as in `gpt2 serve`: the engine's thread waits for the interpreter lock after each step
LOST_SECONDS = 0.5  # in which those inside can still be told that the engine is lost
# Ray starts the next one at once, without end where one has been ready before; it counts three where none has.
RESTART_SECONDS = 3.0
log = logging.getLogger("gpt2.replica")


class Unstartable(RuntimeError):
    """What StartupError says, without the way that it came: Ray shows the last line of what a constructor raised."""


class Replica:
    """Ray calls `check_health`, `record_autoscaling_stats` and, once nothing is under way any more, `__del__`."""

    async def __init__(self, settings: Mapping[str, Any]) -> None:
        sys.setswitchinterval(SWITCH_SECONDS)
        try:
            self._settings = _with_threads(settings_of(settings))
            self._app = self._build(self._settings)
            self._lifespan = self._app.router.lifespan_context(self._app)
            await self._lifespan.__aenter__()
        except StartupError as error:
            await asyncio.sleep(RESTART_SECONDS)
            raise Unstartable(f"exit code {error.exit_code}: {error}") from None
        self._name = serve.get_replica_context().replica_id.unique_id
        self._running: set[asyncio.Task[None]] = set()
        self._watch = asyncio.create_task(self._leave_when_lost())

    def _build(self, settings: Settings) -> FastAPI:
        prepare_for_torch()
        from app.main import create_app
        from app.telemetry import open_tracing

        tracing = open_tracing(os.environ)
        configure_logging(settings.log_format, *([] if tracing is None else [tracing.add_ids]))
        service = self._service(settings)
        return create_app(
            settings, service.generator, service.info, service.metrics, service.chat, service.lane, service.keys, tracing
        )

    def _service(self, settings: Settings) -> "Service":
        from app.bootstrap import build_service

        return build_service(settings, log.info)

    async def answer(self, exchange: Exchange) -> AsyncGenerator[list[Message], None]:
        """What the application sends, as soon as it sends it: all that has come since the door last took some."""
        sent: asyncio.Queue[Message | None] = asyncio.Queue()
        has_left = asyncio.Event()
        task = asyncio.create_task(self._run(exchange, sent, has_left))
        self._running.add(task)  # asyncio itself holds a task only loosely
        task.add_done_callback(self._running.discard)
        try:
            while True:
                messages = [await sent.get()]
                while not sent.empty():
                    messages.append(sent.get_nowait())
                if given := [message for message in messages if message is not None]:
                    yield given
                if messages[-1] is None:
                    break
        finally:
            has_left.set()  # the application ends by itself, as if its connection were gone
        await task  # raises what broke an answer that had begun

    async def whole(self, exchange: Exchange) -> list[Message]:
        """An answer at once, for what all replicas are asked."""
        return [message async for messages in self.answer(exchange) for message in messages]

    async def _run(self, exchange: Exchange, sent: asyncio.Queue[Message | None], has_left: asyncio.Event) -> None:
        body: list[Message] = [{"type": "http.request", "body": exchange.body, "more_body": False}]

        async def receive() -> Message:
            if body:
                return body.pop()
            await has_left.wait()
            return {"type": "http.disconnect"}

        async def send(message: Message) -> None:
            sent.put_nowait(message if message["type"] != "http.response.start" else {**message, "replica": self._name})

        try:
            await self._app(dict(exchange.scope), receive, send)
        finally:
            sent.put_nowait(None)

    async def check_health(self) -> None:
        """Raises while no requests are taken in; after three times Ray starts another replica in this one's place."""
        self._app.state.generator.client.check_ready()

    async def record_autoscaling_stats(self) -> dict[str, float]:
        return {QUEUED_TOKENS: float(self._app.state.generator.client.num_queued_tokens)}

    async def _leave_when_lost(self) -> None:
        """At once, in place of three failed checks; the doors have the requests that had not begun done by others."""
        await self._app.state.generator.client.lost.wait()
        log.critical("the engine is lost: this replica ends with exit code %d", ENGINE_LOST_EXIT_CODE)
        await asyncio.sleep(LOST_SECONDS)
        os._exit(ENGINE_LOST_EXIT_CODE)

    async def __del__(self) -> None:
        if not hasattr(self, "_watch"):
            return  # it has never been ready
        self._watch.cancel()
        self._app.state.is_draining = True
        # Ray has waited for what was under way; what reached this replica after that is not cut off either.
        await self._app.state.generator.client.drain(self._settings.drain_seconds)
        with suppress(asyncio.CancelledError):
            await asyncio.gather(*self._running, return_exceptions=True)
        await self._lifespan.__aexit__(None, None, None)


def settings_of(given: Mapping[str, Any]) -> Settings:
    """Those given, then GPT2_* of the environment. Raises StartupError."""
    if "api_keys" in given:
        raise StartupError("settings.api_keys: Ray shows its configuration to all; give them as GPT2_API_KEYS_FILE")
    if unknown := sorted(set(given) - set(Settings.model_fields)):
        raise StartupError(f"settings.{unknown[0]}: there is no such setting; see README.md")
    return settings_from(given, "settings.{}".format)


def _with_threads(settings: Settings) -> Settings:
    """One for each whole CPU that Ray has set aside for this replica, unless they are set; where none, all of the machine's."""
    num_cpus = int(ray.get_runtime_context().get_assigned_resources().get("CPU", 0))
    return settings.model_copy(update={"threads": settings.threads or num_cpus})
