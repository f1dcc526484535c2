"""What benchmarks.compare_cpu measured as Markdown: every contender, ours beside the best peer, the targets, machines side by side.

python -m benchmarks.compare_report [zen4 ...]     # what the README and docs/comparison.md have of it, from benchmarks/results
"""

import json
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from benchmarks.compare_table import NOT_HELD
from benchmarks.compare_targets import AT_MOST, RESIDENT, SHARE
from benchmarks.machine import RESULTS
from benchmarks.peers.places import OURS

NAME = "compare_cpu_{}"  # a machine's file among the results
Document = dict[str, Any]


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
        f"{row['way']}, {row['precision']}" + NOT_HELD * row["label"].endswith(NOT_HELD),
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
    digits = {SHARE: 3, RESIDENT: 0}.get(line["measure"], 2)
    wanted = f"{'<=' if line['measure'] in AT_MOST else '>='} {line['wanted']:.{min(digits, 2)}f}"
    goal = f"{line['goal']:.2f}" if line["goal"] else ""
    return [line["target"], line["peer"] or "", wanted, goal, f"{line['reached']:.{digits}f}", "met" if line["met"] else "MISSED"]


def side_by_side(documents: Mapping[str, Document]) -> str:
    """Ours on each machine, a column group each: tokens/s as in `summary`, over the best peer there, and of the limit."""
    columns = ["", "clients"]
    cells: dict[tuple[str, str], dict[str, list[str]]] = {}
    for name, document in documents.items():
        columns += [f"{name}: tokens/s", "over the best peer", "of the limit"]
        rows = document["result"]["rows"]
        for row in rows:
            if row["name"] == OURS and row["over_best"]:
                what, clients, speed, peer, over, share, *_ = _summary(row, rows)
                cells.setdefault((what, clients), {})[name] = [speed, f"{over.partition(' ')[0]} {peer.partition(':')[0]}", share]
    return _table(
        columns, ([*key, *(cell for name in documents for cell in found.get(name, [""] * 3))] for key, found in cells.items())
    )


def measured_on(document: Document) -> str:
    """When and where: the commit, the CPU, what it was held to, all versions, and who was left out for what reason."""
    machine, result = document["machine"], document["result"]
    line = f"Measured on {machine['date']} at commit {machine['commit']}: {machine['cpu']}"
    if "cpu" in result:
        line += f" ({' '.join(result['cpu']['instruction_sets'])})"
    if result.get("held_to"):
        line += f", everybody held to {result['held_to']}"
    line += f", Python {machine['python']}, torch {machine['torch']}; "
    line += ", ".join(f"{name} {version}" for peer in result["peers"].values() for name, version in peer.items()) + "."
    for one in result.get("left_out", []):
        line += f"\nLeft out: {one['label']}, {one['way']}: {one['reason']}."
    return line


def report(name: str, document: Document) -> str:
    """A machine's section of docs/comparison.md."""
    rows, reached = document["result"]["rows"], document["result"]["targets"]
    parts = [f"## On {name}", measured_on(document), "### Ours beside the best", summary(rows)]
    return "\n\n".join([*parts, "### Targets", of_targets(reached), "### Everybody", everybody(rows)])


def readme_block(name: str, document: Document) -> str:
    """A machine's table in the README, between the marks by which its test finds it."""
    file = f"benchmarks/results/{NAME.format(name)}.json"
    begin = f"<!-- comparison {name}: tests/test_readme.py compares it with {file} -->"
    return "\n".join([begin, summary(document["result"]["rows"]), "<!-- /comparison -->"])


def to_paste(names: Iterable[str]) -> str:
    """All that a new result of these machines changes in the README and in docs/comparison.md."""
    found = results()
    blocks = [f"README.md, Fast on a CPU:\n\n{readme_block(name, found[name])}" for name in names]
    sections = [f"docs/comparison.md:\n\n{report(name, found[name])}" for name in names]
    return "\n\n".join([*blocks, *sections, "docs/comparison.md, Machines side by side:", side_by_side(found)])


def results() -> dict[str, Document]:
    """What is kept of each machine, by its name."""
    begin, end = NAME.split("{}")[0], ".json"
    files = sorted(RESULTS.glob(NAME.format("*") + end))
    return {file.name.removeprefix(begin).removesuffix(end): json.loads(file.read_text()) for file in files}


def _both(values: Sequence[float]) -> str:
    return " / ".join(map(str, values))


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    return "\n".join([*lines, *("| " + " | ".join(cells) + " |" for cells in rows)])


def main() -> None:
    print(to_paste(sys.argv[1:] or results()))


if __name__ == "__main__":
    main()
