"""The answer of an inspection as a picture: the stream as a river, the logit lens, attention maps. Knows the answer alone.

Of a run with ablations the ablated run is drawn, and the unablated stream as a line along the river.
"""

import warnings
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from app.commands.inspect_cells import clipped, escaped
from app.commands.inspect_fonts import fonts_for

Json = dict[str, Any]
Maps = dict[str, Any]  # name of a map: its rows, queries x keys

WATER, ATTENTION, MLP, INK, GREY = "#3d6a8f", "#c8553d", "#5b8a5a", "#33414d", "#8a95a0"
SUPTITLE: Json = {"x": 0.01, "ha": "left", "color": INK, "parse_math": False}
MAX_COLUMNS = 64  # positions that are drawn, the last ones
MAX_NAMED = 24  # positions whose tokens can still be read in the cells of the lens
MAX_LEVEL = 16  # positions whose tokens stand level below an axis
STEPS = 24  # points from one station of the river to the next


def draw(answer: Json, maps: Maps, title: Sequence[str], file: Path) -> str:
    """Draw into `file`, whose ending names the format; needs matplotlib. OSError if it cannot be written.

    The characters that no font here has, each of which is a box in the picture.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    fonts, missing = fonts_for(_drawn(answer, title))
    with mpl.rc_context({"font.family": fonts}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        figure = Figure(figsize=(12, 12), dpi=95, layout="constrained")
        parts: Any = figure.subfigures(3, 1, height_ratios=[1.1, 1.3, _height_of(maps)])
        figure.suptitle("\n".join(clipped(escaped(line), 110) for line in title), **SUPTITLE, fontsize=13)
        _draw_river(parts[0].subplots(), answer)
        _draw_lens(parts[1].subplots(), answer)
        _draw_maps(parts[2], answer, maps)
        figure.savefig(file)
    return missing


def _drawn(answer: Json, title: Sequence[str]) -> str:
    """All texts that are given: the title, the tokens, and what the logit lens says."""
    said = (layer[column][0] for layer in _run(answer)["summaries"]["lens"]["top"] for column in _columns(answer))
    return "".join([*title, *(token["text"] for token in answer["tokens"]), *(token["text"] for token in said)])


def _height_of(maps: Maps) -> float:
    return 1.6 if len(maps) == 1 or len(maps) > 8 else 0.75


def _run(answer: Json) -> Json:
    run: Json = answer["ablated"] or answer["run"]
    return run


def _heading(axis: Any, text: str) -> None:
    axis.set_title(text, fontsize=10, loc="left", color=INK, parse_math=False)


# ---- the river


def _stations(run: Json) -> list[float]:
    """Norms of the stream at the last position: the embedding, then after each attention and each MLP."""
    norms = run["summaries"]["norms"]
    pairs = zip(norms["resid_mid"], norms["resid_post"], strict=True)
    return [norms["resid_pre"][0][-1], *(layer[-1] for pair in pairs for layer in pair)]


def _smooth(levels: Sequence[float]) -> tuple[Any, Any]:
    """x and y of a curve through the stations, level at each of them."""
    import numpy as np

    part = np.arange(STEPS) / STEPS
    bend = part * part * (3 - 2 * part)
    curves = [low + (high - low) * bend for low, high in pairwise(levels)]
    y = np.append(np.concatenate(curves), levels[-1])
    return np.arange(len(y)) / STEPS, y


def _draw_river(axis: Any, answer: Json) -> None:
    run = _run(answer)
    levels = _stations(run)
    x, width = _smooth(levels)
    axis.fill_between(x, -width / 2, width / 2, color=WATER, linewidth=0, zorder=3, label="the stream")
    if answer["ablated"]:
        _, before = _smooth(_stations(answer["run"]))
        for sign in (-1, 1):
            label = "unablated" if sign > 0 else None
            axis.plot(x, sign * before / 2, color=INK, linewidth=1.2, linestyle="--", zorder=4, label=label)
    names = (("attn_out", "what attention adds", ATTENTION, 1), ("mlp_out", "what the MLP adds", MLP, -1))
    for offset, (name, label, color, sign) in enumerate(names):
        for layer, added in enumerate(run["summaries"]["norms"][name]):
            _draw_tributary(axis, x, width / 2, 2 * layer + offset, added[-1], color, sign, label if not layer else None)
    _label_stations(axis, levels)
    token = escaped(answer["tokens"][-1]["text"])
    _heading(axis, f'the residual stream after "{token}": widths are norms (vectors add, widths do not)')
    axis.legend(frameon=False, ncols=4, loc="lower right", bbox_to_anchor=(1, 1), borderaxespad=0.1, fontsize=8)


def _draw_tributary(axis: Any, x: Any, half: Any, station: int, added: float, color: str, sign: int, label: str | None) -> None:
    """A band as wide as what is added, which falls into the river between two stations and ends beneath its surface."""
    reach = slice(station * STEPS, (station + 1) * STEPS + 1)
    part = x[reach] - station
    fall = 1 - part * part * (3 - 2 * part)
    bank = half[reach] - part * added + fall * max(half) * 0.5
    axis.fill_between(x[reach], sign * bank, sign * (bank + added), color=color, alpha=0.75, linewidth=0, zorder=2, label=label)


def _label_stations(axis: Any, levels: Sequence[float]) -> None:
    named = ["embed", *(f"{layer}" for layer in range(len(levels) // 2))]
    axis.set_xticks(range(0, len(levels), 2), named)
    axis.set_xlim(0, len(levels) - 1)
    for station in range(0, len(levels), 2):
        align = "left" if not station else "right" if station == len(levels) - 1 else "center"
        axis.text(station, 0, f" {levels[station]:.1f} ", ha=align, va="center", fontsize=8, color="white", zorder=5)
    axis.set_yticks([])
    axis.set_xlabel("after the embedding, and after each layer", fontsize=9)
    axis.spines[["top", "right", "left"]].set_visible(False)


# ---- the logit lens


def _columns(answer: Json) -> list[int]:
    """Which of the chosen positions are drawn."""
    number = len(_run(answer)["summaries"]["lens"]["rank"][0])
    return list(range(max(0, number - MAX_COLUMNS), number))


def _labels(answer: Json, columns: Sequence[int]) -> list[str]:
    return [clipped(escaped(answer["tokens"][column]["text"]), 10) for column in columns]


def _draw_lens(axis: Any, answer: Json) -> None:
    lens, columns = _run(answer)["summaries"]["lens"], _columns(answer)
    tops = [[layer[column][0] for column in columns] for layer in lens["top"]]
    shares = [[token["probability"] for token in layer] for layer in tops]
    image = axis.imshow(shares, aspect="auto", cmap="Blues", vmin=0, vmax=1, origin="lower")
    axis.figure.colorbar(image, ax=axis, pad=0.01, fraction=0.03).ax.tick_params(labelsize=8)
    if len(columns) <= MAX_NAMED:
        size = 8 if len(columns) <= MAX_LEVEL else 6.5
        for row, layer in enumerate(tops):
            for place, token in enumerate(layer):
                color = "white" if token["probability"] > 0.55 else INK
                text = clipped(escaped(token["text"]), 150 // max(12, len(columns)))
                axis.text(place, row, text, ha="center", va="center", fontsize=size, color=color, parse_math=False)
    axis.set_yticks(range(len(tops)), ["embed", *map(str, range(len(tops) - 1))], fontsize=8)
    _name_columns(axis, _labels(answer, columns))
    axis.set_ylabel("after layer", fontsize=9)
    _heading(
        axis, "logit lens: what the stream would say next at each layer, by the last LayerNorm and the unembedding; its probability"
    )


def _size(labels: Sequence[str]) -> float:
    return 9 if len(labels) <= MAX_LEVEL else 7.5 if len(labels) <= 2 * MAX_LEVEL else 5.5


def _name_columns(axis: Any, labels: Sequence[str]) -> None:
    rotation = 0 if len(labels) <= MAX_LEVEL else 90
    axis.set_xticks(range(len(labels)), labels, rotation=rotation, fontsize=_size(labels), parse_math=False)
    axis.tick_params(length=0)


# ---- attention


def _draw_maps(figure: Any, answer: Json, maps: Maps) -> None:
    of = ", the mean of each layer's heads" if next(iter(maps)).startswith("layer") else ""
    rows = 1 if len(maps) <= 8 else -(-len(maps) // 8)
    axes = figure.subplots(rows, -(-len(maps) // rows), squeeze=False).flat
    for axis, (name, weights) in zip(axes, maps.items(), strict=False):
        axis.imshow(weights, cmap="Oranges", vmin=0, vmax=1, interpolation="nearest")
        axis.set_title(name, fontsize=9, color=INK)
        axis.set_xticks([])
        axis.set_yticks([])
    if len(maps) == 1:
        labels = _labels(answer, range(len(answer["tokens"])))[-len(next(iter(maps.values()))) :]
        _name_columns(axes[0], labels)
        axes[0].set_yticks(range(len(labels)), labels, fontsize=_size(labels), parse_math=False)
    for axis in list(axes)[len(maps) :]:
        axis.set_visible(False)
    figure.suptitle(f"attention{of}: a row is the position that looks, a column what it sees", **SUPTITLE, fontsize=10)
