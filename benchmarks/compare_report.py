"""What benchmarks.compare_cpu measured as Markdown: every contender, ours beside the best peer, and the targets.

python -m benchmarks.compare_report     # the last result once more, from benchmarks/results/compare_cpu.json
"""

import json
import math
from collections.abc import Iterable, Sequence
from typing import Any

from benchmarks.compare_table import LOWER_IS_BETTER
from benchmarks.compare_targets import SHARE
from benchmarks.machine import RESULTS
from benchmarks.peers.places import OURS


def everybody(rows: Sequence[dict[str, Any]]) -> str:
    best = "over best peer"
    columns = ["", "clients", "end to end tokens/s", best, "decode tokens/s", best, "of the limit", "first token ms p50/p99", best]
    columns += ["between tokens ms p50/p99", "prefill tokens/s", best, "memory MB", best]
    return _table(columns, (_cells(row) for row in rows))


def _cells(row: dict[str, Any]) -> list[str]:
    over = {measure: f"{found['ratio']:.2f} ({found['peer']})" for measure, found in row["over_best"].items()}
    return [
        f"{row['label']}, {row['way']}",
        str(row["clients"]),
        f"{row['end_to_end_tokens_per_second']:,}",
        over.get("end_to_end", ""),
        f"{row['decode_tokens_per_second']:,}",
        over.get("decode", ""),
        f"{100 * row[SHARE]:.1f} %" if SHARE in row else "",
        _both(row["first_token_ms"]),
        over.get("first_token", ""),
        _both(row["inter_token_ms"]),
        f"{row['prefill_tokens_per_second']:,}",
        over.get("prefill", ""),
        f"{row['rss_megabytes']:,}",
        over.get("memory", ""),
    ]


def summary(rows: Sequence[dict[str, Any]]) -> str:
    """Ours alone, each beside the peer that is best at it: end to end over HTTP, decoding in process."""
    columns = ["", "clients", "tokens/s", "best peer", "over it (range)", "of the limit"]
    columns += ["first token ms p50/p99", "between tokens ms p50/p99"]
    return _table(columns, (_summary(row, rows) for row in rows if row["name"] == OURS and row["over_best"]))


def _summary(row: dict[str, Any], rows: Sequence[dict[str, Any]]) -> list[str]:
    measure = "end_to_end" if row["way"] == "HTTP" else "decode"
    over = row["over_best"][measure]
    same = (row["way"], row["clients"])
    peer = next(other for other in rows if other["label"] == over["peer"] and (other["way"], other["clients"]) == same)
    low, high = over["range"]
    return [
        f"{row['way']}, {row['precision']}",
        str(row["clients"]),
        f"{row[f'{measure}_tokens_per_second']:,.0f}",
        f"{peer['label']}: {peer[f'{measure}_tokens_per_second']:,.0f}",
        f"{over['ratio']:.2f}x ({low:.2f}-{high:.2f})",
        f"{math.floor(100 * row[SHARE])} %" if SHARE in row else "",
        _both(row["first_token_ms"]),
        _both(row["inter_token_ms"]),
    ]


def of_targets(found: Sequence[dict[str, Any]]) -> str:
    return _table(["target", "over", "wanted", "goal", "reached", ""], (_target(line) for line in found))


def _target(line: dict[str, Any]) -> list[str]:
    wanted = f"{'<=' if line['measure'] in LOWER_IS_BETTER else '>='} {line['wanted']:.2f}"
    goal = f"{line['goal']:.2f}" if line["goal"] else ""
    reached = f"{line['reached']:.{3 if line['measure'] == SHARE else 2}f}"
    return [line["target"], line["peer"] or "", wanted, goal, reached, "met" if line["met"] else "MISSED"]


def _both(values: Sequence[float]) -> str:
    return " / ".join(map(str, values))


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    return "\n".join([*lines, *("| " + " | ".join(cells) + " |" for cells in rows)])


def main() -> None:
    result = json.loads((RESULTS / "compare_cpu.json").read_text())["result"]
    print(everybody(result["rows"]), summary(result["rows"]), of_targets(result["targets"]), sep="\n\n")


if __name__ == "__main__":
    main()
