"""Figures as they are kept, and as docs/reliability.md shows them: one table, goal against figure."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.machine import describe_machine
from tests.chaos.goals import Figure

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "reliability.json"
PAGE = ROOT / "docs" / "reliability.md"
BEGIN, END = "<!-- figures: python -m tests.chaos --long --write -->\n", "<!-- end of figures -->\n"


@dataclass(frozen=True, slots=True)
class Result:
    number: int
    title: str
    figures: list[Figure]
    is_long: bool
    seconds: int


def write(result: Result) -> None:
    """Put it into the file and the page, beside what other runs found of other goals."""
    found = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    found[str(result.number)] = {"machine": describe_machine(), **asdict(result)}
    found = dict(sorted(found.items(), key=lambda item: int(item[0])))
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")
    before, _, rest = PAGE.read_text().partition(BEGIN)
    PAGE.write_text(before + BEGIN + table(found) + END + rest.partition(END)[2])


def table(found: dict[str, Any]) -> str:
    rows = ["| goal | what | wanted | found | |", "|---|---|---|---|---|"]
    for number, result in found.items():
        title = f"{result['title']}{'' if result['is_long'] else ' (quick form)'}"
        for i, figure in enumerate(result["figures"]):
            name = f"**{number}**" if not i else ""
            what = f"{title}: {figure['what']}" if not i else figure["what"]
            cells = [name, what, figure["wanted"], figure["found"], "" if figure["holds"] else "**missed**"]
            rows.append(f"| {' | '.join(map(_cell, cells))} |")
    return "\n".join([*rows, "", *_machines(found)]) + "\n"


def _machines(found: dict[str, Any]) -> list[str]:
    """Where and when each goal was measured."""
    goals: dict[str, list[str]] = {}
    for number, result in found.items():
        machine = result["machine"]
        goals.setdefault(f"{machine['cpu']}, {machine['date']}, commit {machine['commit']}", []).append(number)
    return [f"Measured on {where}: {', '.join(numbers)}." for where, numbers in goals.items()]


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())
