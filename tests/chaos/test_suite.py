"""The frame of the suite itself: what is missed is told, what is measured is kept, and no figure is rounded in our favour."""

import json
import math
from pathlib import Path

import pytest

from tests.chaos import __main__ as command
from tests.chaos import report
from tests.chaos.goals import Figure, Goal, Measure, Scale, at_least, at_most, exactly, percentile


@pytest.fixture
def goals(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[int, Goal]:
    """Goals of a test's own, and files that figures may be written to."""
    found: dict[int, Goal] = {}
    monkeypatch.setattr(command, "GOALS", found)
    monkeypatch.setattr(report, "RESULTS", tmp_path / "reliability.json")
    monkeypatch.setattr(report, "PAGE", tmp_path / "reliability.md")
    report.PAGE.write_text(f"before\n{report.BEGIN}old\n{report.END}after\n")
    return found


def run(monkeypatch: pytest.MonkeyPatch, *options: str) -> int:
    monkeypatch.setattr("sys.argv", ["chaos", *options])
    return command.main()


def goal_of(number: int, measure: Measure) -> dict[int, Goal]:
    return {number: Goal(number, f"The goal {number}", measure)}


def held(scale: Scale) -> list[Figure]:
    return [exactly("one", 1, len([*scale.each([1])]))]


def broken(scale: Scale) -> list[Figure]:
    raise RuntimeError("no such | thing\nat all")


def test_a_goal_that_breaks_is_missed_with_its_error_and_the_next_is_tried(
    goals: dict[int, Goal], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    goals |= goal_of(1, broken) | goal_of(2, held)
    assert run(monkeypatch) == 1
    written = capsys.readouterr().out
    assert "MISSED  it could be measured: RuntimeError: no such | thing" in written
    assert "holds   one: 1 (wanted 1)" in written
    assert run(monkeypatch, "--goals", "2") == 0


def test_figures_are_kept_beside_those_of_other_goals_and_shown_in_the_page(
    goals: dict[int, Goal], monkeypatch: pytest.MonkeyPatch
) -> None:
    goals |= goal_of(10, held) | goal_of(2, broken)
    run(monkeypatch, "--long", "--write", "--goals", "10")
    run(monkeypatch, "--write", "--goals", "2")
    kept = json.loads(report.RESULTS.read_text())
    assert {number: result["is_long"] for number, result in kept.items()} == {"2": False, "10": True}
    assert all("cpu" in result["machine"] for result in kept.values())
    before, _, page = report.PAGE.read_text().partition(report.BEGIN)
    table, _, after = page.partition(report.END)
    assert (before, after) == ("before\n", "after\n")
    rows = [row for row in table.splitlines() if row.startswith("| **")]
    assert rows == [
        r"| **2** | The goal 2 (quick form): it could be measured | figures | RuntimeError: no such \| thing at all | **missed** |",
        "| **10** | The goal 10: one | 1 | 1 |  |",
    ]


@pytest.mark.parametrize(("found", "shown"), [(1.0, "1 ms"), (1.0001, "1.01 ms"), (99.91, "100 ms"), (12344.2, "12,345 ms")])
def test_a_figure_is_never_rounded_in_our_favour(found: float, shown: str) -> None:
    assert at_most("time", 1.0, found, "ms").found == shown


def test_nothing_measured_holds_no_goal() -> None:
    assert math.isnan(percentile([], 99))
    assert not at_most("time", 1.0, percentile([], 99), "ms").holds
    assert not at_least("speed", 1.0, percentile([], 99), "/s").holds


@pytest.mark.parametrize(("percent", "value"), [(50, 5.0), (95, 10.0), (99.9, 10.0), (10, 1.0), (0, 1.0)])
def test_a_percentile_is_one_of_the_values(percent: float, value: float) -> None:
    assert percentile([float(i) for i in range(10, 0, -1)], percent) == value
