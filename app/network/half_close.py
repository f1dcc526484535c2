"""Tells a client that has only finished sending from one that has left: to TCP both look alike until something is sent.

Knows nothing of what is asked or answered.
"""

import asyncio
import socket

PROBE = b"HTTP/1.1 100 Continue\r\n\r\n"  # any client passes it over (RFC 9110, section 15.2); the machine of one that left resets
FIRST_LOOK_SECONDS, LONGEST_LOOK_SECONDS = 0.005, 1.0
CLOSE_WAIT = 8  # of Linux's TCP states: the client has finished sending, and its socket is still there


class HalfClose:
    """Looks at the socket until the answer is complete, and aborts once the client's machine has said that nobody listens."""

    __slots__ = ("_loop", "_socket", "_timer", "_transport")

    def __init__(self, loop: asyncio.AbstractEventLoop, transport: asyncio.Transport) -> None:
        self._loop, self._transport = loop, transport
        self._socket: socket.socket = transport.get_extra_info("socket")
        self._timer: asyncio.TimerHandle | None = None

    def watch(self, may_probe: bool) -> bool:
        """Begin, and say whether that can be done; a probe may be sent as long as no part of an answer was."""
        if not self._still_there():
            return False
        if may_probe:
            self._transport.write(PROBE)
        self._look(FIRST_LOOK_SECONDS)
        return True

    def cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _look(self, seconds: float) -> None:
        if self._transport.is_closing():
            return
        if not self._still_there():
            self._transport.abort()
            return
        self._timer = self._loop.call_later(seconds, self._look, min(2 * seconds, LONGEST_LOOK_SECONDS))

    def _still_there(self) -> bool:
        if not hasattr(socket, "TCP_INFO"):
            return False
        try:
            state: int = self._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]
        except OSError:
            return False
        return state == CLOSE_WAIT
