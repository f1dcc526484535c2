"""How much load replicas take, simulated from measured steps, with the same loads on the real service beside it.

    python -m benchmarks.capacity [--again]

Takes the steps of GPT-2 124M from the results of compare_cpu (two cores, int8, over HTTP) and of the H100, holds the simulation
against the real service here at three loads, and writes results/capacity.json and docs/capacity.png; benchmarks.capacity_table has
the tables of docs/scale.md. With --again what was measured is taken from results/capacity.json, and all else simulated anew.
"""

import argparse
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from app.bench.report import percentile
from benchmarks.capacity_plot import plot
from benchmarks.capacity_service import Service
from benchmarks.capacity_simulation import Autoscaler, Course, Limits, Load, Request, ServiceTimes, first_token_seconds, simulate
from benchmarks.machine import RESULTS, ROOT, describe_machine, write_result

COMMAND = "python -m benchmarks.capacity"
PATIENCE_SECONDS = 2.0  # until the first token; what comes later is no goodput
MAX_WAIT_SECONDS = 1.5  # GPT2_MAX_WAIT_SECONDS: below the patience, since a prompt's own computation comes on top of the wait
SHARES = (0.1, 0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.2, 1.5, 2.0)  # of what the replicas can serve
TRIED = (0.4, 0.8, 1.3)  # on the real service
LENGTHS = (32, 224)  # tokens of prompts and of answers, any of these as likely: 128 on average
WARM = 0.2  # of a run, after which counting begins

# One thread, in a control group with a quota of 1.25 cores, clients on a Zen 4's other core: docs/kubernetes.md. One quiet round.
DEFAULT = {
    "name": "default checkpoint, 1 thread",
    "command": "gpt2 bench --concurrency 16 --requests 160",
    "tokens_per_second": 2230.1,
    "requests_per_second": 17.42,
}


@dataclass(frozen=True)
class Kind:
    """What serves: measured times, slots, and seconds from a decision until a replica serves where a node has room."""

    name: str
    times: ServiceTimes
    max_running: int = 32
    max_batch_tokens: int = 256

    @property
    def capacity(self) -> float:
        """Requests a second of 128 tokens in and 128 out."""
        return self.times.requests_per_second(self.max_running, 128, 128)

    @property
    def limits(self) -> Limits:
        return Limits(
            self.max_running,
            max_wait_seconds=MAX_WAIT_SECONDS,
            max_batch_tokens=self.max_batch_tokens,
            tokens_per_second=256 * self.capacity,
        )


@dataclass(frozen=True)
class Same:
    """Requests that came already, once more."""

    came: Sequence[Request]
    seconds: float

    def requests(self, seed: int) -> Iterator[Request]:
        return (Request(request.arrival, request.num_prompt, request.num_output) for request in self.came)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--again", action="store_true", help="simulate anew, with what was measured before")
    measured = _measured_before() if parser.parse_args().again else _measure()
    cpu, gpu = cpu_124m(), h100_124m()
    result = {
        "measured": measured,
        "kinds": [DEFAULT, *(asdict(kind) | {"requests_per_second": round(kind.capacity, 2)} for kind in (cpu, gpu))],
        "loads": [_curve(cpu, replicas) for replicas in (1, 3, 8)],
        "steps": [_step(cpu, lag, label) for lag, label in ((7.0, "a node has room"), (97.0, "a node has to come"))],
    }
    plot(result, ROOT / "docs" / "capacity.png")
    write_result("capacity", COMMAND, result)


def cpu_124m() -> Kind:
    """Steps as the clients of 1, 8 and 32 streams saw them, int8, two cores of a Zen 4."""
    document = json.loads((RESULTS / "compare_cpu_zen4.json").read_text())["result"]["rows"]
    rows = {row["clients"]: row for row in document if row["way"] == "HTTP" and row["name"] == "ours"}
    seconds = [clients / rows[clients]["decode_tokens_per_second"] for clients in (1, 8, 32)]
    return Kind("GPT-2 124M, 2 cores", ServiceTimes((1, 8, 32), tuple(seconds), 1 / rows[32]["prefill_tokens_per_second"]))


def h100_124m() -> Kind:
    """Tokens a second over HTTP, prompts of 128 tokens within them, so that these are counted twice: cautious by a few percent."""
    document = json.loads((RESULTS / "gpu" / "h100-2" / "results.json").read_text())
    rows = {row["clients"]: row["tokens_per_second"] for row in document["http"]["rows"]}
    prompt = 1 / document["decode"]["prefill"]["tokens_per_second"]
    times = ServiceTimes((1, 64, 256), tuple(clients / rows[clients] for clients in (1, 64, 256)), prompt)
    return Kind("GPT-2 124M, H100", times, max_running=256, max_batch_tokens=2048)


def _measure() -> dict[str, Any]:
    """What three loads find on the real service: with the 124M model's steps told to it, then with the default checkpoint's own."""
    return {"machine": describe_machine(), "told": _tried(cpu_124m().times), "own": _tried(None)}


def _tried(times: ServiceTimes | None) -> dict[str, Any]:
    """The loads, and the simulation of the very same arrivals.

    Steps are measured before and after each load: where others use the machine too, no two minutes are alike.
    """
    with Service(MAX_WAIT_SECONDS, times) as service:
        found, rows = [service.measure_times()], []
        for seed, share in enumerate(TRIED):
            load = Load(((0, share * _here(found[-1]).capacity),), 30, LENGTHS, LENGTHS)
            real = service.serve(load, seed)
            found.append(service.measure_times())
            kind = _here(_mean(*found[-2:]))
            simulated = simulate(Same(real, load.seconds), kind.times, kind.limits).requests
            rows.append(
                {
                    "requests": len(real),
                    "share": len(real) / load.seconds / kind.capacity,
                    "capacities": [_here(times).capacity for times in found[-2:]],
                    "real": summary(real),
                    "simulated": summary(simulated),
                }
            )
            print(rows[-1], flush=True)
        best = max(found, key=lambda times: _here(times).capacity)
        # The load average is of others too, unless the machine is this alone's.
        return {"load_average": os.getloadavg()[0], "times": asdict(best), "loads": rows}


def _here(times: ServiceTimes) -> Kind:
    return Kind("here", times)


def _mean(one: ServiceTimes, other: ServiceTimes) -> ServiceTimes:
    seconds = tuple((a + b) / 2 for a, b in zip(one.seconds, other.seconds, strict=True))
    return ServiceTimes(one.rows, seconds, (one.prompt_token_seconds + other.prompt_token_seconds) / 2)


def _measured_before() -> dict[str, Any]:
    document = json.loads((RESULTS / "capacity.json").read_text())
    measured: dict[str, Any] = document["result"]["measured"]
    return measured


def _curve(kind: Kind, num_replicas: int) -> dict[str, Any]:
    """Latency and goodput by the load, of so many replicas."""
    points = []
    for share in SHARES:
        rate = share * num_replicas * kind.capacity
        load = Load(((0, rate),), _enough_seconds(rate), LENGTHS, LENGTHS)
        course = simulate(load, kind.times, kind.limits, num_replicas)
        points.append({"share": share, "rate": rate} | summary(course.requests))
    return {"kind": kind.name, "replicas": num_replicas, "points": points}


def _enough_seconds(rate: float) -> float:
    """For some thousand requests, and longer than a request takes by far."""
    return min(max(2500 / rate, 20.0), 300.0)


def summary(requests: Sequence[Request]) -> dict[str, float | None]:
    """Of those that came after the warm-up: first tokens in seconds; what came, was refused, was served in time, each a second."""
    begin, end = requests[0].arrival, requests[-1].arrival
    counted = [request for request in requests if request.arrival >= begin + WARM * (end - begin)]
    seconds = end - counted[0].arrival
    first = first_token_seconds(counted)
    return {
        "first_token_p50": percentile(first, 50) if first else None,
        "first_token_p95": percentile(first, 95) if first else None,
        "offered": len(counted) / seconds,
        "refused": sum(request.is_refused for request in counted) / seconds,
        "goodput": sum(value <= PATIENCE_SECONDS for value in first) / seconds,
    }


def _step(kind: Kind, start_seconds: float, label: str) -> dict[str, Any]:
    """The load quadruples at 60 s, on two replicas half busy; in windows of 5 s."""
    load = Load(((0, kind.capacity), (60, 4 * kind.capacity)), 300, LENGTHS, LENGTHS)
    scaler = Autoscaler(start_seconds=start_seconds)
    course = simulate(load, kind.times, kind.limits, 2, scaler)
    return {
        "kind": kind.name,
        "label": label,
        "scaler": asdict(scaler),
        "windows": _windows(course, 5.0),
        "replicas": course.replicas,
    }


def _windows(course: Course, width: float) -> list[dict[str, float | None]]:
    windows = []
    for start in range(0, int(course.seconds), int(width)):
        inside = [request for request in course.requests if start <= request.arrival < start + width]
        first = first_token_seconds(inside)
        windows.append(
            {
                "start": float(start),
                "offered": len(inside) / width,
                "goodput": sum(value <= PATIENCE_SECONDS for value in first) / width,
                "first_token_p95": percentile(first, 95) if first else None,
            }
        )
    return windows


if __name__ == "__main__":
    main()
