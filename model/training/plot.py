"""The loss curves of a run as a picture beside its log."""

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from model.config import GPT2Config
from model.files import replace_file
from model.training.errors import TrainingError
from model.training.progress import read_log

DRAWING = (sys.executable, "-m", "model.training.picture")


class PictureError(Exception):
    """There is nothing to draw from, or the program that draws has failed; its text says at what."""


def title_of(config: GPT2Config) -> str:
    size = f"{config.num_parameters / 1e6:.3g} M parameters"
    return f"{size}: {config.n_layer} layers, {config.n_embd} wide, context {config.n_positions}"


def plot_losses(log: Path, plot: Path, title: str) -> None:
    """Draw the losses of `log` over the tokens seen into the PNG `plot`; without matplotlib, or a loss yet, draw nothing.

    PictureError if it cannot be drawn, OSError if it cannot be written.
    """
    try:
        rows = read_log(log)
    except TrainingError as error:
        raise PictureError(str(error)) from error
    if not rows or find_spec("matplotlib") is None:
        return
    curves = {"training": _points(rows, "loss"), "validation": _points(rows, "validation_loss")}
    # In a session of its own: Ctrl-C is the run's, which saves and draws once more.
    drawn = subprocess.run(
        DRAWING, input=json.dumps({"title": title} | curves).encode(), capture_output=True, start_new_session=True
    )
    if drawn.returncode:
        raise PictureError(drawn.stderr.decode(errors="replace").strip().rpartition("\n")[2] or f"signal {-drawn.returncode}")
    replace_file(plot, lambda file: file.write_bytes(drawn.stdout))


def _points(rows: list[dict[str, str]], column: str) -> list[tuple[int, float]]:
    return [(int(row["tokens"]), float(row[column])) for row in rows if row[column]]
