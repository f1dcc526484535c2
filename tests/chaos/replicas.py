"""Goal 27: replicas on Ray Serve, one of which is killed under load, and what Ray costs a token."""

import asyncio
import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import httpx

from app.bench.exchange import Endpoint
from tests.chaos.goals import Figure, Scale, at_least, at_most, exactly, goal, percentile
from tests.chaos.service import PATIENCE_SECONDS, service, tiny_checkpoint, until
from tests.deploy.ray_cluster import RayCluster, ray_cluster

CLOCKED = "tests.deploy.ray_models"
NUM_CLIENTS, NUM_TOKENS = 8, 40
STEP_SECONDS = 0.02  # as tests/deploy/ray_models.py has it


@goal(27, "Ray Serve, two replicas")
def replicas(scale: Scale) -> list[Figure]:
    """What new requests and streams see of kills under load; the delay of tokens, beside that of one process."""
    counts: Counter[str] = Counter()
    seconds = []
    settings = {"model": str(tiny_checkpoint())}
    with ray_cluster() as cluster:
        cluster.deploy(f"{CLOCKED}:clocked", changes={"num_replicas": 2}, settings=settings)
        cluster.await_whole(2)
        with load(cluster.url, counts):
            for _ in scale.each(range(scale.of(1, 10))):
                until(lambda: min(_running(cluster)) > 0, pause=0.05)
                cluster.kill_one()
                seconds.append(cluster.await_whole(2))
        delays = token_delays(cluster.url, scale.of(4, 64))
    with service(module=CLOCKED, fake_step_seconds=STEP_SECONDS, **settings) as one:
        alone = token_delays(one.url, scale.of(4, 64))
    return [
        exactly("new requests that failed", 0, counts["failed"]),
        exactly("streams that were cut without a word", 0, counts["cut"]),
        at_least("streams of dead replicas that ended with an error event", 1, counts["told"], "", by_clock=True),
        at_least("requests that were whole", len(seconds), counts["whole"], "", by_clock=False),
        at_most("the slowest return to full strength", 10, max(seconds), "s"),
        at_most("overhead a token, p95", 10, 1000 * (percentile(delays, 95) - percentile(alone, 95)), "ms"),
    ]


def _running(cluster: RayCluster) -> list[float]:
    found = [samples["gpt2_requests_running"] for samples in cluster.metrics().values()]
    return found if len(found) == 2 else [0.0]


@contextmanager
def load(url: str, counts: Counter[str]) -> Iterator[None]:
    """So many clients, every other one streaming, until the block ends; nothing is asked twice."""
    ends = threading.Event()

    def ask(number: int) -> None:
        for i in range(1_000_000):
            if ends.is_set():
                return
            counts[_outcome(url, f"{number}.{i} is asked", is_stream=bool(number % 2))] += 1

    clients = [threading.Thread(target=ask, args=(number,), daemon=True) for number in range(NUM_CLIENTS)]
    for client in clients:
        client.start()
    try:
        yield
    finally:
        ends.set()
        for client in clients:
            client.join(PATIENCE_SECONDS)


def _outcome(url: str, prompt: str, is_stream: bool) -> str:
    """whole, or told of an error by an event; a stream that ends otherwise is cut, all else has failed."""
    body = {"inputs": prompt, "parameters": {"max_new_tokens": NUM_TOKENS, "details": True}}
    try:
        if not is_stream:
            answer = httpx.post(f"{url}/generate", json=body, timeout=PATIENCE_SECONDS)
            return "whole" if answer.is_success and answer.json()["details"]["generated_tokens"] == NUM_TOKENS else "failed"
        with httpx.stream("POST", f"{url}/generate_stream", json=body, timeout=PATIENCE_SECONDS) as stream:
            if not stream.is_success:
                return "failed"
            last = [line for line in stream.iter_lines() if line.startswith("data: ")][-1]
    except (httpx.HTTPError, IndexError):
        return "cut" if is_stream else "failed"
    event = json.loads(last.removeprefix("data: "))
    return "told" if event.get("error_type") == "generation" else "whole" if event["index"] == NUM_TOKENS else "cut"


def token_delays(url: str, num_requests: int) -> list[float]:
    """Seconds from when each token was computed, which is its log-probability, until it was there; four clients."""
    endpoint, delays = Endpoint(url), list[float]()

    def on_event(data: bytes, now: float) -> None:
        # Of one clock: on Linux both of Python's are the machine's CLOCK_MONOTONIC.
        delays.append(now - json.loads(data)["token"]["logprob"])

    async def ask(first: int) -> None:
        for i in range(first, num_requests, 4):
            body = {"inputs": f"{i} is timed", "parameters": {"max_new_tokens": 100}}
            await endpoint.stream(endpoint.request("POST", "/generate_stream", json.dumps(body).encode()), on_event)

    async def ask_all() -> None:
        await asyncio.gather(*(ask(first) for first in range(4)))

    assert time.get_clock_info("perf_counter").implementation == time.get_clock_info("monotonic").implementation
    asyncio.run(ask_all())
    return delays
