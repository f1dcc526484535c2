"""Services that end behind nginx, by SIGTERM and by SIGKILL, under streams and requests: what clients see of it.

python -m tests.deploy.nginx_stops          the quick form, seconds
python -m tests.deploy.nginx_stops --long   20 stops and 10 kills under 50 streams each: the figures of docs/proxy.md
"""

import argparse
import re
import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from signal import Signals

import httpx

from tests.chaos.faults import ending_of_a_stream
from tests.chaos.goals import Figure, Scale, exactly
from tests.chaos.progress import Progress
from tests.chaos.service import PATIENCE_SECONDS, ServiceProcess, nothing_unaccounted, until
from tests.deploy.gates import Gate, gated_service
from tests.deploy.nginx import Proxy, proxy

SHORT = {"inputs": "a", "parameters": {"max_new_tokens": 2}}
NUM_STEADY = 4  # clients that ask one after another, whatever happens
ENOUGH = 20 * NUM_STEADY  # answers, to have met whatever there is to meet


class Pair:
    """Two services behind one nginx; each may be started again where it was."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        started = [stack.enter_context(gated_service(drain_seconds=PATIENCE_SECONDS)) for _ in range(2)]
        self.services: list[ServiceProcess] = [running for running, _ in started]
        self.gates: list[Gate] = [gate for _, gate in started]
        self.front: Proxy = stack.enter_context(proxy([running.address for running in self.services]))

    def start_again(self, place: int) -> ServiceProcess:
        port = self.services[place].address[1]
        self.services[place], self.gates[place] = self._stack.enter_context(
            gated_service(drain_seconds=PATIENCE_SECONDS, port=port)
        )
        return self.services[place]


def ends(scale: Scale) -> list[Figure]:
    """One of two ends and comes again, in turns, half of the streams being its own; requests go on coming all the while."""
    num_stops, num_kills, num_streams, counts = scale.of(1, 20), scale.of(1, 10), scale.of(10, 50), Counter[str]()
    with ExitStack() as stack:
        pair = Pair(stack)
        for number, how in enumerate(scale.each([signal.SIGTERM] * num_stops + [signal.SIGKILL] * num_kills)):
            _end_one(pair, number % 2, how, num_streams, counts)
        lost = [nothing_unaccounted(running) for running in pair.services]
    half, meanwhile = num_streams // 2, f"answers other than 200, of {counts['answers']:,} to requests meanwhile"
    return [
        exactly("streams that a service had under way when it was stopped", num_stops * half, counts["its own"]),
        exactly("streams that were whole in spite of a stop, of both services", num_stops * num_streams, counts["SIGTERM whole"]),
        exactly("stopped services that ended with exit code 0", num_stops, counts["SIGTERM exit 0"]),
        exactly("streams of a killed service, broken off visibly", num_kills * half, counts["SIGKILL truncated"]),
        exactly("streams of the service beside it, whole", num_kills * half, counts["SIGKILL whole"]),
        exactly(meanwhile, 0, counts["answers"] - counts["200"]),
        exactly("services that were used again once they were back", num_stops + num_kills, counts["used again"]),
        *lost,
    ]


def _end_one(pair: Pair, place: int, how: Signals, num_streams: int, counts: Counter[str]) -> None:
    ended, gate = pair.services[place], pair.gates[place]
    with _streams(pair.front, num_streams, pair.gates) as streams:
        pair.gates[1 - place].open()
        ended.signal(how)
        until(lambda: ended.process.poll() is not None or (how is signal.SIGTERM and _is_draining(ended)), pause=0.01)
        with _steady(pair.front, counts) as num_answers:
            until(lambda: num_answers() > ENOUGH, pause=0.01)  # while its streams are held up
            gate.open()
            counts[f"{how.name} exit {ended.process.wait(PATIENCE_SECONDS)}"] += 1
            back = pair.start_again(place)
            until(lambda: back.metrics()["gpt2_accepted_total"] > 0, pause=0.05)
            counts["used again"] += 1
        counts.update(f"{how.name} {stream.result()}" for stream in streams)
    counts["its own"] += sum(map(int, re.findall(r"(\d+) requests may finish", ended.log)))


@contextmanager
def _streams(front: Proxy, count: int, gates: list[Gate]) -> Iterator[list[Future[str]]]:
    """Streams that have begun, and get no further until their gate opens; how each ends."""
    have_begun = [threading.Event() for _ in range(count)]

    def ask(begun: threading.Event) -> str:
        with front.client() as client:
            return ending_of_a_stream(client, begun.set)

    for gate in gates:
        gate.close()
    with ThreadPoolExecutor(count) as pool:
        try:
            streams = [pool.submit(ask, begun) for begun in have_begun]
            until(lambda: _have_begun(have_begun, streams, gates), pause=0.05)
            yield streams
        finally:
            for gate in gates:
                gate.open()


def _have_begun(have_begun: list[threading.Event], streams: list[Future[str]], gates: list[Gate]) -> bool:
    """If not, one step more: some came after the step before."""
    if all(begun.is_set() or stream.done() for begun, stream in zip(have_begun, streams, strict=True)):
        return True
    for gate in gates:
        gate.grant(1)
    return False


@contextmanager
def _steady(front: Proxy, counts: Counter[str]) -> Iterator[Callable[[], int]]:
    """Clients that ask, each on a connection that it keeps, until the block ends; how many answers there were."""
    statuses: list[int] = []
    is_over = threading.Event()

    def ask() -> None:
        with front.client() as client:
            while not is_over.is_set():
                statuses.append(_status(client))

    with ThreadPoolExecutor(NUM_STEADY) as pool:
        asking = [pool.submit(ask) for _ in range(NUM_STEADY)]
        try:
            yield lambda: len(statuses)
        finally:
            is_over.set()
    for each in asking:
        each.result()
    counts.update({"answers": len(statuses)} | {"200": statuses.count(200)})


def _status(client: httpx.Client) -> int:
    try:
        return client.post("/generate", json=SHORT).status_code
    except httpx.TransportError:
        return 0


def _is_draining(running: ServiceProcess) -> bool:
    return httpx.get(f"{running.url}/health/ready", timeout=PATIENCE_SECONDS).status_code == 503


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.deploy.nginx_stops", description=__doc__.partition("\n")[0])
    parser.add_argument("--long", action="store_true", help="as many tries as docs/proxy.md states")
    options = parser.parse_args()
    with Progress() as progress:
        figures = ends(Scale(options.long, progress.tell))
    for figure in figures:
        print(f"{'holds ' if figure.holds else 'MISSED'}  {figure.what}: {figure.found} (wanted {figure.wanted})", flush=True)
    return 0 if all(figure.holds for figure in figures) else 1


if __name__ == "__main__":
    sys.exit(main())
