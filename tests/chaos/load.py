"""Goal 1: ten times of what the service can do is offered. Goal 5: it is asked meanwhile whether it lives.

Goal 2: all clients are OpenAI's, which try again by themselves. Goal 4: long requests and short ones.
"""

import asyncio
import itertools
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import httpx

from tests.chaos.goals import Figure, Scale, at_least, at_most, exactly, goal, percentile
from tests.chaos.offered import Outcome, offer
from tests.chaos.service import PATIENCE_SECONDS, ServiceProcess, nothing_unaccounted, service

WAIT_SECONDS = 2.0  # the bound of goal 1
BODY = {"inputs": "The old man looked at the sea and", "parameters": {"max_new_tokens": 256, "ignore_eos": True}}
NUM_SLOTS = 32
NUM_PLACES = 16  # in the storm: slots, and as many that may wait
STORM = """
import sys, threading, time
import openai
url, num_clients, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
until, tokens, failed = time.monotonic() + seconds, [], []
http = openai.DefaultHttpxClient(limits=openai.DEFAULT_CONNECTION_LIMITS)
client = openai.OpenAI(base_url=url + "/v1", api_key="none", http_client=http)
def run():
    while time.monotonic() < until:
        try:
            options = {"max_tokens": 64, "extra_body": {"ignore_eos": True}}
            answer = client.completions.create(model="a", prompt="The old man looked at the sea", **options)
            if time.monotonic() < until:
                tokens.append(answer.usage.completion_tokens)
        except openai.RateLimitError:
            failed.append(1)
threads = [threading.Thread(target=run, daemon=True) for _ in range(num_clients)]
for thread in threads: thread.start()
time.sleep(max(until - time.monotonic(), 0))
print(sum(tokens), len(failed), flush=True)
import os; os._exit(0)
"""


@goal(1, "Ten times the load")
def overload(scale: Scale) -> list[Figure]:
    seconds = scale.of(5, 120)
    peak, rate = _peak(seconds)
    with service(max_running=NUM_SLOTS, max_wait_seconds=WAIT_SECONDS) as running:
        offer(running.address, 2, "clients", NUM_SLOTS, BODY)
        outcomes = offer(running.address, seconds, "rate", 10 * rate, BODY)
        conserved = nothing_unaccounted(running)
    return [*_of_overload(outcomes, peak, rate, seconds), conserved]


def _of_overload(outcomes: list[Outcome], peak: float, rate: float, seconds: float) -> list[Figure]:
    started = min(outcome.sent for outcome in outcomes)
    accepted = [outcome for outcome in outcomes if outcome.status == 200]
    refused = [outcome for outcome in outcomes if outcome.status in (429, 503)]
    tokens = sum(o.num_tokens for o in accepted if o.sent + o.seconds <= started + seconds) / seconds
    told = [outcome for outcome in refused if (outcome.retry_after or "").isdecimal()]
    return [
        at_least(f"requests offered in a second, of {rate:.0f} that can be served", 9 * rate, len(outcomes) / seconds, "/s"),
        exactly("answers that were neither 200 nor a refusal", 0, len(outcomes) - len(accepted) - len(refused)),
        exactly("refusals without whole seconds in Retry-After", 0, len(refused) - len(told)),
        at_least("goodput, of the peak's tokens a second", 95, 100 * tokens / peak, "%"),
        at_most("p99 wait in the queue of those let in", WAIT_SECONDS, percentile([o.queue_seconds for o in accepted], 99), "s"),
        at_most("p99 until a refusal has come", 5, 1000 * percentile([o.seconds for o in refused], 99), "ms"),
    ]


@cache  # two goals want it
def _peak(seconds: float) -> tuple[float, float]:
    """Tokens and requests a second, with as many clients as there are slots and as many again that wait."""
    with service(max_running=NUM_SLOTS) as running:
        offer(running.address, 1, "clients", NUM_SLOTS, BODY)
        outcomes = offer(running.address, max(seconds / 4, 3), "clients", 2 * NUM_SLOTS, BODY)
    lasted = max(o.sent + o.seconds for o in outcomes) - min(o.sent for o in outcomes)
    return sum(o.num_tokens for o in outcomes) / lasted, len(outcomes) / lasted


@goal(2, "A storm of those who try again")
def storm(scale: Scale) -> list[Figure]:
    seconds, num_clients = scale.of(3, 60), scale.of(100, 200)
    with service(max_running=NUM_PLACES // 2, max_waiting=NUM_PLACES // 2) as running:
        _storm(running.url, NUM_PLACES, 2)
        peak, _ = _storm(running.url, NUM_PLACES, seconds)
        tokens, num_failed = _storm(running.url, num_clients, seconds)
        conserved = nothing_unaccounted(running)
    goodput = (
        f"goodput with {num_clients} clients, {num_failed} of whose calls failed, of that with {NUM_PLACES}, as many as are let in"
    )
    return [at_least(goodput, 90, 100 * tokens / peak, "%"), conserved]


def _storm(url: str, num_clients: int, seconds: float) -> tuple[float, int]:
    command = [sys.executable, "-c", STORM, url, str(num_clients), str(seconds)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    tokens, failed = done.stdout.split()
    return int(tokens) / seconds, int(failed)


@goal(5, "Probes under load")
def probes(scale: Scale) -> list[Figure]:
    seconds = scale.of(5, 120)
    _, rate = _peak(seconds)
    with (
        service(max_running=NUM_SLOTS, max_wait_seconds=WAIT_SECONDS) as running,
        _probing(running, "/health/live") as live,
        _probing(running, "/metrics") as metrics,
    ):
        offer(running.address, seconds, "rate", 10 * rate, BODY)
    return [
        at_most("p99.9 of the live probe at ten times the load", 50, percentile(live, 99.9), "ms"),
        at_most("p99 of the metrics at ten times the load", 100, percentile(metrics, 99), "ms"),
    ]


@contextmanager
def _probing(running: ServiceProcess, path: str) -> Iterator[list[float]]:
    """Milliseconds of each answer; fifty are asked for in a second."""
    milliseconds: list[float] = []
    is_over = threading.Event()

    def ask() -> None:
        with httpx.Client(base_url=running.url, timeout=PATIENCE_SECONDS) as client:
            while not is_over.wait(0.02):
                started = time.perf_counter()
                assert client.get(path).status_code == 200
                milliseconds.append(1000 * (time.perf_counter() - started))

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    try:
        yield milliseconds
    finally:
        is_over.set()
        thread.join(PATIENCE_SECONDS)


@goal(4, "Long requests beside short ones")
def mixed(scale: Scale) -> list[Figure]:
    num_schedules, bound = scale.of(4, 200), 1500
    alone: list[float] = []
    beside: list[float] = []
    highest = 0.0
    with service(max_running=8, max_queued_tokens=bound) as running:
        for seed in range(num_schedules):
            alone += asyncio.run(_schedule(running.url, random.Random(seed), with_long=False))[0]
            seconds, most = asyncio.run(_schedule(running.url, random.Random(seed), with_long=True))
            beside += seconds
            highest = max(highest, most)
    slower = percentile(beside, 95) / percentile(alone, 95)
    return [
        at_most("queued work at its highest", bound, highest, "tokens", by_clock=False),
        at_most(f"p95 of short requests in {num_schedules} schedules, of that without long ones", 1.5, slower, "times"),
    ]


async def _schedule(url: str, chance: random.Random, with_long: bool) -> tuple[list[float], float]:
    """Short requests one after another, on some of which a long one begins; their seconds, and the most work that was seen."""
    seconds: list[float] = []
    highest = 0.0
    async with httpx.AsyncClient(base_url=url, timeout=PATIENCE_SECONDS) as client:
        long: list[asyncio.Task[httpx.Response]] = []
        for number in itertools.count():
            if number == 20:
                break
            if chance.random() < 0.2 and with_long:
                long.append(asyncio.create_task(client.post("/generate", json=_long(chance))))
            started = time.perf_counter()
            answer = await client.post("/generate", json={"inputs": f"short {number}", "parameters": {"max_new_tokens": 8}})
            if answer.status_code == 200:
                seconds.append(time.perf_counter() - started)
            if with_long:
                lines = (await client.get("/metrics")).text.splitlines()
                highest = max(highest, *(float(line.split()[1]) for line in lines if line.startswith("gpt2_queued_tokens ")))
        await asyncio.gather(*long)
    return seconds, highest


def _long(chance: random.Random) -> dict[str, Any]:
    words = " ".join(f"word{chance.randrange(1000)}" for _ in range(chance.randrange(20, 150)))
    return {"inputs": words, "parameters": {"max_new_tokens": chance.randrange(100, 300), "ignore_eos": True}}
