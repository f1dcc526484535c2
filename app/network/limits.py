"""What one connection may take: bytes, headers, time. Knows nothing of what is sent.

A setting is what an operator may want to change; the rest is fixed, because no honest client comes near it.
"""

import logging
import socket
from dataclasses import dataclass

MAX_HEAD_BYTES = 32_768  # of a request's line and headers together; common clients send 200 to 4,000
MAX_URL_BYTES = 8_192
MAX_HEADERS = 100
MAX_TRAILERS = 100  # they are dropped
MAX_PIPELINED = 64  # requests of one connection that wait for an earlier one's answer
MAX_UNREAD_BYTES = 67_108_864  # of a body that nobody wants any more: read on, or the client would lose the answer
LINGER_SECONDS = 5.0  # in which they must have come
MIN_BODY_RATE = 4_096  # bytes a second
PROBE_CONNECTIONS = 32  # beyond the limit, for /health and /metrics alone
REFUSED_CONNECTIONS = 128  # beyond these, each told why; those beyond are cut off
OTHER_FILES = PROBE_CONNECTIONS + REFUSED_CONNECTIONS + 256  # files, pipes, the engine's
SEND_BUFFER_BYTES = 32_768  # in the kernel, which doubles it: some 400 events of a stream, so that a reader who stops shows soon
HIGH_WATER_BYTES = 16_384  # of what the kernel has no room for; then whoever sends waits
KEEP_ALIVE_PROBE_SECONDS = 30  # of silence, before the kernel asks whether the client's machine is still there
log = logging.getLogger("gpt2.network")


@dataclass(frozen=True, slots=True)
class Limits:
    """Those that are settings: see Settings for what happens beyond each."""

    read_seconds: float
    write_seconds: float
    max_connections: int


def allow_open_files(max_connections: int) -> int:
    """Raise this process's limit of open files as far as it may be; return how many connections it leaves room for."""
    import resource  # not on Windows, where nothing limits them

    needed = max_connections + OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return max_connections
    allowed = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    room = max(max_connections - (needed - allowed), 1)
    if room < max_connections:
        log.warning("at most %d open files are allowed: %d connections instead of %d", allowed, room, max_connections)
    return room


def bound_sockets(listener: socket.socket, limits: Limits) -> None:
    """Connections inherit these from their listener.

    The kernel itself ends a connection whose client acknowledges nothing for the write time, or whose machine is gone; where
    it cannot, the protocol's own watch does.
    """
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEP_ALIVE_PROBE_SECONDS)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(1000 * limits.write_seconds))
