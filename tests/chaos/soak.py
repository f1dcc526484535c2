"""Goal 15: after tens of thousands of requests, a fifth of them given up, everything is as it was.

Goal 18: the OpenAPI description is true, as far as schemathesis can tell.
"""

import asyncio
import os
import random
import re
import statistics
import subprocess
import sysconfig
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from tests.chaos.goals import Figure, Scale, at_most, exactly, goal
from tests.chaos.service import PATIENCE_SECONDS, ServiceProcess, nothing_unaccounted, service, until

NUM_CLIENTS = 16
SLOPE_MB = 1.0  # of 10,000 requests
SETTLE_SECONDS = 5.0
HOOKS = Path(__file__).parents[1] / "api" / "openapi_hooks.py"
SCHEMATHESIS = Path(sysconfig.get_path("scripts")) / "schemathesis"


@dataclass(slots=True)
class Soak:
    """What has been done so far; a sample of memory is (requests done, bytes)."""

    num_done: int = 0
    num_given_up: int = 0
    wrong: list[str] = field(default_factory=list)
    memory: list[tuple[int, int]] = field(default_factory=list)


@goal(15, "Soak")
def soak(scale: Scale) -> list[Figure]:
    num_requests = scale.of(400, 50_000)
    with service(max_running=8) as running:
        asyncio.run(_load(running, Soak(), scale.of(100, 4_000)))  # caches, arenas and threads come with the first ones
        before = _settled(running)
        done = Soak()
        asyncio.run(_load(running, done, num_requests))
        after = _settled(running, before)
        conserved = nothing_unaccounted(running)
    slope = 10_000 * _slope(done.memory) / 1e6
    return [
        exactly("requests", num_requests, done.num_done),
        exactly("answers that were not those of the first time", 0, len(done.wrong)),
        at_most("growth of memory in 10,000 requests", SLOPE_MB, slope, "MB"),
        *(exactly(f"{name} more than before", 0, max(after[name] - before[name], 0)) for name in before),
        conserved,
    ]


async def _load(running: ServiceProcess, soak: Soak, num_requests: int) -> None:
    """So many requests by several clients, each answer held against the first one to the same question."""
    known: dict[int, str] = {}
    rng = random.Random(0)
    questions = iter([(rng.randrange(64), rng.random() < 0.2) for _ in range(num_requests)])
    async with httpx.AsyncClient(base_url=running.url, timeout=PATIENCE_SECONDS) as client:

        async def ask() -> None:
            for number, gives_up in questions:
                if gives_up:
                    await _give_up(client, number)
                    soak.num_given_up += 1
                elif known.setdefault(number, answer := await _answer(client, number)) != answer:
                    soak.wrong.append(answer)
                soak.num_done += 1
                if soak.num_done % max(num_requests // 100, 1) == 0:
                    soak.memory.append((soak.num_done, running.private_bytes()))

        await asyncio.gather(*(ask() for _ in range(NUM_CLIENTS)))


def _body(number: int) -> dict[str, object]:
    words = " ".join(f"word{(number * 7 + i) % 50}" for i in range(1 + number % 40))
    return {"inputs": words, "parameters": {"max_new_tokens": 1 + number % 12, "seed": number, "do_sample": number % 2 == 0}}


async def _answer(client: httpx.AsyncClient, number: int) -> str:
    response = await client.post("/generate", json=_body(number))
    return response.text


async def _give_up(client: httpx.AsyncClient, number: int) -> None:
    """Leave after the first piece of a stream."""
    async with client.stream("POST", "/generate_stream", json=_body(number) | {"parameters": {"max_new_tokens": 200}}) as response:
        async for _ in response.aiter_raw():
            return


def _settled(running: ServiceProcess, wanted: dict[str, int] | None = None) -> dict[str, int]:
    """What the service holds once nobody asks: the fewest of what is seen until all is as wanted, or for a while."""
    until(lambda: not running.num_inside(), pause=0.05)
    started, best = time.monotonic(), running.counts()
    while time.monotonic() - started < (PATIENCE_SECONDS if wanted else SETTLE_SECONDS):
        if wanted and all(best[name] <= wanted[name] for name in wanted):
            break
        time.sleep(0.2)
        best = {name: min(count, best[name]) for name, count in running.counts().items()}
    return best


def _slope(samples: list[tuple[int, int]]) -> float:
    """Bytes a request, by least squares."""
    return statistics.linear_regression(*zip(*samples, strict=True)).slope


@goal(18, "schemathesis, by the OpenAPI description")
def schemathesis(scale: Scale) -> list[Figure]:
    with service(chat_template="plain", max_running=8) as running, tempfile.TemporaryDirectory() as directory:
        command = [
            SCHEMATHESIS, "run", f"{running.url}/openapi.json", "--phases", "examples,coverage,fuzzing", "--mode", "all",
            "--checks", "all", "--max-examples", str(scale.of(20, 1000)), "--generation-deterministic",
            "--continue-on-failure", "--no-color", "--request-timeout", f"{PATIENCE_SECONDS:g}",
        ]  # fmt: skip
        environment = os.environ | {"SCHEMATHESIS_HOOKS": str(HOOKS)}
        done = subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True, check=False)
        is_well = running.process.poll() is None
    counted = re.search(r"(\d+) unique failures?", done.stdout)
    generated = re.search(r"(\d+) generated", done.stdout)
    if done.returncode:
        print(done.stdout[-20_000:])
    num_failures = int(counted[1]) if counted else int(done.returncode != 0)
    return [
        exactly(f"unique failures in {generated[1] if generated else '?'} requests", 0, num_failures),
        exactly("services that went on", 1, int(is_well)),
    ]
