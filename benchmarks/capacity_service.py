"""The real service beside the simulation: how long its steps take over HTTP, and what open loops of requests find."""

import asyncio
import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from app.bench.dialects import DIALECTS, Asked
from app.bench.exchange import Endpoint
from app.bench.load import Measurement, OpenLoop, run_load
from app.bench.prompts import Vocabulary, fetch_vocabulary, make_prompts
from app.settings import DEFAULT_MODEL
from benchmarks.capacity_simulation import Load, Request, ServiceTimes
from benchmarks.capacity_timed import VARIABLE
from benchmarks.server import ServerProcess

ROWS = (1, 8, 16, 32)
SHORT, LONG, ANSWER = 8, 256, 128  # tokens
REFUSED = {"HTTP 429", "HTTP 503"}


class Service:
    """The default checkpoint with default settings but for the longest wait; its prompts are all different.

    With `times` its steps take these, and compute nothing.
    """

    def __init__(self, max_wait_seconds: float, times: ServiceTimes | None = None) -> None:
        module = "benchmarks.capacity_timed" if times else "app"
        told = {VARIABLE: json.dumps(asdict(times))} if times else None
        settings = {"device": "cpu", "max_wait_seconds": max_wait_seconds}
        self._server = ServerProcess(DEFAULT_MODEL, module=module, environment=told, **settings)
        self._seed = 0

    def __enter__(self) -> "Service":
        self._server.__enter__()
        self._vocabulary: Vocabulary = asyncio.run(fetch_vocabulary(Endpoint(self._server.url)))
        self._closed(8, 32, SHORT, 16)  # wakes it up
        return self

    def __exit__(self, *_: object) -> None:
        self._server.__exit__()

    def measure_times(self) -> ServiceTimes:
        """A step's seconds by the rows that decode, as their clients see it, and what a prompt's token adds."""
        seconds = [statistics.fmean(self._steps(rows)) for rows in ROWS]
        started = time.perf_counter()
        count = 64
        self._closed(8, count, LONG, 2)
        each = (time.perf_counter() - started) / count
        return ServiceTimes(ROWS, tuple(seconds), max(each - 2 * seconds[1] / 8, 0.0) / LONG)

    def serve(self, load: Load, seed: int) -> list[Request]:
        """The load in earnest: the same lengths and a Poisson process, though not the very same times."""
        asked = list(load.requests(seed))
        bodies = self._bodies([request.num_prompt for request in asked], [request.num_output for request in asked])
        measurement = run_load(Endpoint(self._server.url), DIALECTS["generate"], bodies, OpenLoop(load.rates[0][1], seed))
        return [_request(measurement, index, request) for index, request in enumerate(asked)]

    def _steps(self, rows: int) -> Sequence[float]:
        measurement = self._closed(rows, 2 * rows, SHORT, ANSWER)
        return [seconds for answer in measurement.whole for seconds in answer.inter_token_seconds]

    def _closed(self, clients: int, count: int, num_prompt: int, num_output: int) -> Measurement:
        bodies = self._bodies([num_prompt] * count, [num_output] * count)
        return self._server.load(bodies, clients)

    def _bodies(self, prompts: list[int], outputs: list[int]) -> list[dict[str, Any]]:
        self._seed += 1
        texts = make_prompts(self._vocabulary, prompts, self._seed)
        return [DIALECTS["generate"].body(Asked(text, output)) for text, output in zip(texts, outputs, strict=True)]


def _request(measurement: Measurement, index: int, asked: Request) -> Request:
    answer = measurement.answers[index]
    if answer.failure and answer.failure.kind not in REFUSED:
        raise RuntimeError(f"an answer failed: {answer.failure}")
    found = Request(answer.started, asked.num_prompt, asked.num_output, is_refused=answer.failure is not None)
    if answer.is_whole:
        found.first_token, found.end = answer.arrivals[0].time, answer.ended
    return found
