"""What benchmarks.compare_cpu measured, as rows: medians over rounds, shares of the limit, ratios to the best peer."""

import itertools
import statistics
from collections.abc import Sequence
from typing import Any

from benchmarks.peers.places import OURS

# GPT-2 124M: what a decoding step reads once, and per sequence and token of its past; what it computes per token.
WEIGHTS = 123.5e6
CACHE_ELEMENTS = 2 * 12 * 768
MEAN_LENGTH = 192  # from 128 to 256
OPERATIONS = 2 * WEIGHTS
BYTES = {"int8": (1, 17 / 16), "auto": (1, 17 / 16), "bfloat16": (2, 2), "float32": (4, 4)}  # of a weight, of a value in the cache
PEAK = {
    "int8": ("amx_int8_gops", "int8_gops"),
    "bfloat16": ("amx_bfloat16_gflops", "bfloat16_gflops"),
    "float32": ("float32_gflops",),
}
PEAK["auto"] = PEAK["int8"]


def table(contenders: Sequence[Any], clients: Sequence[int], peaks: Sequence[dict[str, float]]) -> list[dict[str, Any]]:
    """Print and return a row for each contender and number of clients, both ways of running apart."""
    rows = []
    for http in (True, False):
        for num_clients in clients:
            group = [_row(c, num_clients, peaks) for c in contenders if c.http == http and num_clients in c.results]
            _compare(group)
            rows += sorted(group, key=lambda row: -row["end_to_end_tokens_per_second"])
    _print(rows)
    return rows


def _row(contender: Any, num_clients: int, peaks: Sequence[dict[str, float]]) -> dict[str, Any]:
    results = contender.results[num_clients]
    gaps = sorted(b - a for r in results for times in r["token_times"] for a, b in itertools.pairwise(times))
    first = sorted(seconds for r in results for seconds in r["first_token_seconds"])
    decode = [_decode(r, num_clients) for r in results]
    row = {
        "way": "HTTP" if contender.http else "in process",
        "clients": num_clients,
        "label": contender.label,
        "end_to_end_tokens_per_second": _median(r["tokens"] / r["seconds"] for r in results),
        "decode_tokens_per_second": _median(decode),
        "prefill_tokens_per_second": _median(num_clients * 128 / max(r["first_token_seconds"]) for r in results),
        "first_token_ms": [round(1000 * _quantile(first, q), 1) for q in (0.5, 0.99)],
        "inter_token_ms": [round(1000 * _quantile(gaps, q), 2) for q in (0.5, 0.99)],
        "rss_megabytes": round(max(r["rss_bytes"] for r in results) / 1e6),
        "by_round": [round(r["tokens"] / r["seconds"], 1) for r in results],
        "decode_by_round": [round(speed, 1) for speed in decode],
    }
    if contender.name == OURS and not contender.http:
        row["share_of_limit"] = round(row["decode_tokens_per_second"] / limit(contender.dtype, num_clients, peaks), 3)
    return row


def step_bytes(dtype: str, num_clients: int) -> float:
    """What one decoding step reads: the weights once and everybody's past."""
    per_weight, per_value = BYTES[dtype]
    return WEIGHTS * per_weight + num_clients * MEAN_LENGTH * CACHE_ELEMENTS * per_value


def limit(dtype: str, num_clients: int, peaks: Sequence[dict[str, float]]) -> float:
    """Decoded tokens/s that memory or arithmetic allow, whichever is less, by what was measured beside so many clients."""
    beside = [peak for peak in peaks if peak["clients"] == num_clients]
    bandwidth = 1e9 * statistics.median(peak["read_gb_per_second"] for peak in beside)
    name = next(name for name in PEAK[dtype] if name in beside[0])
    arithmetic = 1e9 * statistics.median(peak[name] for peak in beside) / OPERATIONS
    return min(num_clients * bandwidth / step_bytes(dtype, num_clients), arithmetic)


def _compare(group: list[dict[str, Any]]) -> None:
    """Each of ours over the best peer of its group, end to end and decoding; medians of the rounds' ratios."""
    peers = [row for row in group if not row["label"].startswith(OURS)]
    for row in group:
        if row["label"].startswith(OURS) and peers:
            for ratio, series in (("ratio", "by_round"), ("decode_ratio", "decode_by_round")):
                best = [max(values) for values in zip(*(peer[series] for peer in peers), strict=True)]
                # Down to the cent, never up.
                ratios = sorted(int(100 * ours / theirs) / 100 for ours, theirs in zip(row[series], best, strict=True))
                row[ratio], row[f"{ratio}_range"] = statistics.median(ratios), [ratios[0], ratios[-1]]


def _decode(result: dict[str, Any], num_clients: int) -> float:
    """Tokens/s once all sequences have their first token: those that came after that moment, over the time that is left."""
    begin = max(result["first_token_seconds"])
    num_tokens = sum(1 for times in result["token_times"] for at in times if at > begin)
    end = max(times[-1] for times in result["token_times"])
    return num_tokens / (end - begin)


def _median(values: Any) -> float:
    return round(statistics.median(values), 1)


def _quantile(ordered: Sequence[float], share: float) -> float:
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)]


def _print(rows: Sequence[dict[str, Any]]) -> None:
    columns = ["", "clients", "end to end tokens/s", "over best peer", "decode tokens/s", "over best peer", "of the limit"]
    columns += ["first token ms p50/p99", "between tokens ms p50/p99", "prefill tokens/s", "memory MB"]
    print("\n| " + " | ".join(columns) + " |\n" + "|---" * len(columns) + "|")
    for row in rows:
        share = f"{100 * row['share_of_limit']:.0f} %" if "share_of_limit" in row else ""
        print(
            f"| {row['label']}, {row['way']} | {row['clients']} | {row['end_to_end_tokens_per_second']:,} | {row.get('ratio', '')} "
            f"| {row['decode_tokens_per_second']:,} | {row.get('decode_ratio', '')} | {share} "
            f"| {row['first_token_ms'][0]} / {row['first_token_ms'][1]} | {row['inter_token_ms'][0]} / {row['inter_token_ms'][1]} "
            f"| {row['prefill_tokens_per_second']:,} | {row['rss_megabytes']} |"
        )
