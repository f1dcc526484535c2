"""What a run leaves behind and shows: its directory, the log, the plot, TensorBoard's events, the live line."""

import io
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from model.config import GPT2Config
from model.gpt2 import GPT2
from model.training import progress
from model.training.errors import TrainingError
from model.training.optimizer import Optimizers
from model.training.plot import PictureError, plot_losses
from model.training.progress import COLUMNS, EventLog, LossLog, ProgressLine, clock, read_log
from model.training.recipe import Recipe
from model.training.run_directory import RunDirectory
from model.training.trainer import Progress, Step, Validation

CONFIG = GPT2Config(vocab_size=40, n_positions=8, n_embd=16, n_layer=1, n_head=2, eos_token_ids=(0,))


def model_and_optimizers(seed, config=CONFIG):
    model = GPT2(config).init_weights(torch.Generator().manual_seed(seed))
    optimizers = Optimizers(model, Recipe(max_steps=1))
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizers.step(1.0)
    return model, optimizers


def test_a_state_is_read_as_it_was_saved(tmp_path):
    directory = RunDirectory(tmp_path)
    directory.write_plan({"kind": "pretrain"})
    model, optimizers = model_and_optimizers(0)
    saved = Progress(step=7, tokens=70, seconds=1.25, best_loss=2.5, best_step=5, num_worse=1)
    directory.save_state(model, optimizers, saved)
    other, other_optimizers = model_and_optimizers(1)
    assert directory.load_state(other, other_optimizers) == saved
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))
    expected, actual = optimizers.state(), other_optimizers.state()
    assert expected.keys() == actual.keys()
    assert all(torch.equal(expected[name], actual[name]) for name in expected)


def test_a_run_that_never_measured_anything_is_saved_too(tmp_path):
    directory = RunDirectory(tmp_path)
    directory.write_plan({"kind": "pretrain"})
    model, optimizers = model_and_optimizers(0)
    directory.save_state(model, optimizers, Progress())
    assert directory.load_state(model, optimizers).best_loss == math.inf


def test_a_run_without_a_state_stands_at_its_beginning(tmp_path):
    assert RunDirectory(tmp_path).load_state(*model_and_optimizers(0)) == Progress()


def test_a_damaged_state_is_refused(tmp_path):
    directory = RunDirectory(tmp_path)
    directory.write_plan({"kind": "pretrain"})
    directory.save_state(*model_and_optimizers(0), Progress())
    state = tmp_path / "training" / "state.safetensors"
    state.write_bytes(state.read_bytes()[:-1])
    with pytest.raises(TrainingError, match=r"state\.safetensors is damaged"):
        directory.load_state(*model_and_optimizers(0))


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("training/state.safetensors", "holds an earlier run; go on with it by --resume, or choose another --out"),
        ("model.safetensors", "holds a checkpoint already, which would be overwritten; choose another --out"),
    ],
)
def test_a_directory_in_use_is_refused(tmp_path, file, words):
    RunDirectory(tmp_path).check_unused()
    (tmp_path / "training").mkdir()
    (tmp_path / file).write_text("")
    with pytest.raises(TrainingError, match=words):
        RunDirectory(tmp_path).check_unused()


def test_a_file_is_no_directory(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(TrainingError, match="is a file; --out names a directory"):
        RunDirectory(tmp_path / "file").check_unused()


def test_a_plan_is_read_by_its_own_kind_of_training(tmp_path):
    directory = RunDirectory(tmp_path)
    with pytest.raises(TrainingError, match="holds no run to resume"):
        directory.read_plan("pretrain", dict)
    directory.write_plan({"kind": "finetune", "seed": 1})
    assert directory.read_plan("finetune", dict)["seed"] == 1
    with pytest.raises(TrainingError, match="holds a run of gpt2 train finetune; resume it by that command"):
        directory.read_plan("pretrain", dict)


@pytest.mark.parametrize("contents", ["{", "[]", "{}", '"text"'])
def test_a_damaged_plan_is_refused(tmp_path, contents):
    (tmp_path / "training").mkdir()
    (tmp_path / "training" / "run.json").write_text(contents)
    with pytest.raises(TrainingError, match=r"run\.json is damaged"):
        RunDirectory(tmp_path).read_plan("pretrain", dict)


@pytest.mark.parametrize("sizes", [{"n_embd": 32}, {"n_layer": 3}, {"n_layer": 1}, {"n_positions": 1}])
def test_a_state_of_other_sizes_than_the_plan_has_is_refused(tmp_path, sizes):
    directory, config = RunDirectory(tmp_path), replace(CONFIG, n_layer=2)
    directory.write_plan({"kind": "pretrain"})
    directory.save_state(*model_and_optimizers(0, config), Progress())
    other, optimizers = model_and_optimizers(1, replace(config, **sizes))
    before = [parameter.clone() for parameter in other.parameters()]
    with pytest.raises(
        TrainingError, match=r"state\.safetensors does not fit .*run\.json: .*; one of them is damaged; put back a copy"
    ):
        directory.load_state(other, optimizers)
    assert all(torch.equal(a, b) for a, b in zip(before, other.parameters(), strict=True))


@pytest.mark.parametrize("metadata", [None, {}, {"progress": "["}, {"progress": "[]"}, {"progress": '{"parts": [{}]}'}])
def test_a_state_that_does_not_say_where_the_run_stands_is_refused(tmp_path, metadata):
    directory = RunDirectory(tmp_path)
    directory.write_plan({"kind": "pretrain"})
    directory.save_state(*model_and_optimizers(0), Progress())
    state = tmp_path / "training" / "state.safetensors"
    save_file(load_file(state), state, metadata=metadata)
    for read in (directory.read_progress, lambda: directory.load_state(*model_and_optimizers(0))):
        with pytest.raises(TrainingError, match=r"state\.safetensors is damaged: .*; put back a copy of it, or train anew"):
            read()


HEAD = ",".join(COLUMNS)


def step(number, loss=4.0, num_tokens=1000, seconds=0.5):
    return Step(number, loss, num_tokens, seconds)


def write_log(file, numbers, resumed_at=0):
    log = LossLog(file, resumed_at)
    for number in numbers:
        now = Progress(step=number, tokens=1000 * number, seconds=0.5 * number)
        log.on_step(step(number, 8 / number), now)
        if number % 2 == 0:
            log.on_validation(Validation(number, 9 / number, is_best=True), now)
    log.close()


def test_the_log_has_every_step_and_validation(tmp_path):
    write_log(tmp_path / "log.csv", [1, 2])
    assert (tmp_path / "log.csv").read_text().splitlines() == [
        "step,tokens,seconds,loss,validation_loss,exact_match,reward_accuracy",
        "1,1000,0.5,8.0000,,,",
        "2,2000,1.0,4.0000,,,",
        "2,2000,1.0,,4.5000,,",
    ]


def test_a_log_goes_on_without_the_steps_that_are_made_again(tmp_path):
    write_log(tmp_path / "whole.csv", range(1, 10))
    write_log(tmp_path / "log.csv", range(1, 7))
    with (tmp_path / "log.csv").open("a") as log:
        log.write("4,4000,2.0,1.0")  # a line that was cut off
    write_log(tmp_path / "log.csv", range(5, 10), resumed_at=4)
    assert read_log(tmp_path / "log.csv") == read_log(tmp_path / "whole.csv")


def test_the_rows_that_earlier_versions_wrote_are_kept(tmp_path):
    (tmp_path / "log.csv").write_text("step,tokens,seconds,loss,validation_loss\n10,81920,1.6,6.8716,\n20,163840,3.0,6.5013,\n")
    write_log(tmp_path / "log.csv", [21], resumed_at=20)
    assert [row["step"] for row in read_log(tmp_path / "log.csv")] == ["10", "20", "21"]


@pytest.mark.parametrize(
    "text",
    [
        "step,tokens,seconds,loss,validation_loss\nx,y,z,1,2\n",
        "1,2\n3,4\n",
        f"{HEAD}\n1,2,3.0,4,,,,5\n",
        f"{HEAD}\n1,2,3.0,four,,,\n",
    ],
)
def test_a_log_whose_rows_are_no_numbers_is_refused_and_draws_no_picture(tmp_path, text):
    (tmp_path / "log.csv").write_text(text)
    said = r"log\.csv is damaged: .*; mend it, or take it away to go on with a log that begins anew"
    with pytest.raises(TrainingError, match=said):
        LossLog(tmp_path / "log.csv", resumed_at=4)
    with pytest.raises(PictureError, match=said):
        plot_losses(tmp_path / "log.csv", tmp_path / "loss.png", "")
    assert (tmp_path / "log.csv").read_text() == text


def test_the_losses_become_a_picture(tmp_path):
    write_log(tmp_path / "log.csv", range(1, 60))
    plot_losses(tmp_path / "log.csv", tmp_path / "loss.png", "10 M parameters")
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert {file.name for file in tmp_path.iterdir()} == {"log.csv", "loss.png"}


@pytest.mark.parametrize("numbers", [[], [1], [2]])
def test_few_losses_make_a_picture_or_none(tmp_path, numbers):
    write_log(tmp_path / "log.csv", numbers)
    plot_losses(tmp_path / "log.csv", tmp_path / "loss.png", "")
    assert (tmp_path / "loss.png").exists() == bool(numbers)


def test_without_matplotlib_there_is_no_picture(tmp_path, monkeypatch):
    write_log(tmp_path / "log.csv", [1, 2])
    monkeypatch.setattr("model.training.plot.find_spec", lambda name: None)
    plot_losses(tmp_path / "log.csv", tmp_path / "loss.png", "")
    assert not (tmp_path / "loss.png").exists()


def test_a_run_itself_never_loads_matplotlib(tmp_path):
    write_log(tmp_path / "log.csv", [1, 2])
    program = (
        "import sys; from pathlib import Path; from model.training.plot import PictureError, plot_losses; "
        "plot_losses(*map(Path, sys.argv[1:]), 'title'); assert 'matplotlib' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path / "log.csv"), str(tmp_path / "loss.png")], check=True)
    assert (tmp_path / "loss.png").exists()


@pytest.mark.parametrize(
    "ends", ["import sys; print('warned', file=sys.stderr); raise ValueError('no font')", "import os; os.abort()"]
)
def test_a_picture_that_cannot_be_drawn_says_why_and_leaves_the_one_before(tmp_path, monkeypatch, ends):
    write_log(tmp_path / "log.csv", [1, 2])
    (tmp_path / "loss.png").write_bytes(b"before")
    monkeypatch.setattr("model.training.plot.DRAWING", (sys.executable, "-c", ends))
    with pytest.raises(PictureError, match=r"^(ValueError: no font|signal 6)$"):
        plot_losses(tmp_path / "log.csv", tmp_path / "loss.png", "")
    assert (tmp_path / "loss.png").read_bytes() == b"before"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # tensorboard's own
def test_tensorboard_reads_the_events(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for resumed_at, numbers in ((0, range(1, 7)), (4, range(5, 10))):
        events = EventLog(tmp_path, resumed_at)
        for number in numbers:
            events.on_step(step(number, 8 / number), number / 10)
        events.on_validation(Validation(numbers[-1], 2.5, is_best=True))
        events.close()
    read = EventAccumulator(str(tmp_path)).Reload()
    assert set(read.Tags()["scalars"]) == {"loss", "validation_loss", "learning_rate_factor", "tokens_per_second"}
    assert [(event.step, event.value) for event in read.Scalars("loss")] == [
        (number, pytest.approx(8 / number)) for number in range(1, 10)
    ]
    assert [event.value for event in read.Scalars("tokens_per_second")] == [2000.0] * 9
    assert [event.value for event in read.Scalars("validation_loss")] == [2.5]
    assert read.Scalars("learning_rate_factor")[2].value == pytest.approx(0.3)


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def now(monkeypatch):
    """A clock that is set by hand: now[0] is the time."""
    time = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: time[0])
    return time


def shown(stream, now, seconds_a_step, num_steps, resumed_at=0):
    line = ProgressLine(resumed_at + num_steps, resumed_at, stream)
    for number in range(resumed_at + 1, resumed_at + num_steps + 1):
        now[0] += seconds_a_step
        line.on_step(step(number))
    line.write("a line that stays")
    line.close()
    return stream.getvalue()


def test_a_file_gets_a_line_every_ten_seconds(now):
    assert shown(io.StringIO(), now, seconds_a_step=1, num_steps=25).splitlines() == [
        "step 10/25  loss 4.000  2,000 tokens/s  0:15 left",
        "step 20/25  loss 4.000  2,000 tokens/s  0:05 left",
        "a line that stays",
    ]


def test_time_left_goes_by_the_steps_since_the_run_was_resumed(now):
    assert "step 1,010/1,025  loss 4.000  2,000 tokens/s  0:15 left\n" in shown(io.StringIO(), now, 1, 25, resumed_at=1000)


def test_the_first_step_which_may_be_compiled_is_no_measure_of_the_others(now):
    stream = io.StringIO()
    line = ProgressLine(11, 0, stream)
    now[0] += 3600
    line.on_step(step(1, num_tokens=1000, seconds=3600))
    now[0] += 5
    line.on_step(step(2))
    assert stream.getvalue() == "step  2/11  loss 4.000  2,000 tokens/s  0:45 left\n"


def test_a_terminal_has_one_line_that_is_redrawn_ten_times_a_second_at_most(now, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    text = shown(Terminal(), now, seconds_a_step=0.01, num_steps=1000)
    drawn = text.split("\r\x1b[K")
    assert 90 <= len(drawn) <= 104
    assert all(len(line) < 60 and "\n" not in line for line in drawn[1:-2])
    assert drawn[50].startswith("━━━━━━━━━━────────── step   5")
    assert drawn[-2:] == ["a line that stays\n", ""]


def test_times_are_short():
    assert [clock(seconds) for seconds in (0, 7.4, 59.6, 754, 3723)] == ["0:00", "0:07", "1:00", "12:34", "1:02:03"]


def test_paths_of_a_run_lie_below_its_directory(tmp_path):
    directory = RunDirectory(tmp_path)
    paths = (directory.log, directory.plot, directory.tokens, directory.events)
    assert {path.relative_to(tmp_path) for path in paths} == {
        Path("training") / name for name in ("log.csv", "loss.png", "tokens", "tensorboard")
    }
