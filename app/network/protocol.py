"""A connection: uvicorn's HTTP protocol with limits, and with the contract's answers to what never becomes a request.

Decides when a connection ends. Knows nothing of what is asked and answered.
"""

import asyncio
from collections.abc import Callable
from typing import Any, cast

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle
from uvicorn.server import ServerState

from app.errors import Draining, MalformedRequest, RequestTooSlow, ServiceError, TooManyConnections
from app.middleware import outcome_of, request_id_of
from app.network.answers import refusal
from app.network.cycle import ExpectingCycle, Outlet, UnchunkedCycle, cut_off
from app.network.half_close import HalfClose
from app.network.limits import (
    HIGH_WATER_BYTES,
    LINGER_SECONDS,
    MAX_PIPELINED,
    MAX_UNREAD_BYTES,
    PROBE_CONNECTIONS,
    REFUSED_CONNECTIONS,
    Limits,
)
from app.network.places import Places
from app.network.receiving import LimitedReader
from app.network.watches import ReadWatch, WriteWatch

PROBES = (b"/health", b"/metrics")
LAST_LINGER_SECONDS = 0.5  # the service is about to end


class HttpProtocol(LimitedReader):
    """`limits`, `places` and `tell_refusal` apart, made as uvicorn makes its own."""

    __slots__ = (
        "_half_close", "_is_deaf", "_is_for_probes", "_num_unread_bytes", "_outlet", "_places", "_reads",
        "_refusal", "_running", "_tell_refusal", "_writes", "limits",
    )  # fmt: skip

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        limits: Limits,
        places: Places,
        tell_refusal: Callable[[ServiceError, str], None],
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.limits, self._places, self._tell_refusal = limits, places, tell_refusal
        self._running: RequestResponseCycle | None = None  # self.cycle is the newest one, which may have to wait
        self._is_for_probes = False
        self._half_close: HalfClose | None = None  # once the client sends no more, but reads
        self._is_deaf = False  # whatever else comes is thrown away
        self._num_unread_bytes = 0
        self._refusal: bytes | None = None  # to be sent once what came before it is answered
        self._reads = ReadWatch(self.loop, limits.read_seconds, self._read_expired)

    # The connection

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(transport)
        transport.set_write_buffer_limits(HIGH_WATER_BYTES)
        self._writes = WriteWatch(self.loop, self.limits.write_seconds, transport)
        self._outlet = Outlet(transport, self.close)
        self._reads.await_head()
        num_beyond = len(self.connections) - self.limits.max_connections
        if num_beyond > 0:
            self._meet_limit(num_beyond)

    def _meet_limit(self, num_beyond: int) -> None:
        """Take the place of one that asks for nothing before this one is refused."""
        if idle := next(iter(self._places.idle), None):
            cast("HttpProtocol", idle)._give_place()
            return
        self._is_for_probes = True
        if len(self._places.unasked) >= PROBE_CONNECTIONS or num_beyond > PROBE_CONNECTIONS + REFUSED_CONNECTIONS:
            oldest = cast("HttpProtocol", next(iter(self._places.unasked), self))
            if num_beyond > PROBE_CONNECTIONS + REFUSED_CONNECTIONS:
                oldest._give_place()
            else:
                oldest._refuse(TooManyConnections(self.limits.max_connections))
            if oldest is self:
                return
        self._places.unasked[self] = None

    def _give_place(self) -> None:
        """Nothing is lost, for nothing was asked or all is answered; it does not count any more from now on."""
        self._places.forget(self)
        self.connections.discard(self)
        self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._unset_keepalive_if_required()
        self._places.forget(self)
        self._reads.cancel()
        self._writes.cancel()
        if self._half_close is not None:
            self._half_close.cancel()
        self.pipeline.clear()
        if self._running is not None:
            cut_off(self._running)

    def eof_received(self) -> bool:  # type: ignore[override]  # true keeps the connection open for what is still to be sent
        cycle = self._running
        if cycle is None or cycle.response_complete or self._has_begun or cycle.scope["http_version"] == "1.0":
            self._writes.start()
            return False
        self._half_close = HalfClose(self.loop, self.transport)
        return self._half_close.watch(may_probe=not cycle.response_started)

    def close(self) -> None:
        """Close once all is sent; read on for a while if the client is still sending, which would lose it the answer."""
        if self.transport.is_closing():
            return
        if self._has_begun and not self._is_deaf and self.transport.can_write_eof():
            self._linger()
        else:
            self.transport.close()
            self._writes.start()

    def _linger(self) -> None:
        self._is_deaf = True
        self.transport.write_eof()
        self.flow.resume_reading()
        self._unset_keepalive_if_required()
        self._reads.set(LINGER_SECONDS)

    def shutdown(self) -> None:
        """The drain is over: what is still being sent is not waited for, what is being answered is."""
        if self._is_deaf:
            self.transport.close()
        elif self._has_begun and self._refusal is None and not (self._in_body and self.cycle.response_started):
            self._refuse(Draining())
            if self._is_deaf:
                self._reads.set(LAST_LINGER_SECONDS)
        else:
            super().shutdown()

    def timeout_keep_alive_handler(self) -> None:
        self.close()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._writes.start()

    def resume_writing(self) -> None:
        self._writes.cancel()
        super().resume_writing()

    # What comes in

    def data_received(self, data: bytes) -> None:
        if self._is_deaf or self._refusal is not None:
            self._count_unread(len(data))
            return
        self._unset_keepalive_if_required()
        self._places.idle.pop(self, None)
        try:
            self.read(data)
        except ServiceError as error:
            self._refuse(error)
            return
        if not self._in_body:
            if self._has_begun or self._num_head_bytes:  # or empty lines
                self._reads.await_head()
        elif self.cycle.response_complete:  # it is not wanted any more; `on_response_complete` has set its time
            self._count_unread(len(data))
        else:
            self._reads.await_body(len(data))

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._num_unread_bytes = 0

    def on_headers_complete(self) -> None:
        self._places.unasked.pop(self, None)
        if self._is_for_probes and not self.url.startswith(PROBES):
            self._fail(TooManyConnections(self.limits.max_connections))
        if len(self.pipeline) == MAX_PIPELINED:
            self._fail(MalformedRequest(f"{MAX_PIPELINED} requests wait already on this connection, the most that may"))
        super().on_headers_complete()
        if self._in_body:
            self._adopt(self.cycle)

    def _adopt(self, cycle: RequestResponseCycle) -> None:
        """uvicorn has no place for a class of its cycles; they begin in a task, later. To change it takes 2 us: most need none."""
        cycle.transport = self._outlet  # type: ignore[assignment]  # all of a transport that a cycle uses
        if self.scope["http_version"] == "1.0":
            cycle.__class__ = UnchunkedCycle
        elif self.expect_100_continue:
            cycle.__class__ = ExpectingCycle
        if self._is_for_probes:
            cycle.keep_alive = False

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:  # uvicorn's types
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._reads.rest()
        if not self._has_begun and self.cycle.response_complete:  # uvicorn does not think of a body that comes after its answer
            self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)
            self._become_idle()

    def _become_idle(self) -> None:
        """Between two requests; who has not taken all of an answer keeps its place."""
        if not self.transport.get_write_buffer_size() and not self.transport.is_closing():
            self._places.idle[self] = None

    def _count_unread(self, num_bytes: int) -> None:
        self._num_unread_bytes += num_bytes
        if self._num_unread_bytes > MAX_UNREAD_BYTES:
            self.transport.abort()

    def _read_expired(self) -> None:
        if not self._has_begun and not self._is_silent():
            return  # empty lines behind a request
        if self._is_deaf or not self._has_begun or (self._in_body and self.cycle.response_complete):
            self.transport.close()
            self._writes.start()
        elif self.flow.read_paused:  # it is not the client that is slow
            self._reads.set(self.limits.read_seconds)
        elif self._in_body:
            self._refuse(RequestTooSlow(f"its body paused for {self.limits.read_seconds:g} s, or came too slowly"))
        else:
            self._refuse(RequestTooSlow(f"its head was not complete within {self.limits.read_seconds:g} s"))

    # What goes out

    def on_response_complete(self) -> None:
        if self._is_deaf:
            return
        super().on_response_complete()
        if self.transport.is_closing():
            return
        if self._has_begun and self._in_body and not self.pipeline:
            self._reads.set(LINGER_SECONDS)
        if self._refusal is not None and self._is_silent():
            self._send_refusal()
        elif self._half_close is not None and self._is_silent():
            self.close()
        elif not self._has_begun and self._is_silent():
            self._become_idle()

    def _refuse(self, error: ServiceError) -> None:
        """Answer with the error and close, but not before what came earlier on this connection is answered."""
        self._places.forget(self)
        request_id = self._request_id()
        self._tell_refusal(error, request_id)
        if self._in_body and self._is_answering_this(error):
            self.close()
            return
        is_head = bool(self.url) and self.parser.get_method() == b"HEAD"
        path = self.url.decode("latin-1")
        self._refusal = refusal(error, path, request_id, self.server_state.default_headers, has_body=not is_head)
        self._reads.rest()
        if self._is_silent():
            self._send_refusal()

    def _request_id(self) -> str:
        """The one that the application has for the request, or will have, if it is told of it at all."""
        headers = dict(self.headers)
        request_id = request_id_of(headers.get(b"x-request-id", b"").decode("latin-1"))
        return self.scope["state"].setdefault("request_id", request_id) if self._in_body else request_id

    def _is_silent(self) -> bool:
        """Nothing is on its way out."""
        return self._running is None or self._running.response_complete or self._running.disconnected

    def _is_answering_this(self, error: ServiceError) -> bool:
        """Whether the request that is refused has an answer on its way; if not, the application is told to forget it."""
        if self.pipeline and self.pipeline[0][0] is self.cycle:
            self.pipeline.popleft()
        elif self.cycle.response_started:
            return True
        else:
            self.cycle.scope["state"].update(status=error.status, outcome=outcome_of(error.status))
            cut_off(self.cycle)
        return False

    def _send_refusal(self) -> None:
        assert self._refusal is not None
        if self.transport.is_closing():
            return
        self.transport.write(self._refusal)
        if self.transport.can_write_eof():
            self._linger()
        else:
            self.transport.close()
