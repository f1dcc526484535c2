"""Draws the loss curves: their points as JSON from standard input, the PNG to standard output.

A program of its own, which `model.training.plot` runs: what matplotlib takes, some 40 MB, is not in memory for all of a run.
"""

import json
import sys
from itertools import accumulate
from typing import IO, Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

TRAINING, SMOOTHED, VALIDATION = "#9db4c8", "#3d6a8f", "#c8553d"
SMOOTHING = 0.02  # the part of the curve, in steps, over which it is averaged

Points = list[tuple[int, float]]  # tokens seen, and the loss there


def main() -> None:
    draw(sys.stdout.buffer, **json.load(sys.stdin))


def draw(stream: IO[bytes], title: str, training: Points, validation: Points) -> None:
    """Write the picture of a run to `stream`: of its curves at least one has points."""
    figure = Figure(figsize=(8, 4.5), dpi=120, layout="constrained")
    axes = figure.subplots()
    _draw_curves(axes, training, validation)
    axes.set_title(title, fontsize=11, loc="left")
    axes.set(xlabel="tokens seen", ylabel="loss, nats")
    axes.xaxis.set_major_formatter(EngFormatter(sep=" "))
    axes.set_xlim(left=0)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    FigureCanvasAgg(figure).print_png(stream)  # type: ignore[no-untyped-call]


def _draw_curves(axes: Any, training: Points, validation: Points) -> None:
    if training:
        tokens, losses = zip(*training, strict=True)
        axes.plot(tokens, losses, color=TRAINING, linewidth=0.6, alpha=0.5)
        axes.plot(tokens, _smooth(losses), color=SMOOTHED, linewidth=1.6, label="training")
    if validation:
        best = min(validation, key=lambda point: point[1])
        axes.plot(*zip(*validation, strict=True), "o-", color=VALIDATION, linewidth=1.6, markersize=3, label="validation")
        axes.plot(*best, "o", color=VALIDATION, markersize=8, markerfacecolor="none", label=f"best, {best[1]:.3f}")


def _smooth(losses: tuple[float, ...]) -> list[float]:
    """A running mean, over fewer at its beginning."""
    span = max(1, round(SMOOTHING * len(losses)))
    sums = [0.0, *accumulate(losses)]
    return [(sums[i] - sums[max(0, i - span)]) / min(i, span) for i in range(1, len(sums))]


if __name__ == "__main__":
    main()
