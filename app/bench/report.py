"""What a load's measurement says: percentiles, a table for people, a document for programs. Knows no sockets."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from app.bench.load import Measurement

PERCENTILES = (50, 90, 99)
LATENCIES = {
    "time_to_first_token_ms": "first token",
    "inter_token_ms": "between tokens",
    "request_ms": "whole request",
}


@dataclass(frozen=True, slots=True)
class Plan:
    """What was to be sent, for those who read the report."""

    url: str
    dialect: str
    model: str | None
    pace: str
    lengths: str
    num_prompt: Sequence[int]  # tokens of each prompt, as it was made
    num_new: Sequence[int]  # tokens wanted of each answer
    is_exact: bool  # the prompts' lengths are the server's own count
    seed: int


def percentile(values: Sequence[float], percent: float) -> float:
    """Of sorted values, between two of them by their distance (NumPy's default, type 7 of Hyndman and Fan 1996)."""
    position = (len(values) - 1) * percent / 100
    low, high = values[math.floor(position)], values[math.ceil(position)]
    return low + (high - low) * (position - math.floor(position))


def spread(seconds: Sequence[float]) -> dict[str, float] | None:
    """Mean, percentiles and extremes in milliseconds; None of nothing."""
    if not seconds:
        return None
    values = sorted(1000 * value for value in seconds)
    found = {"mean": math.fsum(values) / len(values), **{f"p{p}": percentile(values, p) for p in PERCENTILES}}
    return {name: round(value, 3) for name, value in (found | {"min": values[0], "max": values[-1]}).items()}


def document(plan: Plan, measurement: Measurement) -> dict[str, Any]:
    """The whole report as JSON has it; latencies are of whole answers alone."""
    whole, seconds = measurement.whole, measurement.seconds
    latencies = {
        "time_to_first_token_ms": spread([answer.first_token_seconds for answer in whole if answer.arrivals]),
        "inter_token_ms": spread([value for answer in whole for value in answer.inter_token_seconds]),
        "request_ms": spread([(answer.ended or 0.0) - answer.started for answer in whole]),
    }
    num_in = sum(answer.num_prompt or plan.num_prompt[answer.index] for answer in whole)
    return {
        **{name: getattr(plan, name) for name in ("url", "dialect", "model", "pace", "lengths", "seed")},
        "interrupted": measurement.is_interrupted,
        "requests": {"planned": len(plan.num_new), "whole": len(whole), "failed": len(measurement.failed)},
        "errors": errors(measurement),
        "seconds": round(seconds, 3),
        "requests_per_second": _rate(len(whole), seconds),
        "prompt_tokens": num_in,
        "prompt_tokens_per_second": _rate(num_in, seconds),
        "generated_tokens": measurement.num_tokens,
        "generated_tokens_per_second": _rate(measurement.num_tokens, seconds),
        **latencies,
        "notes": notes(plan, measurement),
    }


def _rate(number: int, seconds: float) -> float:
    return round(number / seconds, 2) if seconds else 0.0


def errors(measurement: Measurement) -> list[dict[str, Any]]:
    """Each kind, the most frequent first, with the message of its first one."""
    failures = [answer.failure for answer in measurement.failed if answer.failure]
    counts = Counter(failure.kind for failure in failures)
    first = {failure.kind: str(failure) for failure in reversed(failures)}
    return [{"kind": kind, "number": number, "message": first[kind]} for kind, number in counts.most_common()]


def notes(plan: Plan, measurement: Measurement) -> list[str]:
    """What a reader has to know, or would take the numbers for what they are not."""
    whole = measurement.whole
    found = []
    if whole and not all(answer.is_counted for answer in whole):
        found.append("the server told no usage: each event of a stream counts as one token")
    if not plan.is_exact and not all(answer.num_prompt for answer in whole):
        found.append("prompt tokens are counted by words: the server tells neither usage nor, at /tokenize, tokens")
    short = sum(answer.num_tokens < plan.num_new[answer.index] for answer in whole)
    if short:
        found.append(f"{short} of {len(whole)} answers are shorter than asked: the model ended them, or its context did")
    unfinished = sum(answer.ended is None for answer in measurement.answers)
    if unfinished:
        found.append(f"interrupted: {unfinished} answers were under way; of them the tokens a second alone count")
    return found


def table(found: dict[str, Any]) -> str:
    """A document as lines for people."""
    requests = found["requests"]
    lines = [
        f"{found['url']}, dialect {found['dialect']}" + (f", model {found['model']}" if found["model"] else ""),
        f"{found['pace']}; {found['lengths']}",
        "",
        f"requests        {requests['whole']:,} whole, {requests['failed']:,} failed, of {requests['planned']:,}",
        *(f"  {error['kind']:<13} {error['number']:,}: {error['message']}" for error in found["errors"]),
        f"duration        {found['seconds']:,.2f} s",
        f"requests/s      {found['requests_per_second']:,.2f}",
        f"tokens/s in     {found['prompt_tokens_per_second']:,.1f}  ({found['prompt_tokens']:,} tokens)",
        f"tokens/s out    {found['generated_tokens_per_second']:,.1f}  ({found['generated_tokens']:,} tokens)",
        "",
        f"{'milliseconds':<16}" + "".join(f"{name:>11}" for name in ("mean", "p50", "p90", "p99", "max")),
        *(_row(label, found[name]) for name, label in LATENCIES.items()),
    ]
    return "\n".join([*lines, *(f"note: {note}" for note in found["notes"])])


def _row(label: str, latencies: dict[str, float] | None) -> str:
    names = ("mean", "p50", "p90", "p99", "max")
    return f"{label:<16}" + "".join(f"{latencies[name]:>11,.2f}" if latencies else f"{'-':>11}" for name in names)
