"""A load's measurement as a picture: every request over time, the tokens a second, and how latencies are distributed."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from app.bench.load import Measurement
from app.bench.report import PERCENTILES, percentile

WAITING, STREAMING, FAILED, INK = "#c9d6e2", "#3d6a8f", "#c8553d", "#33414d"
NUM_WINDOWS = 60  # over which tokens a second are averaged
MAX_ROWS = 300  # of requests that can be told apart; of more, evenly picked ones are drawn


def plot_measurement(measurement: Measurement, file: Path, title: str) -> None:
    """Draw into `file`, whose ending names the format; ModuleNotFoundError without matplotlib, OSError if it cannot be written."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 8), dpi=120, layout="constrained")
    axes = figure.subplot_mosaic([["requests", "requests"], ["rate", "rate"], ["first", "between"]], height_ratios=[2.2, 1, 1.5])
    figure.suptitle(title, x=0.01, ha="left", fontsize=12, color=INK)
    whole = measurement.whole
    _draw_requests(axes["requests"], measurement)
    _draw_rate(axes["rate"], measurement)
    axes["rate"].sharex(axes["requests"])
    axes["requests"].set_xlim(0, measurement.seconds or 1.0)
    _draw_spread(
        axes["first"], [answer.first_token_seconds for answer in whole if answer.arrivals], "until the first token", "requests"
    )
    between = [seconds for answer in whole for seconds in answer.inter_token_seconds]
    _draw_spread(axes["between"], between, "between two tokens", "tokens")
    for axis in axes.values():
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.2)
    figure.savefig(file)


def _draw_requests(axis: Any, measurement: Measurement) -> None:
    """A line a request, from its sending to its end."""
    answers = measurement.answers[:: -(-len(measurement.answers) // MAX_ROWS) or 1]
    spans: dict[str, list[tuple[int, float, float]]] = {WAITING: [], STREAMING: [], FAILED: []}
    for row, answer in enumerate(answers):
        end = measurement.seconds if answer.ended is None else answer.ended
        first = answer.arrivals[0].time if answer.arrivals else end
        spans[FAILED if answer.failure else WAITING].append((row, answer.started, first))
        spans[FAILED if answer.failure else STREAMING].append((row, first, end))
    width = min(6.0, 220 / max(1, len(answers)))
    for (color, rows), label in zip(spans.items(), ("waiting for the first token", "streaming", "failed"), strict=True):
        if rows:
            axis.hlines(*zip(*rows, strict=True), color=color, linewidth=width, label=label)
    for row, _, end in spans[FAILED]:  # most fail at once, and their lines are too short to be seen
        axis.plot(end, row, "x", color=FAILED, markersize=4)
    axis.set_title("requests, in the order in which they were sent", fontsize=10, loc="left")
    axis.set(ylabel="request")
    axis.invert_yaxis()
    if answers:
        axis.legend(frameon=False, ncols=3, loc="lower right", bbox_to_anchor=(1, 1), borderaxespad=0.1)


def _draw_rate(axis: Any, measurement: Measurement) -> None:
    width = measurement.seconds / NUM_WINDOWS or 1.0
    tokens = [0] * NUM_WINDOWS
    for answer in measurement.answers:
        for time, count in answer.arrivals:
            tokens[min(NUM_WINDOWS - 1, int(time / width))] += count
    axis.stairs(
        [count / width for count in tokens], [i * width for i in range(NUM_WINDOWS + 1)], fill=True, color=STREAMING, alpha=0.75
    )
    axis.axhline(measurement.tokens_per_second, color=INK, linewidth=1, linestyle="--")
    axis.set_title(f"generated tokens a second, {measurement.tokens_per_second:,.0f} on average", fontsize=10, loc="left")
    axis.set(ylabel="tokens/s", xlabel="seconds", ylim=(0, None))


def _draw_spread(axis: Any, seconds: Sequence[float], title: str, unit: str) -> None:
    """A histogram over equal ratios of time, from the 0.1th percentile to the longest, and the percentiles of the table."""
    axis.set_title(title, fontsize=10, loc="left")
    axis.set(xlabel="milliseconds", ylabel=unit)
    values = sorted(1000 * value for value in seconds)
    if not values:
        axis.text(0.5, 0.5, "none came", transform=axis.transAxes, ha="center", color=INK)
        return
    high = max(values[-1], 1e-3)
    low = min(max(percentile(values, 0.1), high / 1e3), high / 2)  # tokens that came in one read are nothing apart
    edges = [low * (high / low) ** (i / 50) for i in range(51)]
    axis.hist([min(max(value, low), high) for value in values], bins=edges, color=STREAMING, alpha=0.75)
    axis.margins(y=0.45)  # the percentiles' names stand above
    axis.set_xscale("log")
    steps = (1, 2, 5) if high < 100 * low else (1,)
    axis.set_xticks([step * 10.0**power for power in range(-6, 9) for step in steps if low <= step * 10.0**power <= high])
    axis.xaxis.set_major_formatter("{x:g}")
    axis.minorticks_off()
    axis.set_xlim(low, high * (high / low) ** 0.05)
    for percent, height in zip(PERCENTILES, (0.79, 0.89, 0.99), strict=True):  # each name stands above the lines left of it
        value = max(percentile(values, percent), low)
        axis.axvline(value, ymax=height, color=FAILED, linewidth=1.2)
        across = {"ha": "right", "va": "top", "transform": axis.get_xaxis_transform()}
        axis.text(value, height, f"p{percent} {value:,.1f} ", color=FAILED, fontsize=9, **across)
