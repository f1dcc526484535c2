"""What Ray Serve costs and gives: throughput of two replicas beside one, the delay of a token, and prompts found in caches.

    python -m benchmarks.ray

Doors, proxy, controller and clients share the machine's cores with the replicas. So a runner of a fixed delay, which takes no core,
tells what two replicas give where each has a machine of its own; the default checkpoint tells what is left on this one.
"""

import argparse
import asyncio
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any

from app.bench.exchange import Endpoint
from app.settings import DEFAULT_MODEL
from benchmarks.machine import write_result
from tests.chaos.goals import percentile
from tests.chaos.replicas import CLOCKED, STEP_SECONDS, token_delays
from tests.chaos.service import service, tiny_checkpoint
from tests.deploy.ray_cluster import RayCluster, ray_cluster

NUM_CLIENTS = 32
WORDS = "All that follows is about the same thing, and about nothing else. " * 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=int, default=15, help="of each measurement of throughput")
    options = parser.parse_args()
    parts = {
        "fixed_delay": lambda: _fixed_delay(options.seconds),
        "token_delay_ms": _delays,
        "cached_share": _cached,
        "default_checkpoint": lambda: _default_checkpoint(options.seconds),
    }
    result: dict[str, Any] = {"ray": version("ray")}
    for name, measure in parts.items():
        result[name] = measure()
        print(f"{name}: {json.dumps(result[name])}", flush=True)
    write_result("ray", "python -m benchmarks.ray", result)


def _fixed_delay(seconds: int) -> dict[str, Any]:
    """Eight slots a replica and steps of 0.1 s: 80 tokens/s at most from one."""
    settings = {"model": str(tiny_checkpoint()), "max_running": 8}
    rates = {}
    for num in (1, 2):
        with _deployed(num, f"{CLOCKED}:slow", settings=settings) as cluster:
            rates[num] = throughput(cluster.url, seconds, 50)
    return {"tokens_per_second": rates, "ratio": round(rates[2] / rates[1], 3)}


def _delays() -> dict[str, Any]:
    settings = {"model": str(tiny_checkpoint())}
    with _deployed(2, f"{CLOCKED}:clocked", settings=settings) as cluster:
        token_delays(cluster.url, 8)
        through = token_delays(cluster.url, 64)
    with service(module=CLOCKED, fake_step_seconds=STEP_SECONDS, **settings) as one:
        alone = token_delays(one.url, 64)
    return {
        name: {f"p{p}": round(1000 * percentile(delays, p), 2) for p in (50, 95, 99)}
        for name, delays in (("through_serve", through), ("one_process", alone))
    }


def _cached() -> dict[str, float]:
    """Of the tokens of prompts that go on from one of 32 beginnings, asked for in turn: in a replica's cache of 24 slots."""
    shares = {}
    for name, max_ahead in (("by_prefix", 16), ("by_load", -1)):
        settings = {"model": str(tiny_checkpoint()), "max_running": 24}
        with _deployed(2, f"{CLOCKED}:clocked", settings=settings, max_ahead=max_ahead) as cluster:
            shares[name] = asyncio.run(_share_cached(cluster.url))
    return shares


async def _share_cached(url: str) -> float:
    endpoint, cached, prompted = Endpoint(url), 0, 0
    for turn in range(6):
        for beginning in range(32):
            body = {"prompt": f"{beginning}. {WORDS} {turn}", "max_tokens": 1}
            usage = (await endpoint.fetch("POST", "/v1/completions", body))["usage"]
            if turn:
                cached += usage["prompt_tokens_details"]["cached_tokens"]
                prompted += usage["prompt_tokens"]
    return round(cached / prompted, 3)


def _default_checkpoint(seconds: int) -> dict[str, float]:
    """Tokens/s with 32 clients on this machine's cores, which everything shares."""
    settings = {"model": str(DEFAULT_MODEL)}
    with service(DEFAULT_MODEL) as one:
        found = {"one_process": throughput(one.url, seconds, 100)}
    for num, cpus in ((1, 2), (2, 1)):
        with _deployed(num, settings=settings, cpus=cpus) as cluster:
            found[f"{num}_of_{cpus}_cpus"] = throughput(cluster.url, seconds, 100)
            found[f"{num}_of_{cpus}_cpus_not_streamed"] = throughput(cluster.url, seconds, 100, is_stream=False)
    return found


@contextmanager
def _deployed(num: int, builder: str = "deploy.ray:build", **arguments: Any) -> Iterator[RayCluster]:
    with ray_cluster() as cluster:
        cluster.deploy(builder, changes={"num_replicas": num}, **arguments)
        cluster.await_whole(num)
        yield cluster


def throughput(url: str, seconds: int, num_tokens: int, is_stream: bool = True) -> float:
    """Tokens/s of so many clients, each with a request after another of a prompt that nobody has had."""
    return asyncio.run(_throughput(url, seconds, num_tokens, is_stream))


async def _throughput(url: str, seconds: int, num_tokens: int, is_stream: bool) -> float:
    endpoint, num_got = Endpoint(url), 0
    starts = time.monotonic() + 3.0  # until all slots are in use
    ends = starts + seconds

    def count(num: int) -> None:
        nonlocal num_got
        num_got += num if starts <= time.monotonic() < ends else 0

    async def ask(client: int) -> None:
        for i in range(1_000_000):
            if time.monotonic() >= ends:
                return
            body = {"inputs": f"{client}.{i} is asked", "parameters": {"max_new_tokens": num_tokens, "ignore_eos": True}}
            if is_stream:
                request = endpoint.request("POST", "/generate_stream", json.dumps(body).encode())
                await endpoint.stream(request, lambda data, now: count(1))
            else:
                await endpoint.fetch("POST", "/generate", body)
                count(num_tokens)

    await asyncio.gather(*(ask(client) for client in range(NUM_CLIENTS)))
    return round(num_got / seconds, 1)


if __name__ == "__main__":
    main()
