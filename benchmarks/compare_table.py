"""What benchmarks.compare_cpu measured, as rows: medians over rounds, shares of the limit, ratios to the best peer."""

import itertools
import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from benchmarks.peers.places import OURS

NUM_PROMPT, NUM_NEW = 128, 128

# GPT-2 124M: what a decoding step reads once, and per sequence and token of its past; what it computes per token.
WEIGHTS = 123.5e6
CACHE_ELEMENTS = 2 * 12 * 768
MEAN_LENGTH = NUM_PROMPT + NUM_NEW // 2
OPERATIONS = 2 * WEIGHTS
BYTES = {"int8": (1, 17 / 16), "bfloat16": (2, 2), "float32": (4, 4)}  # of a weight, of a value in the cache
PEAK = {"int8": "int8_gops", "bfloat16": "bfloat16_gflops", "float32": "float32_gflops"}


def decode_speed(result: dict[str, Any]) -> float:
    """Tokens/s once all sequences have their first token: those that came after that moment, over the time that is left."""
    begin = max(result["first_token_seconds"])
    num_tokens = sum(1 for times in result["token_times"] for at in times if at > begin)
    end = max(times[-1] for times in result["token_times"])
    return num_tokens / (end - begin)


# What ours are compared in, of one round's result: tokens/s, seconds, bytes.
MEASURES: dict[str, Callable[[dict[str, Any]], float]] = {
    "end_to_end": lambda result: result["tokens"] / result["seconds"],
    "decode": decode_speed,
    "prefill": lambda result: NUM_PROMPT * len(result["token_times"]) / max(result["first_token_seconds"]),
    "first_token": lambda result: statistics.median(result["first_token_seconds"]),
    "memory": lambda result: result["rss_bytes"],
}
NOT_HELD = " (not held)"  # after the label of somebody who used more than the comparison was held to
LOWER_IS_BETTER = {"first_token", "memory"}


def table(contenders: Sequence[Any], clients: Sequence[int]) -> list[dict[str, Any]]:
    """A row for each contender and number of clients, both ways of running apart; the fastest first."""
    rows = []
    for http in (True, False):
        for num_clients in clients:
            group = [_row(c, num_clients) for c in contenders if c.http == http and num_clients in c.results]
            for row in group:
                if row["name"] == OURS and (rivals := _rivals(row, group)):
                    row["over_best"] = {measure: over_best(row, rivals, measure) for measure in MEASURES}
            rows += sorted(group, key=lambda row: -row["end_to_end_tokens_per_second"])
    return rows


def _row(contender: Any, num_clients: int) -> dict[str, Any]:
    results = contender.results[num_clients]
    gaps = sorted(b - a for r in results for times in r["token_times"] for a, b in itertools.pairwise(times))
    first = sorted(seconds for r in results for seconds in r["first_token_seconds"])
    by_round = {measure: [of(r) for r in results] for measure, of in MEASURES.items()}
    row = {
        "way": "HTTP" if contender.http else "in process",
        "clients": num_clients,
        "label": contender.label + NOT_HELD * any(r.get("used_avx512") for r in results),
        "name": contender.name,
        "precision": contender.precision,
        "end_to_end_tokens_per_second": round(statistics.median(by_round["end_to_end"]), 1),
        "decode_tokens_per_second": round(statistics.median(by_round["decode"]), 1),
        "prefill_tokens_per_second": round(statistics.median(by_round["prefill"]), 1),
        "first_token_ms": [round(1000 * _quantile(first, q), 1) for q in (0.5, 0.99)],
        "inter_token_ms": [round(1000 * _quantile(gaps, q), 2) for q in (0.5, 0.99)],
        "rss_megabytes": round(max(by_round["memory"]) / 1e6),
        "by_round": by_round,
        "over_best": {},
    }
    if limits := [limit(contender.precision, num_clients, r["peaks"]) for r in results if "peaks" in r]:
        shares = [speed / most for speed, most in zip(by_round["decode"], limits, strict=True)]
        row["share_of_limit"] = math.floor(1000 * statistics.median(shares)) / 1000
        row["memory_gb_per_second"] = [round(r["peaks"]["read_gb_per_second"], 1) for r in results]
    if "load_rss_bytes" in results[0]:  # of servers
        row["load_rss_megabytes"] = round(max(r["load_rss_bytes"] for r in results) / 1e6)
        row["ready_seconds"] = round(max(r["ready_seconds"] for r in results), 2)
    return row


def step_bytes(precision: str, num_clients: int) -> float:
    """What one decoding step reads: the weights once and everybody's past."""
    per_weight, per_value = BYTES[precision]
    return WEIGHTS * per_weight + num_clients * MEAN_LENGTH * CACHE_ELEMENTS * per_value


def limit(precision: str, num_clients: int, peaks: dict[str, float]) -> float:
    """Decoded tokens/s that memory or arithmetic allow, whichever is less."""
    bandwidth = 1e9 * peaks["read_gb_per_second"]
    arithmetic = 1e9 * peaks[PEAK[precision]] / OPERATIONS
    return min(num_clients * bandwidth / step_bytes(precision, num_clients), arithmetic)


def _rivals(row: dict[str, Any], group: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """int8, our default, is compared with every peer, whatever it computes in; the others with peers of the same precision."""
    return [peer for peer in group if peer["name"] != OURS and row["precision"] in ("int8", peer["precision"])]


def over_best(row: dict[str, Any], rivals: Sequence[dict[str, Any]], measure: str) -> dict[str, Any]:
    """`row` over whichever rival was best in each round: the rounds' median and range, and who was best most often."""
    choose = min if measure in LOWER_IS_BETTER else max
    ratios, best = [], []
    for i, ours in enumerate(row["by_round"][measure]):
        theirs, label = choose((rival["by_round"][measure][i], rival["label"]) for rival in rivals)
        ratios.append(ours / theirs)
        best.append(label)
    edges = [_to_the_cent(ratio, measure) for ratio in (min(ratios), max(ratios))]
    return {"ratio": _to_the_cent(statistics.median(ratios), measure), "range": edges, "peer": statistics.mode(best)}


def _to_the_cent(ratio: float, measure: str) -> float:
    """Never in our favour: up where less is better, else down."""
    return (math.ceil if measure in LOWER_IS_BETTER else math.floor)(100 * ratio) / 100


def _quantile(ordered: Sequence[float], share: float) -> float:
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)]
