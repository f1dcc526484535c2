"""What is done to the service over the wire, from outside: streams by the thousand, half requests, frozen readers, huge heads.

Plain functions of an address that return figures; which figure a goal wants, they do not know.
"""

import asyncio
import itertools
import json
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field

from tests.chaos.service import PATIENCE_SECONDS

Address = tuple[str, int]
Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass(slots=True)
class Streams:
    """Of native events, whose `index` counts from 1."""

    num_events: int = 0
    num_lost: int = 0
    num_doubled: int = 0
    num_reordered: int = 0
    num_broken: int = 0  # streams that ended otherwise than with their last event
    gaps_seconds: list[float] = field(default_factory=list)  # between two reads of one stream


@dataclass(slots=True)
class HalfSent:
    num_sent: int
    num_closed: int
    slowest_seconds: float


@dataclass(slots=True)
class Row:
    """A huge or odd request: the status of its answer, and when it came, counted from the first byte sent."""

    what: str
    status: int
    seconds: float
    growth_bytes: int


def post(path: str, body: object, *headers: str) -> bytes:
    content = json.dumps(body).encode()
    lines = [f"POST {path} HTTP/1.1", "Host: a", f"Content-Length: {len(content)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + content


@asynccontextmanager
async def connected(address: Address, receive_buffer: int | None = None) -> AsyncIterator[Connection]:
    """A receive buffer of a few kB shows soon that its reader has stopped."""
    sock = socket.socket()
    if receive_buffer is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, address)
    reader, writer = await asyncio.open_connection(sock=sock, limit=65_536)
    try:
        yield reader, writer
    finally:
        writer.close()


async def streams(address: Address, count: int, num_tokens: int, found: Streams | None = None) -> Streams:
    """So many streams at once, read to their ends; `found` may have those of earlier calls."""
    found = found or Streams()
    await asyncio.gather(*(_one_stream(address, num_tokens, found) for _ in range(count)))
    return found


async def _one_stream(address: Address, num_tokens: int, found: Streams) -> None:
    body = {"inputs": "a", "parameters": {"max_new_tokens": num_tokens, "ignore_eos": True}}
    indices: list[int] = []
    async with connected(address) as (reader, writer):
        writer.write(post("/generate_stream", body))
        last, is_whole = time.perf_counter(), False
        while line := await reader.readline():
            if line.startswith(b"data: "):
                now = time.perf_counter()
                if indices:
                    found.gaps_seconds.append(now - last)
                last = now
                indices.append(json.loads(line[6:])["index"])
            elif line == b"0\r\n":
                is_whole = True
                break
    seen = set(indices)
    found.num_events += len(indices)
    found.num_lost += num_tokens - len(seen)
    found.num_doubled += len(indices) - len(seen)
    found.num_reordered += sum(after < before for before, after in itertools.pairwise(indices))
    found.num_broken += not is_whole


HALVES = (
    b"GET / HTTP/1.1\r\nHost: a\r\n",
    b"POST /v1/comple",
    b"POST /generate HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n" + b'{"inputs": "a',
    b"POST /generate HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nff\r\nabc",
    b"",
)


def _closed(times: list[float | None]) -> HalfSent:
    """Of each when it was closed, None if it was not."""
    closed = [taken for taken in times if taken is not None]
    return HalfSent(len(times), len(closed), max(closed, default=0.0))


async def half_sent(address: Address, count: int) -> HalfSent:
    """Heads, lines, bodies, chunks and nothing, begun and never ended; how many were closed, and how long that took."""
    times = await asyncio.gather(*(_until_closed(address, HALVES[i % len(HALVES)]) for i in range(count)))
    return _closed(times)


async def _until_closed(address: Address, half: bytes) -> float | None:
    async with connected(address) as (reader, writer):
        started = time.perf_counter()
        writer.write(half)
        try:
            await asyncio.wait_for(reader.read(), PATIENCE_SECONDS)
        except TimeoutError:
            return None
        except ConnectionError:
            pass
        return time.perf_counter() - started


async def trickled(address: Address, count: int) -> HalfSent:
    """Heads and bodies of which a byte comes every half second, for ever."""
    starts = (b"GET / HTTP/1.1\r\nHost: a\r\nA: ", b"POST /generate HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n")
    times = await asyncio.gather(*(_trickle(address, starts[i % 2]) for i in range(count)))
    return _closed(times)


async def _trickle(address: Address, start: bytes) -> float | None:
    async with connected(address) as (reader, writer):
        started = time.perf_counter()
        writer.write(start)
        reading = asyncio.create_task(reader.read())
        while time.perf_counter() - started < PATIENCE_SECONDS:
            done, _ = await asyncio.wait({reading}, timeout=0.5)
            if done:
                reading.exception()
                return time.perf_counter() - started
            writer.write(b"a")
        reading.cancel()
        return None


@asynccontextmanager
async def frozen(address: Address, count: int, num_tokens: int) -> AsyncIterator[None]:
    """Readers that ask for a stream and never read a byte of it, as long as the block lasts."""
    body = {"prompt": "a", "stream": True, "max_tokens": num_tokens, "ignore_eos": True}
    async with AsyncExitStack() as stack:
        for _ in range(count):
            _, writer = await stack.enter_async_context(connected(address, receive_buffer=4096))
            writer.transport.pause_reading()  # type: ignore[attr-defined]
            writer.write(post("/v1/completions", body))
        yield


async def latencies(address: Address, request: bytes, seconds: float) -> list[float]:
    """Of one request after the other, each on a connection of its own."""
    found = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        async with connected(address) as (reader, writer):
            started = time.perf_counter()
            writer.write(request)
            await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), PATIENCE_SECONDS)
            found.append(time.perf_counter() - started)
    return found


TABLE: tuple[tuple[str, bytes, bytes, int], ...] = (
    ("a header of 8 MiB", b"GET / HTTP/1.1\r\nHost: a\r\nA: ", b"a" * 65_536, 128),
    ("a header of 64 MiB", b"GET / HTTP/1.1\r\nHost: a\r\nA: ", b"a" * 65_536, 1024),
    ("20,000 headers", b"GET / HTTP/1.1\r\nHost: a\r\n", b"A: b\r\n" * 1000, 20),
    ("200,000 headers", b"GET / HTTP/1.1\r\nHost: a\r\n", b"A: b\r\n" * 1000, 200),
    ("a target of 1 MiB", b"GET /", b"a" * 65_536, 16),
    ("8 MiB of empty lines", b"", b"\r\n" * 32_768, 128),
    ("8 MiB of trailers", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", b"A: b\r\n" * 10_000, 140),
    ("a chunk's size of 8 MiB", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1;", b"a" * 65_536, 128),
    ("a body of 200 MiB, told", b"POST /generate HTTP/1.1\r\nHost: a\r\nContent-Length: 209715200\r\n\r\n", b"a" * 65_536, 3200),
    (
        "a body of 200 MiB, chunked",
        b"POST /generate HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"10000\r\n" + b"a" * 65_536 + b"\r\n",
        3200,
    ),
    ("a body without a length", b"POST /generate HTTP/1.1\r\nHost: a\r\n\r\n", b"", 0),
)


async def table(address: Address, private_bytes: Callable[[], int]) -> list[Row]:
    """Each request of the table, sent until its answer comes."""
    return [await _row(address, private_bytes, *request) for request in TABLE]


async def _row(address: Address, private_bytes: Callable[[], int], what: str, start: bytes, piece: bytes, times: int) -> Row:
    """By a bare socket: who still sends when the service has hung up gets an error for it, and the answer lies there unread."""
    before = private_bytes()
    loop = asyncio.get_running_loop()
    with socket.socket() as sock:
        sock.setblocking(False)
        await loop.sock_connect(sock, address)
        started = time.perf_counter()
        sending = asyncio.create_task(_send(sock, start, piece, times))
        answer = await asyncio.wait_for(loop.sock_recv(sock, 64), PATIENCE_SECONDS)
        taken = time.perf_counter() - started
        grown = private_bytes() - before
        sending.cancel()
        await asyncio.wait({sending})
    return Row(what, int(answer.split(b" ")[1]) if answer else 0, taken, grown)


async def _send(sock: socket.socket, start: bytes, piece: bytes, times: int) -> None:
    with suppress(ConnectionError):
        await asyncio.get_running_loop().sock_sendall(sock, start)
        for _ in range(times):
            await asyncio.get_running_loop().sock_sendall(sock, piece)
