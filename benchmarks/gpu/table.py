"""What a run of the other stages found, as one table: each figure beside its goal and its share of what the card could do.

    python -m benchmarks.gpu.table OUT

The floor of a step is the time in which the card copies the weights and the rows' cache, or multiplies as much, whichever is
longer, at the speeds that benchmarks.gpu.ceilings measured; a share is the floor's part of the time that was taken.
"""

import sys
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.gpu.results import RESULTS, Results

# Of GPT-2 124M in bfloat16 at a context of 256, on an H100 or H200.
DECODE_GOALS = {1: 5_000, 64: 150_000, 256: 240_000}
HTTP_GOALS = {64: 100_000}
FIRST_TOKEN_GOAL_MS = {1: 2.0}
TAX_GOAL_PERCENT = 5.0


class Line(NamedTuple):
    what: str
    measured: str
    goal: str = ""
    share: str = ""


def main() -> None:
    out = Path(sys.argv[1])
    print(as_table([*stage_lines(out / "stages.tsv"), *lines(Results(out / RESULTS).read())]))


def stage_lines(file: Path) -> list[Line]:
    """How each stage ended: what did not is in the log."""
    rows = [row.split("\t") for row in file.read_text().splitlines()] if file.exists() else []
    return [
        Line(f"stage {name}", outcome if outcome == "done" else f"{outcome} ({code})", f"<= {limit} s", f"{seconds} s")
        for name, outcome, code, seconds, limit in rows
    ]


def lines(found: dict[str, Any]) -> list[Line]:
    """Of whatever stages have left something."""
    return [
        *(Line(name, value) for name, value in found.get("machine", {}).items()),
        *_ladder(found.get("ladder", [])),
        *_ceilings(found.get("ceilings")),
        *_decode(found.get("decode", {}), found.get("ceilings")),
        *_early(found.get("early", [])),
        *_transformers(found.get("transformers", []), found.get("decode", {})),
        *_http(found.get("http", {}), found.get("decode", {})),
        *_tax(found.get("tax", {})),
    ]


def as_table(rows: list[Line]) -> str:
    rows = [Line("what", "measured", "goal", "share of the floor"), *rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    padded = [" | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    return "\n".join(f"| {row} |" for row in [padded[0], " | ".join("-" * width for width in widths), *padded[1:]])


def _ladder(rungs: list[dict[str, Any]]) -> list[Line]:
    return [
        Line(
            f"error of {rung['dtype']}, {rung['who']}",
            f"{rung['error']:.2g} deviations{'; ' + '; '.join(rung['failures']) if rung.get('failures') else ''}",
        )
        for rung in rungs
    ]


def _ceilings(found: dict[str, Any] | None) -> list[Line]:
    if not found:
        return []
    node = found["graph_node_seconds"]
    return [
        Line("copy, read and written", f"{found['copy_bytes_per_second'] / 1e12:.2f} TB/s"),
        Line("bfloat16 product", f"{found['bfloat16_flops'] / 1e12:.0f} TFLOP/s"),
        Line("empty kernel in a graph", f"{1e6 * node:.2f} us" if node else "not measured"),
    ]


def floor_seconds(rows: int, decode: dict[str, Any], ceilings: dict[str, Any]) -> float:
    moved = decode["weight_bytes"] + rows * decode["row_bytes"]
    return float(max(moved / ceilings["copy_bytes_per_second"], rows * decode["row_flops"] / ceilings["bfloat16_flops"]))


def _decode(decode: dict[str, Any], ceilings: dict[str, Any] | None) -> list[Line]:
    found = []
    for row in decode.get("by_batch", []):
        found.append(
            Line(
                f"ours, {row['rows']} rows",
                _speed(row),
                _goal(DECODE_GOALS.get(row["rows"]), row["tokens_per_second"]),
                _share(row["rows"], row, decode, ceilings),
            )
        )
    for row in decode.get("by_context", []):
        longer = decode | {"row_bytes": decode["row_bytes"] * row["context"] / decode["context"]}
        found.append(Line(f"ours, 1 row, context {row['context']}", _speed(row), "", _share(1, row, longer, ceilings)))
    if prefill := decode.get("prefill"):
        found.append(Line(f"a prompt of {prefill['tokens']} tokens", f"{1e3 * prefill['one_prompt_seconds']:.2f} ms"))
        found.append(Line("prompts together", f"{prefill['tokens_per_second']:,.0f} tokens/s"))
    for kind, seconds in decode.get("by_kind", {}).get("step_seconds", {}).items():
        found.append(Line(f"ours, {decode['by_kind']['rows']} rows, {kind}", f"{1e6 * seconds:,.0f} us a step"))
    for rows, kernels in decode.get("kernels", {}).items():
        found += [Line(f"of a step of {rows}: {name[:40]}", f"{value:,.1f} us") for name, value in list(kernels.items())[:8]]
    return found


def _share(num_rows: int, row: dict[str, Any], decode: dict[str, Any], ceilings: dict[str, Any] | None) -> str:
    return f"{100 * floor_seconds(num_rows, decode, ceilings) / row['step_seconds']:.0f} %" if ceilings else ""


def _early(rows: list[dict[str, Any]]) -> list[Line]:
    return [
        Line(
            f"starting kernels early, {row['rows']} rows",
            f"{1e6 * row['late']:,.0f} us a step -> {1e6 * row['early']:,.0f} us",
            f"the same bits: {_met(row['same_bits'])}",
        )
        for row in rows
    ]


def _transformers(rows: list[dict[str, Any]], decode: dict[str, Any]) -> list[Line]:
    ours = _by("rows", decode.get("by_batch", []))
    found = []
    for row in rows:
        mine = ours.get(row["rows"])
        times = f", ours {mine['tokens_per_second'] / row['tokens_per_second']:.1f} times as fast" if mine else ""
        found.append(Line(f"transformers, {row['rows']} rows, {row['mode']}", _speed(row) + times))
    return found


def _http(http: dict[str, Any], decode: dict[str, Any]) -> list[Line]:
    ours = _by("rows", decode.get("by_batch", []))
    found = []
    for row in http.get("rows", []):
        clients, speed, first = row["clients"], row["tokens_per_second"], row["first_token_ms_p50"]
        mine = ours.get(clients)
        share = f"{100 * speed / mine['tokens_per_second']:.0f} % of ours without HTTP" if mine else ""
        found.append(Line(f"HTTP, {clients} clients", f"{speed:,.0f} tokens/s", _goal(HTTP_GOALS.get(clients), speed), share))
        limit = FIRST_TOKEN_GOAL_MS.get(clients)
        goal = f"<= {limit:g} ms: {_met(first <= limit)}" if limit else ""
        found.append(Line(f"HTTP, {clients} clients, first token", f"p50 {first} ms, p99 {row['first_token_ms_p99']} ms", goal))
    return found


def _tax(tax: dict[str, Any]) -> list[Line]:
    return [
        Line(
            f"tax of invariance on products, {row['rows']} rows",
            f"{row['tax_percent']} %",
            f"<= {TAX_GOAL_PERCENT:g} %: {_met(row['tax_percent'] <= TAX_GOAL_PERCENT)}",
        )
        for row in tax.get("by_rows", [])
    ]


def _by(key: str, rows: list[dict[str, Any]]) -> dict[int, dict[str, Any]]:
    return {row[key]: row for row in rows}


def _speed(row: dict[str, Any]) -> str:
    return f"{row['tokens_per_second']:,.0f} tokens/s"


def _goal(goal: float | None, reached: float) -> str:
    return "" if goal is None else f"{goal:,.0f} tokens/s: {_met(reached >= goal)}"


def _met(is_met: bool) -> str:
    return "met" if is_met else "missed"


if __name__ == "__main__":
    main()
