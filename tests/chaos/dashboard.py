"""The dashboard's panels drawn from a live Prometheus while every trouble of goal 26 is staged: what Grafana would show of them.

    python -m tests.chaos.dashboard dashboard.png

Plain lines and tables, without Grafana's look: units, thresholds and legends as the dashboard has them.
"""

import json
import re
import sys
import textwrap
import time
from concurrent.futures import Future
from typing import Any

import matplotlib as mpl

from tests.chaos.goals import Scale
from tests.chaos.prometheus import Prometheus
from tests.chaos.watching import DASHBOARD, QUICK_SPEED, Staged, staging, wait_for_alerts, waits_of

mpl.use("agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

COLUMN, ROW = 0.75, 0.3  # inches of a cell of the dashboard's grid
AFTER_SECONDS = 5.0  # so that the last alert is seen too


def main() -> None:
    started = time.time()
    with staging(QUICK_SPEED) as (staged, troubles):
        _watch(staged, troubles)
        panels = json.loads(DASHBOARD.read_text())["panels"]
        _draw(panels, staged.prometheus, started, time.time(), sys.argv[1])


def _watch(staged: Staged, troubles: list[Future[None]]) -> None:
    wait_for_alerts(staged, troubles, waits_of(QUICK_SPEED), Scale())
    time.sleep(AFTER_SECONDS)


def _draw(panels: list[dict[str, Any]], source: Prometheus, start: float, end: float, file: str) -> None:
    height = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in panels)
    figure = plt.figure(figsize=(24 * COLUMN, height * ROW))
    for panel in panels:
        x, y, w, h = (panel["gridPos"][key] for key in "xywh")
        margin = 0.9 if h > 1 else 0.0
        axes = figure.add_axes((x / 24 + 0.02, 1 - (y + h - margin) / height, w / 24 - 0.03, (h - 1.2 * margin - 0.6) / height))
        axes.set_title(panel["title"], fontsize=8, loc="left", fontweight="bold" if panel["type"] == "row" else "normal")
        KINDS[panel["type"]](axes, panel, source, start, end)
    figure.savefig(file, dpi=80)


def _lines(axes: Axes, panel: dict[str, Any], source: Prometheus, start: float, end: float) -> None:
    defaults = panel["fieldConfig"]["defaults"]
    for target in panel["targets"]:
        for line in source.query_range(_query(target, source), start, end):
            values = [(float(moment) - start, float(value)) for moment, value in line["values"]]
            axes.plot(*zip(*values, strict=True), linewidth=1, label=_legend(target, line["metric"]))
    for step in defaults.get("thresholds", {}).get("steps", [])[1:]:
        axes.axhline(step["value"], color=step["color"], linestyle="--", linewidth=1)
    axes.set_ylim(bottom=defaults.get("min"))
    axes.set_ylabel(defaults["unit"], fontsize=6)
    axes.tick_params(labelsize=6)
    axes.legend(fontsize=5, loc="upper left", ncols=2)


def _number(axes: Axes, panel: dict[str, Any], source: Prometheus, start: float, end: float) -> None:
    numbers = [float(sample["value"][1]) for target in panel["targets"] for sample in source.query(_query(target, source))]
    text = " / ".join(f"{number:.3g}" for number in numbers)
    _text(axes, f"{text}  {panel['fieldConfig']['defaults']['unit']}", size=11)


def _table(axes: Axes, panel: dict[str, Any], source: Prometheus, start: float, end: float) -> None:
    [shown] = [step["options"]["include"]["names"] for step in panel["transformations"]]
    found = [sample["metric"] for target in panel["targets"] for sample in source.query(_query(target, source))]
    _text(axes, "\n".join("  ".join(labels.get(name, "") for name in shown) for labels in found), size=5)


def _words(axes: Axes, panel: dict[str, Any], source: Prometheus, start: float, end: float) -> None:
    lines = panel["options"]["content"].splitlines()
    _text(axes, "\n".join(textwrap.shorten(line, 170, placeholder=" ...") for line in lines), size=5)


def _nothing(axes: Axes, panel: dict[str, Any], source: Prometheus, start: float, end: float) -> None:
    axes.set_axis_off()


def _text(axes: Axes, text: str, size: int) -> None:
    axes.set_axis_off()
    axes.text(0, 1, text, fontsize=size, va="top", parse_math=False)


def _query(target: dict[str, Any], source: Prometheus) -> str:
    expression: str = target["expr"]
    return expression.replace("$__rate_interval", f"{4 * source.scrape_seconds:.0f}s")


def _legend(target: dict[str, Any], labels: dict[str, str]) -> str:
    return re.sub(r"{{(\w+)}}", lambda found: labels.get(found[1], ""), target["legendFormat"])


KINDS = {"timeseries": _lines, "stat": _number, "table": _table, "text": _words, "row": _nothing}


if __name__ == "__main__":
    main()
