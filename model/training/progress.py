"""What a run shows and records: a live line, a CSV of the losses and, if wanted, events for TensorBoard."""

import csv
import shutil
import sys
import time
from pathlib import Path
from typing import TextIO

from model.files import naming, replace_file, written_if_possible
from model.training.deadline import Deadline
from model.training.errors import TrainingError
from model.training.trainer import EXACT_MATCH, REWARD_ACCURACY, Progress, Score, Step, Validation


def _column(name: str) -> str:
    """Of a score."""
    return name.replace(" ", "_")


COLUMNS = ("step", "tokens", "seconds", "loss", "validation_loss", *map(_column, (EXACT_MATCH, REWARD_ACCURACY)))
SMOOTHING = 0.95
BAR_WIDTH = 20
# Between two drawings of the line, in a terminal and in a file.
REDRAW_SECONDS, LINE_SECONDS = 0.1, 10.0


class LossLog:
    """Appends to a CSV: the loss of every step, and each validation's. Resuming drops the rows of steps to be made again."""

    def __init__(self, file: Path, resumed_at: int) -> None:
        rows = [row for row in read_log(file) if int(row["step"]) <= resumed_at] if resumed_at else []
        replace_file(file, lambda temporary: _write_rows(temporary, rows))
        self._file = file
        self._stream: TextIO = file.open("a", newline="", buffering=1)  # a line at a time
        self._writer = csv.DictWriter(self._stream, COLUMNS)

    def on_step(self, step: Step, progress: Progress) -> None:
        self._write(progress, {"loss": f"{step.loss:.4f}"})

    def on_validation(self, validation: Validation, progress: Progress, score: Score | None = None) -> None:
        scored = {} if score is None else {_column(score.name): f"{score.share:.4f}"}
        self._write(progress, {"validation_loss": f"{validation.loss:.4f}"} | scored)

    def _write(self, progress: Progress, losses: dict[str, str]) -> None:
        with naming(self._file):
            self._writer.writerow(
                {"step": progress.step, "tokens": progress.tokens, "seconds": f"{progress.seconds:.1f}", **losses}
            )

    def close(self) -> None:
        with naming(self._file):
            self._stream.close()


def _write_rows(file: Path, rows: list[dict[str, str]]) -> None:
    with file.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)


def read_log(file: Path) -> list[dict[str, str]]:
    """The rows of a log, also of an earlier version with fewer columns; not a last one that a full disk or a crash has cut off."""
    if not file.exists():
        return []
    try:
        with file.open(newline="") as stream:
            rows = [dict.fromkeys(COLUMNS, "") | row for row in csv.DictReader(stream) if None not in row.values()]
        for row in rows:
            _check_numbers(row)
    except (ValueError, csv.Error) as error:
        raise TrainingError(f"{file} is damaged: {error}; mend it, or take it away to go on with a log that begins anew") from error
    return rows


def _check_numbers(row: dict[str, str]) -> None:
    if unknown := row.keys() - set(COLUMNS):
        raise ValueError(f"it has more columns than {', '.join(COLUMNS)}: {', '.join(map(str, unknown))}")
    int(row["step"]), int(row["tokens"]), float(row["seconds"])
    for name in COLUMNS[3:]:
        float(row[name] or 0)


class EventLog:
    """The same numbers, and the speed, as TensorBoard's events."""

    def __init__(self, directory: Path, resumed_at: int) -> None:
        from torch.utils.tensorboard import SummaryWriter  # an extra

        # TensorBoard is to forget the steps that are made again.
        self._writer = SummaryWriter(str(directory), purge_step=resumed_at + 1)

    def on_step(self, step: Step, learning_rate_factor: float) -> None:
        self._add("loss", step.loss, step.number)
        self._add("tokens_per_second", step.tokens_per_second, step.number)
        self._add("learning_rate_factor", learning_rate_factor, step.number)

    def on_validation(self, validation: Validation, score: Score | None = None) -> None:
        self._add("validation_loss", validation.loss, validation.step)
        if score is not None:
            self._add(_column(score.name), score.share, validation.step)

    def _add(self, name: str, value: float, step: int) -> None:
        self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class ProgressLine:
    """Steps, loss, tokens a second, time left: one line that is redrawn in a terminal; in a file, a line every ten seconds."""

    def __init__(self, max_steps: int, resumed_at: int, stream: TextIO | None = None, deadline: Deadline | None = None) -> None:
        self._stream, self._deadline = stream or sys.stderr, deadline
        self._live = self._stream.isatty()
        self._max_steps, self._first = max_steps, resumed_at + 1
        self._began = self._drawn = time.monotonic()
        self._loss = self._rate = self._weight = 0.0

    def on_step(self, step: Step) -> None:
        if step.number == self._first:  # it may have been compiled; no measure of those to come
            self._began = time.monotonic()
            return
        self._weight = SMOOTHING * self._weight + 1 - SMOOTHING
        self._loss += (1 - SMOOTHING) * (step.loss - self._loss)
        self._rate += (1 - SMOOTHING) * (step.tokens_per_second - self._rate)
        now = time.monotonic()
        if now - self._drawn >= (REDRAW_SECONDS if self._live else LINE_SECONDS):
            self._draw(step.number, now)

    def _draw(self, step: int, now: float) -> None:
        left = (now - self._began) / (step - self._first) * (self._max_steps - step)
        if self._deadline is not None:
            left = min(left, self._deadline.seconds_left)
        width = len(f"{self._max_steps:,}")
        text = (
            f"step {step:{width},}/{self._max_steps:,}  loss {self._loss / self._weight:.3f}  "
            f"{self._rate / self._weight:,.0f} tokens/s  {clock(left)} left"
        )
        if self._live:
            full = BAR_WIDTH * step // self._max_steps
            text = f"\r\x1b[K{'━' * full}{'─' * (BAR_WIDTH - full)} {text}"
            columns = shutil.get_terminal_size().columns - 1
            self._print(text[: columns + len("\r\x1b[K")], end="")
        else:
            self._print(text)
        self._drawn = now

    def write(self, line: str) -> None:
        """A line that stays."""
        self._print(f"\r\x1b[K{line}" if self._live else line)

    def close(self) -> None:
        if self._live:
            self._print("\r\x1b[K", end="")

    def _print(self, text: str, end: str = "\n") -> None:
        with written_if_possible():
            print(text, end=end, file=self._stream, flush=True)


def counted(number: int, what: str) -> str:
    """1 step, 2,000 steps."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def clock(seconds: float) -> str:
    """0:07, 12:34 or 1:02:03."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"
