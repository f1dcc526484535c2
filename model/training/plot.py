"""The loss curves as a picture."""

from itertools import accumulate
from pathlib import Path
from typing import Any

from model.config import GPT2Config
from model.files import replace_file
from model.training.progress import read_log

TRAINING, VALIDATION = "#9db4c8", "#c8553d"
SMOOTHING = 0.02  # the part of the curve, in steps, over which it is averaged


def title_of(config: GPT2Config) -> str:
    size = f"{config.num_parameters / 1e6:.3g} M parameters"
    return f"{size}: {config.n_layer} layers, {config.n_embd} wide, context {config.n_positions}"


def plot_losses(log: Path, plot: Path, title: str) -> None:
    """Draw the losses of `log` over the tokens seen into the PNG `plot`; without matplotlib, or a loss yet, draw nothing."""
    rows = read_log(log)
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        return
    if not rows:
        return
    figure = Figure(figsize=(8, 4.5), dpi=120, layout="constrained")
    _draw(figure.subplots(), _points(rows, "loss"), _points(rows, "validation_loss"), title)
    replace_file(plot, lambda file: FigureCanvasAgg(figure).print_png(file))  # type: ignore[no-untyped-call]


def _points(rows: list[dict[str, str]], column: str) -> list[tuple[int, float]]:
    return [(int(row["tokens"]), float(row[column])) for row in rows if row[column]]


def _draw(axes: Any, training: list[tuple[int, float]], validation: list[tuple[int, float]], title: str) -> None:
    from matplotlib.ticker import EngFormatter

    if training:
        tokens, losses = zip(*training, strict=True)
        axes.plot(tokens, losses, color=TRAINING, linewidth=0.6, alpha=0.5)
        axes.plot(tokens, _smooth(losses), color="#3d6a8f", linewidth=1.6, label="training")
    if validation:
        best = min(validation, key=lambda point: point[1])
        axes.plot(*zip(*validation, strict=True), "o-", color=VALIDATION, linewidth=1.6, markersize=3, label="validation")
        axes.plot(*best, "o", color=VALIDATION, markersize=8, markerfacecolor="none", label=f"best, {best[1]:.3f}")
    axes.set_title(title, fontsize=11, loc="left")
    axes.set(xlabel="tokens seen", ylabel="loss, nats")
    axes.xaxis.set_major_formatter(EngFormatter(sep=" "))
    axes.set_xlim(left=0)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)


def _smooth(losses: tuple[float, ...]) -> list[float]:
    """A running mean, over fewer at its beginning."""
    span = max(1, round(SMOOTHING * len(losses)))
    sums = [0.0, *accumulate(losses)]
    return [(sums[i] - sums[max(0, i - span)]) / min(i, span) for i in range(1, len(sums))]
