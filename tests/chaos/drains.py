"""Goal 12: SIGTERM to a service that has streams under way."""

import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import httpx

from app.settings import Settings
from tests.chaos.faults import ending_of_a_stream
from tests.chaos.goals import Figure, Scale, at_most, exactly, goal
from tests.chaos.service import PATIENCE_SECONDS, ServiceProcess, service, until

DRAIN_SECONDS = 30.0


@goal(12, "SIGTERM under streams")
def drains(scale: Scale) -> list[Figure]:
    """To a process with so many accepted streams: those that were cut, and whether ready was seen to turn first."""
    num_drains, num_streams, counts = scale.of(1, 100), scale.of(10, 50), Counter[str]()
    # On a busy machine the quick form may take longer, and is to lose nothing all the same.
    settings = {"model": Settings().model, "drain_seconds": scale.of(round(PATIENCE_SECONDS), round(DRAIN_SECONDS))}
    seconds = []
    for _ in scale.each(range(num_drains)):
        with service(**settings) as running:
            seconds.append(_drain(running, num_streams, counts))
    return [
        exactly("streams that were whole", num_drains * num_streams, counts["whole"]),
        exactly("drains in which ready was seen to turn 503", num_drains, counts["seen"], by_clock=True),
        exactly("drains that ended with exit code 0", num_drains, counts["exit 0"]),
        at_most("the slowest drain", DRAIN_SECONDS, max(seconds), "s"),
    ]


def _drain(running: ServiceProcess, num_streams: int, counts: Counter[str]) -> float:
    have_begun = [Event() for _ in range(num_streams)]

    def ask(begun: Event) -> str:
        with httpx.Client(base_url=running.url, timeout=PATIENCE_SECONDS) as client:
            return ending_of_a_stream(client, begun.set)

    with ThreadPoolExecutor(num_streams) as pool:
        streams = [pool.submit(ask, begun) for begun in have_begun]
        until(lambda: all(b.is_set() or s.done() for b, s in zip(have_begun, streams, strict=True)), pause=0.01)
        assert running.process.poll() is None, f"the service ended by itself:\n{running.log[-2000:]}"
        started = time.monotonic()
        with ThreadPoolExecutor(1) as watch:
            seen = watch.submit(_sees_503, running.url)
            code = running.end()
        counts["seen"] += seen.result()
        counts[f"exit {code}"] += 1
        seconds = time.monotonic() - started
        for stream in streams:
            counts[stream.result()] += 1
    return seconds


def _sees_503(url: str) -> bool:
    try:
        while httpx.get(f"{url}/health/ready", timeout=PATIENCE_SECONDS).status_code != 503:
            time.sleep(0.001)
    except httpx.TransportError:
        return False
    return True
