"""uvicorn with a drain of its own: at SIGTERM ready turns 503 while the listener stays open, running requests finish, exit 0.

An engine that is lost for this process ends it, so that whoever watches over it starts another.
"""

import asyncio
import errno
import logging
import os
import signal
import socket
import threading
from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import cast

import uvicorn
from fastapi import FastAPI

from app.engine.client import EngineClient
from app.errors import ENGINE_LOST_EXIT_CODE, StartupError
from app.keys import Keys
from app.listening import not_taken, take_address
from app.logs import traceback_of
from app.network.limits import Limits, allow_open_files, bound_sockets
from app.network.places import Places
from app.network.protocol import HttpProtocol
from app.network.refusals import Refusals
from app.settings import Settings

CLOSE_SECONDS = 5
LOST_SECONDS = 0.5  # in which clients and load balancers can still be told that the engine is lost
log = logging.getLogger("gpt2.server")


class Server(uvicorn.Server):
    """Drains at the first SIGTERM or SIGINT, cuts off what still runs at the second; `on_ready` is told the address."""

    def __init__(self, app: FastAPI, settings: Settings, on_ready: Callable[[str], None]) -> None:
        limits = Limits(settings.read_timeout_seconds, settings.write_timeout_seconds, allow_open_files(settings.max_connections))
        protocol = partial(
            HttpProtocol, limits=limits, places=Places(), tell_refusal=Refusals(app.state.metrics.count_refusal).tell
        )
        config = uvicorn.Config(
            app,
            host=settings.host,
            port=settings.port,
            loop="uvloop",
            http=cast("type[asyncio.Protocol]", protocol),  # it is only ever called
            ws="none",
            lifespan="off",  # uvicorn tells of an application that does not come up by a traceback, whatever the cause
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,  # nothing here asks for a client's address, so no header shall say it
            timeout_keep_alive=settings.keep_alive_seconds,
            # After the drain: for those that stopped reading their answer.
            timeout_graceful_shutdown=CLOSE_SECONDS,
        )
        super().__init__(config)
        app.state.metrics.describe_connections(lambda: len(self.server_state.connections), limits.max_connections)
        self._limits = limits
        self._app, self._drain_seconds, self._on_ready = app, settings.drain_seconds, on_ready
        self._lifespan = app.router.lifespan_context(app)
        self._drains: list[asyncio.Task[None]] = []

    @property
    def exit_code(self) -> int:
        """Of the process, once this has run."""
        return ENGINE_LOST_EXIT_CODE if self._engine.lost.is_set() else 0 if self.started else 1

    @property
    def _engine(self) -> EngineClient:
        engine: EngineClient = self._app.state.generator.client
        return engine

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve on sockets that `take_address` gave, or on those that it gives now. Raises StartupError, as it and the app do."""
        super().run(sockets or take_address(self.config.host, self.config.port))

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await self._start_app()
        await super().startup(sockets)
        if any(listener.fileno() < 0 for listener in sockets or ()):  # uvloop closes what it cannot listen on, and tells nobody
            await self._stop_app()
            raise not_taken(OSError(errno.EADDRINUSE, "taken meanwhile"), self.config.host, self.config.port)
        if self.started:
            for server in self.servers:
                for listener in server.sockets:
                    bound_sockets(listener, self._limits)
            self._loop = asyncio.get_running_loop()
            self._take_hangups()
            self._watch = asyncio.create_task(self._leave_when_lost())
            host, port = self.servers[0].sockets[0].getsockname()[:2]
            self._on_ready(f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}")

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await super().shutdown(sockets)
        if not self.force_exit:
            await self._stop_app()

    async def _start_app(self) -> None:
        """Raises StartupError, for which a line is enough; of an engine that does not come up the log has all there is to know."""
        try:
            await self._lifespan.__aenter__()
        except StartupError:
            raise
        except Exception as error:
            log.critical("the service does not come up", exc_info=error)
            raise SystemExit(ENGINE_LOST_EXIT_CODE) from error

    async def _stop_app(self) -> None:
        try:
            await self._lifespan.__aexit__(None, None, None)
        except Exception as error:
            log.error("the service has not stopped as it should:\n%s", traceback_of(error))

    def _take_hangups(self) -> None:
        if threading.current_thread() is threading.main_thread():
            self._loop.add_signal_handler(signal.SIGHUP, self._read_keys)

    def _read_keys(self) -> None:
        keys: Keys | None = self._app.state.keys
        if keys is not None and keys.file is not None:
            keys.reload()
        else:
            log.info("SIGHUP: there is no file of API keys to read anew, see GPT2_API_KEYS_FILE")

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if not self.started:
            os._exit(128 + sig)  # nobody has been let in yet, and what warms up may take minutes
        if len(self._drains) > 1:
            super().handle_exit(sig, frame)
            return
        # uvicorn would close the listener now, and nobody could see ready turn 503.
        self._loop.call_soon_threadsafe(self._start_drain, signal.Signals(sig).name)

    def _start_drain(self, cause: str) -> None:
        self._app.state.is_draining = True
        seconds = 0.0 if self._drains else self._drain_seconds  # who asks twice does not want to wait
        self._drains.append(asyncio.create_task(self._drain(cause, seconds)))

    async def _drain(self, cause: str, seconds: float) -> None:
        log.info("%s: %d requests may finish within %g s", cause, self._engine.num_unfinished, seconds)
        num_cut, _ = await asyncio.gather(self._engine.drain(seconds), self._app.state.lane.drain(seconds))
        if num_cut:
            log.warning("the time is up: %d requests were cut off", num_cut)
        self.should_exit = True

    async def _leave_when_lost(self) -> None:
        await self._engine.lost.wait()
        log.critical("the engine is lost: this process ends with exit code %d", ENGINE_LOST_EXIT_CODE)
        await asyncio.sleep(LOST_SECONDS)
        self.should_exit = True
