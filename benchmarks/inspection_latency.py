"""What inspections cost those who are served beside them: the 95th percentile of the time between two tokens of streams.

    python -m benchmarks.inspection_latency

Streams of 1 and of 8 clients on the default checkpoint, with inspections of 64 tokens back to back beside them and without, in
turn, the order changing from round to round; medians of the pairs' ratios count. Wanted: 10 % more at most. "alone" are inspections
without `compare_served`, whose prompt the engine need not run.
"""

import argparse
import contextlib
import itertools
import json
import multiprocessing
import statistics
import time
import urllib.request
from collections.abc import Iterator
from multiprocessing.sharedctypes import Synchronized
from multiprocessing.synchronize import Event
from typing import Any

from app.settings import DEFAULT_MODEL
from benchmarks.machine import VOCABULARY, write_result
from benchmarks.server import ServerProcess
from model.checkpoint import load_tokenizer

NUM_NEW, NUM_INSPECTED = 400, 64
STREAMS_A_CLIENT = {1: 12, 8: 4}  # some seconds: inspections come in bursts
SIDES = ("without", "beside", "beside, alone")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    text = (VOCABULARY / "shakespeare.txt").read_text(encoding="utf-8")
    prompt = load_tokenizer(DEFAULT_MODEL).encode(text)[:NUM_INSPECTED]
    with ServerProcess() as server:
        result = {f"{num} clients": _compared(server, prompt, num, rounds) for num in STREAMS_A_CLIENT}
    write_result("inspection_latency", "python -m benchmarks.inspection_latency", result | {"rounds": rounds})


def _compared(server: ServerProcess, prompt: list[int], num_clients: int, rounds: int) -> dict[str, Any]:
    seconds: list[dict[str, float]] = []
    inspected: dict[str, list[float]] = {side: [] for side in SIDES[1:]}
    for number in range(rounds + 1):
        seconds.append({})
        for side in SIDES if number % 2 else reversed(SIDES):
            with _inspections(server.url, prompt, side) as counted:
                seconds[-1][side] = _p95(server, num_clients, number)
            if side in inspected:
                inspected[side].append(counted())
    result = {"milliseconds at the 95th percentile": {side: _median(seconds[1:], side) for side in SIDES}}
    for side in SIDES[1:]:
        ratios = sorted(round(each[side] / each["without"], 3) for each in seconds[1:])
        rate = round(statistics.median(inspected[side][1:]), 2)
        result[side] = {"ratio": statistics.median(ratios), "all ratios": ratios, "inspections a second": rate}
        print(f"{num_clients} clients, {side}: {result[side]}")
    print(result["milliseconds at the 95th percentile"])
    return result


def _median(seconds: list[dict[str, float]], side: str) -> float:
    return round(1000 * statistics.median(each[side] for each in seconds), 3)


def _p95(server: ServerProcess, num_clients: int, number: int) -> float:
    """Of one load, each of whose prompts is another, so that none comes from the cache."""
    parameters = {"max_new_tokens": NUM_NEW, "ignore_eos": True}
    num_streams = num_clients * STREAMS_A_CLIENT[num_clients]
    bodies = [{"inputs": f"{number} {i} The old man looked at the sea", "parameters": parameters} for i in range(num_streams)]
    measurement = server.load(bodies, num_clients)
    times = list(itertools.chain.from_iterable(answer.inter_token_seconds for answer in measurement.answers))
    return statistics.quantiles(times, n=20)[-1]


@contextlib.contextmanager
def _inspections(url: str, prompt: list[int], side: str) -> Iterator[Any]:
    """Back to back in another process, for the length of the block; what it gives tells how many a second there were."""
    if side == "without":
        yield None
        return
    num, is_over, is_begun = multiprocessing.Value("i"), multiprocessing.Event(), multiprocessing.Event()
    arguments = (url, prompt, side == "beside", num, is_begun, is_over)
    process = multiprocessing.Process(target=_inspect, args=arguments)
    process.start()
    is_begun.wait()
    started, before = time.monotonic(), num.value
    rate = 0.0
    try:
        yield lambda: rate
    finally:
        rate = (num.value - before) / (time.monotonic() - started)
        is_over.set()
        process.join()


def _inspect(url: str, prompt: list[int], compares: bool, num: "Synchronized[int]", is_begun: Event, is_over: Event) -> None:
    """Each of another prompt. The first one, which starts the process that inspects, is none of those that are counted."""
    while not is_over.is_set():
        start = num.value % len(prompt)
        body = {"prompt": prompt[start:] + prompt[:start], "compare_served": compares}
        request = urllib.request.Request(f"{url}/v1/inspect", json.dumps(body).encode())
        with urllib.request.urlopen(request, timeout=120) as response:
            response.read()
        num.value += 1
        is_begun.set()


if __name__ == "__main__":
    main()
