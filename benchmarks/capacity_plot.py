"""The simulation's result as a picture: latency and goodput by the load, the real service beside it, and a load that quadruples."""

from pathlib import Path
from typing import Any

BLUE, RED, GREEN, PALE, INK = "#3d6a8f", "#c8553d", "#5b8a5a", "#c9d6e2", "#33414d"
TARGET = 2.0  # seconds, from which on a first token is too late


def plot(result: dict[str, Any], file: Path) -> None:
    """Draw into `file`; needs matplotlib."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 8), dpi=110, layout="constrained")
    axes = figure.subplot_mosaic(
        [["first"] * 2 + ["goodput"] * 2 + ["real"] * 2, ["rate"] * 3 + ["late"] * 3], height_ratios=[1, 1]
    )
    figure.suptitle(
        "Capacity, simulated from measured steps: prompts and answers of 32 to 224 tokens, Poisson arrivals",
        x=0.01,
        ha="left",
        color=INK,
    )
    _draw_first(axes["first"], result["loads"])
    _draw_goodput(axes["goodput"], result["loads"])
    _draw_real(axes["real"], result["measured"]["told"]["loads"])
    _draw_rate(axes["rate"], result["steps"])
    _draw_late(axes["late"], result["steps"])
    for axis in axes.values():
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.2)
        axis.legend(frameon=False, fontsize=8)
        axis.title.set_color(INK)
    figure.savefig(file)


def _series(curve: dict[str, Any], name: str) -> tuple[list[float], list[float]]:
    points = [point for point in curve["points"] if point[name] is not None]
    return [100 * point["share"] for point in points], [point[name] for point in points]


def _label(curve: dict[str, Any]) -> str:
    number = curve["replicas"]
    return f"{curve['kind']}, {number} replica{'s' if number > 1 else ''}"


def _draw_first(axis: Any, curves: list[dict[str, Any]]) -> None:
    for curve, color in zip(curves, (BLUE, RED, GREEN), strict=True):
        axis.plot(*_series(curve, "first_token_p95"), color=color, linewidth=1.8, label=_label(curve))
        axis.plot(*_series(curve, "first_token_p50"), color=color, linewidth=1, linestyle=":")
    axis.axhline(TARGET, color=INK, linewidth=0.8, linestyle="--")
    axis.set_yscale("log")
    axis.set_ylim(top=60)  # the names stand above
    axis.yaxis.set_major_formatter("{x:g}")
    axis.set_title(f"first token, p95 (dotted: p50; dashed: {TARGET:g} s)", fontsize=10, loc="left")
    axis.set(xlabel="load, % of what the replicas can serve", ylabel="seconds")


def _draw_goodput(axis: Any, curves: list[dict[str, Any]]) -> None:
    """What was served in time, as a share of the capacity: the share of the load until it is full, and then flat."""
    for curve, color in zip(curves, (BLUE, RED, GREEN), strict=True):
        points = curve["points"]
        shares = [100 * point["share"] for point in points]
        served = [100 * point["goodput"] / point["rate"] * point["share"] for point in points]
        axis.plot(shares, served, color=color, linewidth=1.8)
    axis.plot([0, 100, 200], [0, 100, 100], color=PALE, linewidth=5, zorder=0, label="all that can be served")
    axis.set_ylim(0, 125)
    axis.set_title(f"goodput: first token within {TARGET:g} s", fontsize=10, loc="left")
    axis.set(xlabel="load, % of what the replicas can serve", ylabel="served, % of it")


def _draw_real(axis: Any, rows: list[dict[str, Any]]) -> None:
    shares = [100 * row["share"] for row in rows]
    for which, color, marker in (("real", RED, "o"), ("simulated", BLUE, "s")):
        for name, style in (("first_token_p50", ":"), ("first_token_p95", "-")):
            values = [row[which][name] for row in rows]
            label = f"{which}, {name[-3:]}"
            axis.plot(shares, values, marker=marker, color=color, linestyle=style, linewidth=1.2, markersize=5, label=label)
    axis.set_ylim(0, 1.4 * max(row[which]["first_token_p95"] for row in rows for which in ("real", "simulated")))
    axis.set_title("the real service beside it, told its steps", fontsize=10, loc="left")
    axis.set(xlabel="load, % of what the replica can serve", ylabel="first token, seconds")


def _draw_rate(axis: Any, steps: list[dict[str, Any]]) -> None:
    windows = steps[0]["windows"]
    times = [window["start"] for window in windows] + [windows[-1]["start"] + 5]
    axis.stairs([window["offered"] for window in windows], times, color=PALE, fill=True, label="offered")
    for step, color in zip(steps, (BLUE, RED), strict=True):
        values = [window["goodput"] for window in step["windows"]]
        most = max(number for _, number in step["replicas"])
        axis.stairs(
            values, times, color=color, linewidth=1.6, baseline=None, label=f"served in time, {step['label']} (2 to {most})"
        )
    axis.set_ylim(0, 1.45 * max(window["offered"] for window in windows))
    axis.set_title("the load quadruples: requests a second, autoscaled", fontsize=10, loc="left")
    axis.set(xlabel="seconds", ylabel="requests/s")


def _draw_late(axis: Any, steps: list[dict[str, Any]]) -> None:
    from matplotlib.ticker import MaxNLocator

    for step, color in zip(steps, (BLUE, RED), strict=True):
        times, numbers = zip(*step["replicas"], strict=True)
        end = step["windows"][-1]["start"] + 5
        axis.step(
            [*times, end], [*numbers, numbers[-1]], where="post", color=color, linewidth=1.6, label=f"replicas, {step['label']}"
        )
        late = [(w["start"] + 2.5, w["first_token_p95"]) for w in step["windows"] if w["first_token_p95"] is not None]
        axis.plot(*zip(*late, strict=True), color=color, linestyle=":", linewidth=1.2, label="first token, p95, seconds")
    axis.set_ylim(0, 1.35 * max(number for step in steps for _, number in step["replicas"]))
    axis.yaxis.set_major_locator(MaxNLocator(integer=True))
    axis.set_title("replicas that serve, and how late the first token is", fontsize=10, loc="left")
    axis.set(xlabel="seconds", ylabel="replicas; seconds")
