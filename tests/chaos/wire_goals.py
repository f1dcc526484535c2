"""Goals 3, 10, 13 and 19: what many, slow, broken and huge connections do to the service, by the clients of wire.py."""

import asyncio
from pathlib import Path

from tests.chaos import wire
from tests.chaos.goals import Figure, Scale, at_least, at_most, exactly, goal, percentile
from tests.chaos.service import FAKE_MODEL, ServiceProcess, nothing_unaccounted, service, until
from tests.chaos.wire import Address, HalfSent, Streams

PROBE = wire.post("/generate", {"inputs": "a", "parameters": {"max_new_tokens": 5}}, "Connection: close")
PROBE_SECONDS = 5.0
NUM_TOKENS = 500
FROZEN_TOKENS = 1000  # as many as the context holds: more than all buffers take
ABORTED = 'gpt2_requests_total{outcome="aborted",route="/v1/completions"}'
READ_SECONDS = 8.0  # of the service's own default
GROWTH_MB, ANSWER_MS = 2.0, 200.0


@goal(3, "A thousand streams at once")
def many_streams(scale: Scale) -> list[Figure]:
    count, num_rounds = scale.of(100, 1000), scale.of(1, 2)
    with service(module=FAKE_MODEL, max_running=1024) as running:
        found, kilobytes = asyncio.run(_many_streams(running, count, num_rounds))
        conserved = nothing_unaccounted(running)
    return [
        exactly("events that came", count * num_rounds * NUM_TOKENS, found.num_events),
        exactly("events lost", 0, found.num_lost),
        exactly("events doubled", 0, found.num_doubled),
        exactly("events out of their order", 0, found.num_reordered),
        exactly("streams without an end", 0, found.num_broken),
        at_most(f"memory of each of {count:,} streams", 100, kilobytes, "kB"),
        conserved,
    ]


async def _many_streams(running: ServiceProcess, count: int, num_rounds: int) -> tuple[Streams, float]:
    await wire.streams(running.address, 20, 20)
    before, at_peak, result = running.private_bytes(), 0, Streams()
    for _ in range(num_rounds):
        found = asyncio.create_task(wire.streams(running.address, count, NUM_TOKENS, result))
        while not found.done():
            at_peak = max(at_peak, running.private_bytes())
            await asyncio.sleep(0.2)
        await found
    return result, (at_peak - before) / count / 1000


@goal(10, "Readers that do not read")
def frozen_readers(scale: Scale) -> list[Figure]:
    """What others feel of readers that read nothing, against as many that read, and whether they are cut off."""
    count, write_seconds = scale.of(50, 200), scale.of(3, 10)
    settings = {"max_running": 1024, "write_timeout_seconds": write_seconds, "fake_step_seconds": 0.005}
    with service(module=FAKE_MODEL, **settings) as running:
        beside_readers = asyncio.run(_beside_readers(running.address, count))
        beside_frozen, seconds = asyncio.run(_beside_frozen(running.address, count))
        conserved = nothing_unaccounted(running)
        num_aborted = round(running.metrics().get(ABORTED, 0))
    slower = 100 * (beside_frozen / beside_readers - 1)
    return [
        exactly("frozen readers that were cut off", count, num_aborted),
        at_most(f"until all were, the limit being {write_seconds} s", write_seconds + 15, seconds, "s"),
        at_most("p95 between two tokens of others, against that beside readers", 5, slower, "% more"),
        conserved,
    ]


async def _beside_readers(address: Address, count: int) -> float:
    await wire.streams(address, 4, 200)
    readers = asyncio.create_task(wire.streams(address, count, FROZEN_TOKENS))
    await asyncio.to_thread(until, lambda: _num_open(address) >= count or readers.done(), 0.1)
    gap = await _gap(address)
    await readers
    return gap


async def _beside_frozen(address: Address, count: int) -> tuple[float, float]:
    """The gap, and the seconds until all were closed."""
    async with wire.frozen(address, count, FROZEN_TOKENS):
        started = asyncio.get_running_loop().time()
        gap = await _gap(address)
        await asyncio.to_thread(until, lambda: not _num_open(address), 0.1)
        return gap, asyncio.get_running_loop().time() - started


async def _gap(address: Address) -> float:
    return percentile((await wire.streams(address, 4, 300)).gaps_seconds, 95)


def _num_open(address: Address) -> int:
    """Connections that are established on the service's port, as the kernel has them."""
    port = f":{address[1]:04X}"
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    return sum(fields[1].endswith(port) and fields[3] == "01" for fields in map(str.split, lines))


@goal(13, "Half requests")
def half_requests(scale: Scale) -> list[Figure]:
    count, seconds = scale.of(100, 500), scale.of(1, round(PROBE_SECONDS))
    settings = {} if scale.is_long else {"read_timeout_seconds": 2.0}  # the same in a quarter of the time
    limit = settings.get("read_timeout_seconds", READ_SECONDS) + 2.0
    with service(**settings) as running:
        before, during, half, trickled = asyncio.run(_half_requests(running.address, count, seconds))
    slower = 100 * (percentile(during, 95) / percentile(before, 95) - 1)
    return [
        *_of_half("half-sent", half, limit),
        *_of_half("of those that trickle", trickled, limit),
        at_most("p95 of normal requests beside them", 5, slower, "% more"),
    ]


async def _half_requests(address: Address, count: int, seconds: float) -> tuple[list[float], list[float], HalfSent, HalfSent]:
    await wire.latencies(address, PROBE, seconds)
    before = await wire.latencies(address, PROBE, seconds)
    halves = asyncio.create_task(wire.half_sent(address, count))
    during = await wire.latencies(address, PROBE, seconds)
    return before, during, await halves, await wire.trickled(address, count)


def _of_half(what: str, found: HalfSent, limit: float) -> list[Figure]:
    return [
        exactly(f"{what}, closed", found.num_sent, found.num_closed),
        at_most(f"{what}, the last one closed after", limit, found.slowest_seconds, "s"),
    ]


@goal(19, "Huge heads and bodies")
def heads_and_bodies(scale: Scale) -> list[Figure]:
    with service() as running:
        rows = asyncio.run(_table(running))
    refused = [row for row in rows if 400 <= row.status < 500]
    return [
        at_least("kinds that were sent", 11, len(rows), "kinds", by_clock=False),
        exactly("of which were refused", len(rows), len(refused)),
        at_most("the slowest refusal", ANSWER_MS, 1000 * max(row.seconds for row in rows), "ms"),
        at_most("the largest growth of memory", GROWTH_MB, max(row.growth_bytes for row in rows) / 1e6, "MB"),
    ]


async def _table(running: ServiceProcess) -> list[wire.Row]:
    await wire.latencies(running.address, PROBE, 1)
    return await wire.table(running.address, running.private_bytes)
