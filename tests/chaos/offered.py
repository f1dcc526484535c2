"""A load in a process of its own: open loop, whatever comes back, or closed. Prints what came of each request, as JSON.

python -m tests.chaos.offered HOST PORT SECONDS rate 500      so many requests a second
python -m tests.chaos.offered HOST PORT SECONDS clients 32    so many at once

It does as little as it can for each, since it has the service's own processors: connections that live, no parser but for lengths.
"""

import asyncio
import json
import re
import subprocess
import sys
import time
from collections import deque
from dataclasses import asdict, dataclass
from typing import Any

import uvloop

HEADERS = re.compile(rb"\r\n(content-length|retry-after|x-queue-time|x-generated-tokens): ([\d.]+)", re.IGNORECASE)
GRACE_SECONDS = 20.0  # for the answers that are out when the time is up


@dataclass(slots=True)
class Outcome:
    """Of one request; times in seconds, of the load's own clock."""

    sent: float
    seconds: float
    status: int
    retry_after: str | None
    queue_seconds: float
    num_tokens: int


def offer(address: tuple[str, int], seconds: float, kind: str, amount: float, body: dict[str, Any]) -> list[Outcome]:
    """Run the load elsewhere; what came of it."""
    command = [sys.executable, "-m", "tests.chaos.offered", address[0], str(address[1]), str(seconds), kind, str(amount)]
    done = subprocess.run(command, input=json.dumps(body), capture_output=True, text=True, check=True)
    return [Outcome(**outcome) for outcome in json.loads(done.stdout)]


class Connection(asyncio.Protocol):
    """One that is kept; `post` while it is idle."""

    def __init__(self) -> None:
        self._data, self._answer = b"", asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self._data += data
        head, end, rest = self._data.partition(b"\r\n\r\n")
        if end and len(rest) >= int(dict(HEADERS.findall(head.lower()))[b"content-length"]):
            self._data = b""
            self._answer.set_result(head)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._answer.done():
            self._answer.set_result(b"HTTP/1.1 000 \r\n")

    async def post(self, request: bytes) -> bytes:
        self._answer = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        return await self._answer


class Load:
    def __init__(self, host: str, port: int, body: dict[str, Any]) -> None:
        self._address, self._body = (host, port), body
        self._idle: deque[Connection] = deque()
        self._num_sent = 0
        self.outcomes: list[Outcome] = []

    async def post(self) -> None:
        loop = asyncio.get_running_loop()
        connection = self._idle.pop() if self._idle else (await loop.create_connection(Connection, *self._address))[1]
        sent = time.perf_counter()
        head = await connection.post(self._request())
        seconds = time.perf_counter() - sent
        told = {name: value.decode() for name, value in HEADERS.findall(head.lower())}
        queue_seconds = float(told.get(b"x-queue-time", 0)) / 1000
        num_tokens = int(told.get(b"x-generated-tokens", 0))
        self.outcomes.append(Outcome(sent, seconds, int(head[9:12]), told.get(b"retry-after"), queue_seconds, num_tokens))
        if self.outcomes[-1].status:
            self._idle.append(connection)

    def _request(self) -> bytes:
        self._num_sent += 1
        self._body["parameters"]["seed"] = self._num_sent
        content = json.dumps(self._body).encode()
        return b"POST /generate HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (
            len(content), content,
        )  # fmt: skip

    async def open_loop(self, rate: float, seconds: float) -> None:
        started, num_due, out = time.perf_counter(), 0, set[asyncio.Task[None]]()
        while (elapsed := time.perf_counter() - started) < seconds:
            while num_due < elapsed * rate:
                num_due += 1
                out.add(task := asyncio.create_task(self.post()))
                task.add_done_callback(out.discard)
            await asyncio.sleep(0.002)
        if out:
            await asyncio.wait(out, timeout=GRACE_SECONDS)

    async def closed_loop(self, num_clients: int, seconds: float) -> None:
        until = time.perf_counter() + seconds

        async def client() -> None:
            while time.perf_counter() < until:
                await self.post()

        await asyncio.gather(*(client() for _ in range(num_clients)))


async def main(host: str, port: str, seconds: str, kind: str, amount: str) -> None:
    load = Load(host, int(port), json.load(sys.stdin))
    if kind == "rate":
        await load.open_loop(float(amount), float(seconds))
    else:
        await load.closed_loop(int(float(amount)), float(seconds))
    json.dump([asdict(outcome) for outcome in load.outcomes], sys.stdout)


if __name__ == "__main__":
    uvloop.run(main(*sys.argv[1:]))
