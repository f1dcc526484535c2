"""Goal 30: a service that was stopped for a while, by SIGSTOP, as a frozen container or a suspended machine is, just goes on.

Its clocks have gone on: what had a deadline meanwhile is told so; nothing else is lost, and the engine does not count as hung.
"""

import asyncio
import json
import signal
from collections.abc import AsyncIterator
from typing import Any

import httpx

from tests.chaos.goals import Figure, Scale, exactly, goal
from tests.chaos.service import ServiceProcess, service

NUM_STREAMS = 8
STALL_SECONDS = 2  # the least that may be set
QUICK, LONG = (3.0,), (3.0, 10.0, 40.0, 3.0, 20.0, 5.0)  # pauses, each longer than a stall and than a deadline
DEADLINE_SECONDS = 2.0


@goal(30, "Stopped and continued")
def pauses(scale: Scale) -> list[Figure]:
    lengths = LONG if scale.is_long else QUICK
    with service(max_running=NUM_STREAMS + 1, stall_seconds=STALL_SECONDS) as running:
        different, num_late, num_ready = asyncio.run(_pause_each(running, lengths))
        is_calm = "sign of life" not in running.log
        is_well = running.process.poll() is None and running.end() == 0
    return [
        exactly(f"streams over pauses of {min(lengths):g} to {max(lengths):g} s that were not as without", 0, different),
        exactly("requests told that their deadline has passed meanwhile", len(lengths), num_late),
        exactly("times ready as soon as continued", len(lengths), num_ready),
        exactly("false alarms of a stall", 0, int(not is_calm)),
        exactly("services that went on, and ended when told to", 1, int(is_well)),
    ]


async def _pause_each(running: ServiceProcess, lengths: tuple[float, ...]) -> tuple[int, int, int]:
    """Streams that were not as they should be, requests that were late, and how often it was ready after a pause."""
    different = num_late = num_ready = 0
    limits = httpx.Limits(max_keepalive_connections=0)  # what is kept alive over a pause may rightly be closed
    async with httpx.AsyncClient(base_url=running.url, timeout=120, limits=limits) as client:
        wanted = await asyncio.gather(*(_rest(_events(client, number)) for number in range(NUM_STREAMS)))
        for seconds in lengths:
            streams = [_events(client, number) for number in range(NUM_STREAMS)]
            late = _events(client, NUM_STREAMS, timeout_seconds=DEADLINE_SECONDS)
            begun = await asyncio.gather(*(anext(stream) for stream in [*streams, late]))
            running.signal(signal.SIGSTOP)
            await asyncio.sleep(seconds)
            running.signal(signal.SIGCONT)
            num_ready += (await client.get("/health/ready")).status_code == 200
            *rests, rest_of_late = await asyncio.gather(*(_rest(stream) for stream in [*streams, late]))
            found = [[first, *rest] for first, rest in zip(begun, rests, strict=False)]
            different += sum(events != whole for events, whole in zip(found, wanted, strict=True))
            num_late += rest_of_late[-1].get("error_type") == "timeout"
    return different, num_late, num_ready


async def _rest(events: AsyncIterator[dict[str, Any]]) -> list[dict[str, Any]]:
    return [event async for event in events]


async def _events(client: httpx.AsyncClient, number: int, **parameters: float) -> AsyncIterator[dict[str, Any]]:
    """Those of a stream of so many tokens that it has not ended, and is not written whole, before it is read on."""
    length = {"max_new_tokens": 900, "min_new_tokens": 900, "seed": number}
    body = {"inputs": f"The {number}. of them", "parameters": length | parameters}
    async with client.stream("POST", "/generate_stream", json=body) as response:
        async for line in response.aiter_lines():
            if line.startswith("data:"):
                yield json.loads(line.removeprefix("data:"))
