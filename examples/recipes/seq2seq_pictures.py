"""Two pictures of translation: how fast two networks learn it, and what each word of a target looks at in its source."""

from collections.abc import Mapping, Sequence
from pathlib import Path

COLOURS = ("#c8553d", "#3d6a8f")


def curves_picture(file: Path, curves: Mapping[str, Sequence[tuple[float, float]]]) -> None:
    """Exact match over seconds of the processor."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter

    figure = Figure(figsize=(7, 4), dpi=120, layout="constrained")
    axes = figure.subplots()
    for colour, (name, points) in zip(COLOURS, curves.items(), strict=True):
        axes.plot(*zip(*points, strict=True), "o-", color=colour, markersize=4, label=name)
    axes.set_title("Held-out sentences translated without a mistake", fontsize=12, loc="left")
    axes.set_xlabel("seconds of training, of one core", fontsize=11)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set(xlim=(0, None), ylim=(0, 1.02))
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=11)
    FigureCanvasAgg(figure).print_png(file)


def attention_picture(file: Path, weights: Sequence[Sequence[float]], rows: Sequence[str], columns: Sequence[str]) -> None:
    """A map of weights, a row for each word that is written and a column for each that may be looked at."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.2 + 0.3 * len(columns), 2.2 + 0.26 * len(rows)), dpi=110, layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(weights, cmap="Blues", vmin=0.0, vmax=1.0, aspect="auto")
    axes.set_xticks(range(len(columns)), columns, rotation=60, ha="left", rotation_mode="anchor", fontsize=11)
    axes.set_yticks(range(len(rows)), rows, fontsize=11)
    axes.xaxis.tick_top()
    axes.set_xlabel("source", fontsize=11)
    axes.set_ylabel("target, from top to bottom", fontsize=11)
    axes.tick_params(length=0)
    figure.colorbar(image, ax=axes, label="weight of attention", shrink=0.6)
    FigureCanvasAgg(figure).print_png(file)
