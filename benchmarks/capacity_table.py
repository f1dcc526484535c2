"""The tables of docs/scale.md out of results/capacity.json: replicas for so many users, the real service beside the simulation."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.machine import RESULTS

USERS = (1_000, 100_000, 10_000_000)
REQUESTS_A_DAY = 10  # of a user
PEAK = 3  # times the day's mean, in its busiest minutes
TOKENS_OUT = 128  # of a request, after as many in the prompt
BUSY = 0.7  # of what replicas can serve, at the peak
SPARE = 0.1  # of the replicas more, one at least: for those that start, drain or fail


@dataclass(frozen=True)
class Cost:
    """What a replica takes: so many of a unit, and of memory."""

    units: float
    unit: str
    gigabytes: float


# On CPUs what was resident under load, 318 and 876 MB, and a full cache on top of it, 143 and 642 MB: an upper bound.
COSTS = {
    "default checkpoint, 1 thread": Cost(1.25, "cores", 0.46),
    "GPT-2 124M, 2 cores": Cost(2.5, "cores", 1.52),
    "GPT-2 124M, H100": Cost(1, "H100", 9.9),  # on the card: 0.25 of weights and 256 slots of 1,024 positions of 36,864 bytes
}


def peak_rate(users: int) -> float:
    """Requests a second."""
    return users * REQUESTS_A_DAY * PEAK / 86_400


def replicas_for(rate: float, capacity: float) -> tuple[int, int]:
    """So many serve it, and so many are to spare."""
    needed = max(math.ceil(rate / (BUSY * capacity)), 1)
    return needed, max(math.ceil(SPARE * needed), 1)


def sizes(result: dict[str, Any]) -> str:
    lines = [
        "| users | requests/s at the peak | tokens/s out | what serves | replicas | together | memory |",
        "|---|---|---|---|---|---|---|",
    ]
    for users in USERS:
        rate = peak_rate(users)
        for kind in result["kinds"]:
            needed, spare = replicas_for(rate, kind["requests_per_second"])
            number, cost = needed + spare, COSTS[kind["name"]]
            lines.append(
                f"| {users:,} | {rate:,.2f} | {rate * TOKENS_OUT:,.0f} | {kind['name']} | {needed} + {spare} "
                f"| {number * cost.units:,g} {cost.unit} | {number * cost.gigabytes:,.1f} GB |"
            )
    return "\n".join(lines)


def beside(loads: list[dict[str, Any]]) -> str:
    lines = [
        "| load | requests | first token p50, real / simulated | p95 | refused | served in time |",
        "|---|---|---|---|---|---|",
    ]
    for row in loads:
        real, simulated = row["real"], row["simulated"]
        first = [f"{1000 * real[name]:,.0f} / {1000 * simulated[name]:,.0f} ms" for name in ("first_token_p50", "first_token_p95")]
        counts = [f"{real[name]:.2f} / {simulated[name]:.2f} /s" for name in ("refused", "goodput")]
        lines.append(f"| {row['share']:.0%} | {row['requests']} | {' | '.join(first + counts)} |")
    return "\n".join(lines)


def after_a_step(result: dict[str, Any]) -> str:
    """Of the requests that came within the two minutes after the load quadrupled."""
    lines = [
        "| a new replica serves after | not served in time, of those that came in 2 minutes | replicas |",
        "|---|---|---|",
    ]
    for step in result["steps"]:
        windows = [window for window in step["windows"] if 60 <= window["start"] < 180]
        offered, served = (sum(window[name] for window in windows) for name in ("offered", "goodput"))
        most = max(number for _, number in step["replicas"])
        lines.append(f"| {step['scaler']['start_seconds']:g} s ({step['label']}) | {1 - served / offered:.0%} | 2 to {most} |")
    return "\n".join(lines)


def tables(file: Path = RESULTS / "capacity.json") -> dict[str, str]:
    """By the names that docs/scale.md marks them with."""
    result = json.loads(file.read_text())["result"]
    measured = {name: beside(result["measured"][name]["loads"]) for name in ("told", "own")}
    return {"sizes": sizes(result), "step": after_a_step(result)} | measured


if __name__ == "__main__":
    for name, text in tables().items():
        print(f"<!-- {name} -->\n{text}\n<!-- /{name} -->\n")
