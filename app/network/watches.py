"""Clocks of one connection: for a client that sends its request too slowly, and for one that takes its answer too slowly.

One timer each, started when there is something to wait for and looked at when it fires: a quick request starts and stops none.
"""

import asyncio
import math
import socket
import struct
import sys
from collections.abc import Callable

from app.network.limits import MIN_BODY_RATE

DOUBT_SECONDS = 0.05  # after a pause of the whole process timers fire before the sockets are read
RESET = struct.pack("ii", 1, 0)  # linger for no time


class ReadWatch:
    """Calls `expired` when a head is not complete within `seconds`, or a body pauses for as long or comes below the least rate."""

    __slots__ = ("_body_began", "_deadline", "_expired", "_is_in_doubt", "_loop", "_num_bytes", "_seconds", "_timer")

    def __init__(self, loop: asyncio.AbstractEventLoop, seconds: float, expired: Callable[[], None]) -> None:
        self._loop, self._seconds, self._expired = loop, seconds, expired
        self._timer: asyncio.TimerHandle | None = None
        self._deadline = math.inf
        self._body_began = math.inf
        self._num_bytes = 0
        self._is_in_doubt = False  # the deadline has passed, and the timer fires once more

    def await_head(self) -> None:
        if self._deadline == math.inf:
            self.set(self._seconds)

    def await_body(self, num_bytes: int) -> None:
        """More of a body has come, and it is not complete."""
        now = self._loop.time()
        if self._body_began == math.inf:
            self._body_began = now
        self._num_bytes += num_bytes
        late = self._body_began + self._num_bytes / MIN_BODY_RATE - now  # how much longer all of it may take
        self.set(self._seconds + min(late, 0.0))

    def rest(self) -> None:
        """Nothing is waited for."""
        self._deadline = self._body_began = math.inf
        self._num_bytes = 0

    def set(self, seconds: float) -> None:
        self._deadline = self._loop.time() + seconds
        if self._timer is not None and self._timer.when() > self._deadline and not self._is_in_doubt:
            self.cancel()
        if self._timer is None:
            self._timer = self._loop.call_at(self._deadline, self._look)

    def cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        self._timer = None
        was_in_doubt, self._is_in_doubt = self._is_in_doubt, False
        late = self._loop.time() - self._deadline
        if late < 0:
            if self._deadline < math.inf:
                self._timer = self._loop.call_at(self._deadline, self._look)
        elif was_in_doubt:
            self.rest()
            self._expired()
        else:
            # Everything may have come in time, and wait to be read; after a pause, what the sockets had no room for comes only now.
            self._is_in_doubt = True
            self._timer = self._loop.call_later(min(max(late, DOUBT_SECONDS), self._seconds), self._look)


def _num_untaken(transport: asyncio.Transport) -> int:
    """Bytes that wait for the client, in the transport and in the kernel, which takes more once a third of its room is free."""
    num_bytes = transport.get_write_buffer_size()
    if num_bytes and sys.platform == "linux":
        import fcntl  # only on Unix, as the next
        import termios

        answer = fcntl.ioctl(transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, bytes(4))  # SIOCOUTQ, for a socket
        num_bytes += struct.unpack("i", answer)[0]
    return num_bytes


class WriteWatch:
    """Aborts a connection whose client takes nothing of what waits for it for `seconds`.

    Nothing is added while it waits: who sends has been told to pause, or the connection is closing.
    """

    __slots__ = ("_loop", "_seconds", "_timer", "_transport")

    def __init__(self, loop: asyncio.AbstractEventLoop, seconds: float, transport: asyncio.Transport) -> None:
        self._loop, self._seconds, self._transport = loop, seconds, transport
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        self.cancel()
        if num_left := _num_untaken(self._transport):
            self._timer = self._loop.call_later(self._seconds, self._look, num_left)

    def cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self, num_left: int) -> None:
        if _num_untaken(self._transport) >= num_left:
            # Without a reset the kernel would keep what it has for as long as it takes to give up by itself.
            self._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            self._transport.abort()
        else:
            self.start()
