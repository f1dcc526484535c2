"""A light load client on bare sockets: on two cores a heavy one would take the server's time. Runs in a process of its own."""

import asyncio
import json
import multiprocessing
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit


@dataclass(frozen=True, slots=True)
class Answer:
    """When a streamed answer's events came, in seconds from the start of the load."""

    started: float
    token_times: list[float]
    last_event: dict[str, Any]


@dataclass(frozen=True, slots=True)
class LoadResult:
    seconds: float
    answers: list[Answer]

    @property
    def tokens(self) -> int:
        return sum(len(answer.token_times) for answer in self.answers)

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds

    @property
    def first_token_seconds(self) -> list[float]:
        return sorted(answer.token_times[0] - answer.started for answer in self.answers)


def run_load(url: str, bodies: Sequence[dict[str, Any]], concurrency: int) -> LoadResult:
    """Send each body to /generate_stream, so many at once, and read every event."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_run, url, bodies, concurrency).result()


def _run(url: str, bodies: Sequence[dict[str, Any]], concurrency: int) -> LoadResult:
    return asyncio.run(_load(url, bodies, concurrency))


async def _load(url: str, bodies: Sequence[dict[str, Any]], concurrency: int) -> LoadResult:
    started = time.perf_counter()
    todo = iter(list(bodies))

    async def client() -> list[Answer]:
        return [await _request(url, body, started) for body in todo]

    answers = await asyncio.gather(*(client() for _ in range(concurrency)))
    seconds = time.perf_counter() - started
    return LoadResult(seconds, [answer for several in answers for answer in several])


async def _request(url: str, body: dict[str, Any], epoch: float) -> Answer:
    address = urlsplit(url)
    content = json.dumps(body).encode()
    head = f"POST /generate_stream HTTP/1.1\r\nhost: {address.netloc}\r\ncontent-type: application/json\r\nconnection: close\r\n"
    started, times, last = time.perf_counter() - epoch, [], b""
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    try:
        writer.write(head.encode() + f"content-length: {len(content)}\r\n\r\n".encode() + content)
        while line := await reader.readline():
            if line.startswith(b"data: "):
                times.append(time.perf_counter() - epoch)
                last = line
    finally:
        writer.close()
    event = json.loads(last[len(b"data: ") :] or b"{}")
    if not event.get("details"):
        raise RuntimeError(f"the stream did not end as it should: {last[:200]!r}")
    return Answer(started, times, event)
