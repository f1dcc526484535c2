"""The training loop on a tiny network: it learns, stops, goes on bit for bit, and never saves what is broken."""

import math
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from model.config import GPT2Config
from model.files import replace_file
from model.gpt2 import GPT2
from model.network_files import load_model, save_checkpoint
from model.training import run_directory
from model.training.data.shards import TokenShards
from model.training.data.windows import WindowData
from model.training.distributed import Processes
from model.training.errors import TrainingError
from model.training.objective import can_compile
from model.training.progress import read_log
from model.training.recipe import Recipe, option_of
from model.training.run import train
from model.training.run_directory import RunDirectory
from model.training.trainer import Trainer

CONFIG = GPT2Config(vocab_size=257, n_positions=16, n_embd=16, n_layer=2, n_head=2, eos_token_ids=(256,))
RECIPE = Recipe(max_steps=12, batch_size=8, optimizer="adamw", learning_rate=1e-2, validate_every=5, validation_windows=8)


@pytest.fixture(scope="module")
def shards(shakespeare):
    ids = np.frombuffer(shakespeare.encode(), dtype=np.uint8).astype(np.uint16)
    return TokenShards([ids[:3000]], [ids[3000:3400]], 3400)


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch):
    """Each takes as long as all of a tiny run."""
    monkeypatch.setattr("model.training.run.plot_losses", lambda log, plot, title: None)


class HookedData(WindowData):
    """Real batches, and a function that is called as a step begins."""

    def __init__(self, shards, recipe, on_step=lambda step: None):
        super().__init__(shards, CONFIG.n_positions, recipe, Processes())
        self.on_step = on_step

    def batch(self, step):
        self.on_step(step)
        return super().batch(step)


class Run:
    """One directory with a run that can be gone on with, each time by a new network as a new process would."""

    def __init__(self, out: Path, shards, tokenizer, recipe):
        self.out, self.shards, self.tokenizer, self.recipe = out, shards, tokenizer, recipe
        self.directory = RunDirectory(out)
        self.directory.write_plan({"kind": "pretrain"})

    def go_on(self, on_step=lambda step: None):
        self.model = GPT2(CONFIG, self.recipe.dropout).init_weights(torch.Generator().manual_seed(0))
        data = HookedData(self.shards, self.recipe, on_step)
        return train(self.model, data, self.recipe, self.directory, self.export)

    def export(self):
        save_checkpoint(self.out, self.model, self.tokenizer, torch.float32)

    def files(self):
        return {
            file.name: file.read_bytes() for file in (*self.out.iterdir(), *self.directory.training.iterdir()) if file.is_file()
        }

    def log(self):
        return [{name: value for name, value in row.items() if name != "seconds"} for row in read_log(self.directory.log)]


@pytest.fixture
def run(tmp_path, shards, byte_tokenizer):
    return lambda name="run", **recipe: Run(tmp_path / name, shards, byte_tokenizer, replace(RECIPE, **recipe))


def interrupt_at(wanted):
    return lambda step: signal.raise_signal(signal.SIGINT) if step == wanted else None


def test_training_lowers_the_loss_and_exports_what_it_measured(run):
    one = run(max_steps=40)
    assert one.go_on()
    losses = [float(row["loss"]) for row in one.log() if row["loss"]]
    assert losses[0] == pytest.approx(math.log(257), rel=0.02)
    assert losses[-1] < 0.8 * losses[0]
    validations = [(int(row["step"]), float(row["validation_loss"])) for row in one.log() if row["validation_loss"]]
    assert [step for step, _ in validations] == [5, 10, 15, 20, 25, 30, 35, 40]
    data = HookedData(one.shards, one.recipe)
    trainer = Trainer(load_model(one.out), data, one.recipe, None)
    trainer.progress.step = one.recipe.max_steps
    assert trainer.measure().loss == pytest.approx(min(loss for _, loss in validations), abs=1e-3)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize(("dropout", "accumulation"), [(0.0, 1), (0.3, 1), (0.3, 2)])
def test_an_interrupted_run_goes_on_bit_for_bit(run, optimizer, dropout, accumulation):
    recipe = {"optimizer": optimizer, "dropout": dropout, "accumulation": accumulation}
    whole, parts = run("whole", **recipe), run("parts", **recipe)
    assert whole.go_on()
    assert not parts.go_on(interrupt_at(3))
    assert not parts.go_on(interrupt_at(4))
    assert parts.go_on()
    expected, actual = (load_file(one.directory.training / "state.safetensors") for one in (whole, parts))
    assert expected.keys() == actual.keys()
    assert all(torch.equal(expected[name], actual[name]) for name in expected)
    assert parts.log() == whole.log()
    assert parts.files()["model.safetensors"] == whole.files()["model.safetensors"]


@pytest.mark.skipif(not can_compile(torch.device("cpu")), reason="needs a C++ compiler")
@pytest.mark.filterwarnings("ignore:<class 'torch.autograd:DeprecationWarning")  # torch's own, as it traces one
@pytest.mark.timeout(900)  # each of three networks is compiled, maybe on a busy machine
def test_a_compiled_run_goes_on_bit_for_bit(run):
    recipe = {"compiled": True, "windows": ((0.0, 1),), "optimizer": "muon", "bfloat16": True, "max_steps": 6}
    whole, parts = run("whole", **recipe), run("parts", **recipe)
    assert whole.go_on()
    assert not parts.go_on(interrupt_at(2))
    assert parts.go_on()
    expected, actual = (load_file(one.directory.training / "state.safetensors") for one in (whole, parts))
    assert expected.keys() == actual.keys()
    assert all(torch.equal(expected[name], actual[name]) for name in expected)
    assert parts.log() == whole.log()


def test_a_run_that_died_goes_on_from_its_last_save(run):
    """Its log has rows of steps that are made again; each is there once in the end."""

    whole, parts = run("whole"), run("parts")
    whole.go_on()
    assert not parts.go_on(interrupt_at(3))
    with pytest.raises(SystemExit):
        parts.go_on(die_at(8))
    with parts.directory.log.open("a") as log:
        log.write("9,11")  # the power failed here
    assert parts.go_on()
    assert parts.log() == whole.log()


def die_at(wanted):
    """As by a loss of power: after errors of its own the run still saves."""

    def die(step):
        if step == wanted:
            raise SystemExit

    return die


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_run_that_died_early_goes_on_from_its_best_model_and_ends_as_if_it_had_not(run, optimizer):
    """It used to begin at zero, and to write worse models over the best."""
    whole, parts = run("whole", optimizer=optimizer), run("parts", optimizer=optimizer)
    whole.go_on()
    with pytest.raises(SystemExit):
        parts.go_on(die_at(7))
    begun = []
    assert parts.go_on(begun.append)
    assert begun == list(range(5, 12))
    assert parts.log() == whole.log()
    assert parts.files()["model.safetensors"] == whole.files()["model.safetensors"]


def replace_all_but(name):
    def replace(file, write):
        if file.name == name:
            raise MemoryError
        replace_file(file, write)

    return replace


@pytest.mark.parametrize(
    ("writer", "file"),
    [("model.network_files", "model.safetensors"), ("model.checkpoint", "config.json")],
    ids=["weights", "config"],
)
def test_a_run_that_died_between_its_state_and_its_model_exports_it_when_it_goes_on(run, monkeypatch, writer, file):
    one = run()
    with monkeypatch.context() as dying:
        dying.setattr(f"{writer}.replace_file", replace_all_but(file))
        with pytest.raises(MemoryError):
            one.go_on()
    assert file not in one.files()
    with pytest.raises(KeyboardInterrupt):
        one.go_on(lambda step: (_ for _ in ()).throw(KeyboardInterrupt))
    state = load_file(one.directory.training / "state.safetensors")
    assert torch.equal(load_model(one.out).wte.weight, state["weight/wte.weight"])


def test_a_worse_model_is_not_written_over_a_better_one(run, capsys):
    """A state of an earlier version may be older than the model, which its log alone remembers."""
    one = run()
    one.go_on(interrupt_at(3))
    (one.out / "model.safetensors").write_bytes(b"a better one")
    with one.directory.log.open("a") as log:
        log.write("5,640,1.0,,1.2345,,\n")
    better = one.files()["model.safetensors"]
    assert one.go_on()
    assert one.files()["model.safetensors"] == better
    assert f"the model in {one.out} is better, 1.2346, and stays" in capsys.readouterr().err


def test_a_model_keeps_the_loss_it_was_measured_at(run):
    one = run()
    one.go_on()
    best = min(float(row["validation_loss"]) for row in one.log() if row["validation_loss"])
    assert one.directory.exported_loss() == pytest.approx(best, abs=5e-5)
    (one.directory.training / "best.json").write_text("{")
    assert one.directory.exported_loss() == pytest.approx(best, abs=1e-4)
    (one.out / "model.safetensors").unlink()
    assert one.directory.exported_loss() == math.inf


class Saves:
    """Counts the saves of a run whose steps and saves take so many seconds of a clock that nobody waits for."""

    def __init__(self, monkeypatch, shards, step_seconds, save_seconds, num_steps):
        self.now, self.times, self._save_seconds = 0.0, [], save_seconds
        monkeypatch.setattr("model.training.trainer.time.monotonic", lambda: self.now)
        recipe = replace(RECIPE, max_steps=num_steps, validate_every=num_steps)

        def on_step(step):
            self.now += step_seconds

        model = GPT2(CONFIG).init_weights(torch.Generator().manual_seed(0))
        Trainer(model, HookedData(shards, recipe, on_step), recipe, self).run()

    def on_step(self, step): ...

    def on_validation(self, validation): ...

    def on_checkpoint(self):
        self.times.append(self.now)
        self.now += self._save_seconds


def test_a_run_is_saved_every_half_minute_or_less_often_where_that_takes_long(monkeypatch, shards):
    assert Saves(monkeypatch, shards, 10, 0, 12).times == [30, 60, 90, 120, 120]
    assert Saves(monkeypatch, shards, 10, 5, 50).times == [30, 285, 510], "250 seconds between saves of five each"


def test_a_signal_ends_the_run_after_the_step_and_saves(run):
    one = run()
    assert not one.go_on(interrupt_at(6))
    assert [row["step"] for row in one.log() if row["loss"]] == ["1", "2", "3", "4", "5", "6", "7"]
    state = load_file(one.directory.training / "state.safetensors")
    assert all(torch.equal(state["weight/" + name], parameter) for name, parameter in one.model.named_parameters())


def test_a_step_that_cannot_be_made_leaves_what_was_made_before_it(run):
    """Longer windows come late in a run, and may be too much for the memory."""
    whole, one = run("whole", validate_every=12), run(validate_every=12)
    assert whole.go_on()

    def break_at(wanted):
        def on_step(step):
            if step == wanted:
                raise RuntimeError("not enough memory")

        return on_step

    with pytest.raises(RuntimeError, match="not enough memory"):
        one.go_on(break_at(0))
    assert "state.safetensors" not in one.files(), "a run of no step may begin anew"
    with pytest.raises(RuntimeError, match="not enough memory"):
        one.go_on(break_at(7))
    assert one.directory.read_progress().step == 7
    assert one.go_on()
    assert one.files()["model.safetensors"] == whole.files()["model.safetensors"]
    assert one.log() == whole.log()


@pytest.fixture
def interrupts_as_in_a_terminal():
    """A job that a shell has put into the background inherits that SIGINT is ignored."""
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, previous)


@pytest.fixture
def hang_up():
    """How a program takes SIGHUP when it is begun: by its default, or not at all under nohup."""
    previous = signal.getsignal(signal.SIGHUP)
    yield lambda handler: signal.signal(signal.SIGHUP, handler)
    signal.signal(signal.SIGHUP, previous)


def test_a_closed_terminal_ends_the_run_and_saves_however_often_it_is_told(run, hang_up):
    hang_up(signal.SIG_DFL)
    one = run(validate_every=12)

    def close_terminal(step):
        if step == 6:
            signal.raise_signal(signal.SIGHUP)  # by the system
            signal.raise_signal(signal.SIGHUP)  # by the shell, to all its jobs

    assert not one.go_on(close_terminal)
    assert one.directory.read_progress().step == 7
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_DFL


def test_a_run_under_nohup_outlives_its_terminal(run, hang_up):
    hang_up(signal.SIG_IGN)
    one = run()
    assert one.go_on(lambda step: signal.raise_signal(signal.SIGHUP))
    assert one.directory.read_progress().step == 12
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


def interrupt_twice(*ignored):
    signal.raise_signal(signal.SIGINT)
    signal.raise_signal(signal.SIGINT)


def ended_at_once(one, on_step=lambda step: None):
    with pytest.raises(KeyboardInterrupt) as ended:
        one.go_on(on_step)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    return str(ended.value)


@pytest.mark.usefixtures("interrupts_as_in_a_terminal")
def test_a_second_signal_ends_the_run_at_once_and_says_that_nothing_was_saved(run):
    one = run(validate_every=12)
    said = ended_at_once(one, lambda step: interrupt_twice() if step == 6 else None)
    assert said == "ended at once, before anything of the run was saved: --resume begins it again at its first step"
    assert "state.safetensors" not in one.files()


@pytest.mark.usefixtures("interrupts_as_in_a_terminal")
def test_a_second_signal_says_where_the_run_was_saved(run):
    one = run()
    said = ended_at_once(one, lambda step: interrupt_twice() if step == 7 else None)
    assert (
        said
        == "ended at once; the run is saved as it was at step 5, from where --resume goes on; what came after it, 2 steps, is lost"
    )
    assert one.directory.read_progress().step == 5


@pytest.mark.usefixtures("interrupts_as_in_a_terminal")
def test_a_second_signal_before_the_first_model_is_written_says_that_it_is_yet_to_come(run, monkeypatch):
    one = run()
    with monkeypatch.context() as patched:
        patched.setattr(one, "export", interrupt_twice)
        said = ended_at_once(one)
    assert said.endswith("as it was at step 5, from where --resume goes on; its model is not written yet, which --resume does")
    one.go_on(interrupt_at(5))
    assert "model.safetensors" in one.files()


@pytest.mark.usefixtures("interrupts_as_in_a_terminal")
def test_a_run_that_is_stopped_says_that_it_is_saved_before_it_draws_its_curves(run, monkeypatch, capsys):
    drawn_after = []

    def draw(*of):
        drawn_after.append(capsys.readouterr().err)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr("model.training.run.plot_losses", draw)
    said = ended_at_once(run(validate_every=12), interrupt_at(6))
    assert drawn_after[0].endswith("saved at step 7\n")
    assert said.startswith("ended at once; the run is saved as it was at step 7, from where --resume goes on")


def test_a_finished_run_says_so_and_trains_no_further(run, capsys):
    one = run()
    one.go_on()
    before = one.files()
    capsys.readouterr()
    assert one.go_on(lambda step: pytest.fail("a step was made"))
    assert "the run stands at step 12, its end: nothing is left to train" in capsys.readouterr().err
    assert one.files() == before


def test_a_run_without_improvement_says_that_it_ended_early(run, capsys):
    one = run(max_steps=100, validate_every=2, patience=3, warmup_steps=0)
    one.go_on(lambda step: one.model.wte.weight.data.mul_(2.0) if step >= 10 else None)
    step = int(one.log()[-1]["step"])
    said = f"ended early: 3 validations without a better loss, at step {step} of 100\n"
    assert said in capsys.readouterr().err
    one.go_on()
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(("steps", "validated"), [(10, [4, 8, 10]), (9, [4, 8, 9]), (8, [4, 8])])
def test_validations_are_at_each_interval_and_at_the_end(run, steps, validated):
    one = run(max_steps=steps, validate_every=4)
    one.go_on()
    assert [int(row["step"]) for row in one.log() if row["validation_loss"]] == validated


def test_no_validation_is_right_before_the_last_one(run):
    one = run(max_steps=11, validate_every=5)
    one.go_on()
    assert [int(row["step"]) for row in one.log() if row["validation_loss"]] == [5, 11]


def test_patience_begins_when_the_rates_have_risen(run):
    """With the first small steps nothing can become better yet."""
    one = run(max_steps=100, validate_every=2, patience=2, warmup_steps=10, learning_rate=1e-9)
    one.go_on(lambda step: one.model.wte.weight.data.mul_(1.5))
    assert one.log()[-1]["step"] == "14"


def test_a_run_without_improvement_ends_and_the_best_model_is_kept(run):
    one = run(max_steps=100, validate_every=2, patience=3, warmup_steps=0)

    def spoil(step):
        if step >= 10:
            one.model.wte.weight.data.mul_(2.0)

    assert one.go_on(spoil)
    validations = {int(row["step"]): float(row["validation_loss"]) for row in one.log() if row["validation_loss"]}
    best = min(validations, key=validations.get)
    assert best < max(validations) == best + 6 < 100
    kept = Trainer(load_model(one.out), HookedData(one.shards, one.recipe), one.recipe, None).measure().loss
    assert kept == pytest.approx(validations[best], abs=1e-3)
    assert one.go_on(lambda step: pytest.fail("a step was made"))


def test_weights_that_are_no_numbers_end_the_run_and_are_not_saved(run):
    one = run()
    one.go_on(interrupt_at(6))
    before = one.files()
    with pytest.raises(
        TrainingError, match=r"the loss is nan after step 8; a smaller --learning-rate helps. What was saved before is"
    ):
        one.go_on(lambda step: one.model.wpe.weight.data.fill_(math.nan) if step == 8 else None)
    after = one.files()
    assert [after[name] == before[name] for name in ("state.safetensors", "model.safetensors")] == [True, True]


@pytest.mark.parametrize("steps", [10, 12])
def test_weights_that_broke_in_the_last_step_are_not_saved_either(run, monkeypatch, steps):
    one = run(max_steps=steps, validate_every=100)
    one.go_on(interrupt_at(6))
    before = one.files()

    def broken_step(optimizers, factor):
        one.model.wpe.weight.data.fill_(math.nan)

    monkeypatch.setattr("model.training.optimizer.Optimizers.step", broken_step)
    with pytest.raises(TrainingError, match="the loss is nan after step"):
        one.go_on()
    assert one.files()["state.safetensors"] == before["state.safetensors"]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), SafetensorError("I/O error: No space left on device")])
def test_a_full_disk_leaves_the_earlier_state_and_checkpoint_whole(run, monkeypatch, error):
    one = run()
    one.go_on(interrupt_at(6))
    before = one.files()

    def half_written(tensors, file, metadata):
        file.write_bytes(b"half of it")
        raise error

    with monkeypatch.context() as full:
        full.setattr(run_directory, "save_file", half_written)
        with pytest.raises(type(error), match="No space left"):
            one.go_on(interrupt_at(8))
    after = one.files()
    assert after.keys() == before.keys()
    assert all(after[name] == before[name] for name in before if name != "log.csv")
    assert one.go_on()


class Gradients:
    """In place of the optimisers: keeps the gradients of the first step."""

    def __init__(self, model):
        self.model, self.seen = model, {}

    def step(self, factor):
        self.seen = {name: parameter.grad.clone() for name, parameter in self.model.named_parameters()}


def gradients(shards, accumulation):
    recipe = replace(RECIPE, accumulation=accumulation)
    trainer = Trainer(GPT2(CONFIG).init_weights(torch.Generator().manual_seed(0)), HookedData(shards, recipe), recipe, None)
    trainer.optimizers = Gradients(trainer.model)
    step = trainer._step()
    return {"loss": torch.tensor(step.loss)} | trainer.optimizers.seen


def test_a_batch_in_parts_has_the_gradients_of_the_whole(shards):
    torch.testing.assert_close(gradients(shards, 4), gradients(shards, 1), rtol=1e-6, atol=1e-6)


def test_dropout_differs_by_step_and_follows_from_the_seed(run):
    logs = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        one = run(name, dropout=0.5, seed=seed, max_steps=3)
        one.go_on()
        logs.append(one.log())
    assert logs[0] == logs[1] != logs[2]


def factors_of(recipe):
    return [recipe.learning_rate_factor(step) for step in range(recipe.max_steps)]


def test_the_rates_rise_stay_and_fall_over_the_cooldown():
    factors = factors_of(replace(RECIPE, max_steps=1050, warmup_steps=50, cooldown=0.25))
    assert factors[:50] == [pytest.approx(step / 50) for step in range(1, 51)]
    assert factors[50:801] == 751 * [1]
    assert factors[801:] == [pytest.approx(step / 250) for step in range(249, 0, -1)]


def test_without_a_cooldown_the_rates_fall_by_half_a_cosine_over_all_of_a_run():
    factors = factors_of(replace(RECIPE, max_steps=1050, warmup_steps=50, cooldown=None))
    assert factors[:50] == [pytest.approx(step / 50) for step in range(1, 51)]
    assert factors[50:] == [pytest.approx(0.5 + 0.5 * math.cos(math.pi * step / 1000)) for step in range(1000)]


def test_a_clock_tells_how_far_the_cooldown_is():
    recipe = replace(RECIPE, max_steps=1000, warmup_steps=0, cooldown=0.5)
    assert [recipe.learning_rate_factor(1, share) for share in (0.1, 0.5, 0.75, 1.0)] == [1, 1, 0.5, 0]


def test_windows_grow():
    recipe = replace(RECIPE, max_steps=1000)
    assert [recipe.window_length(step, 512) for step in (0, 299, 300, 599, 600, 999)] == [128, 128, 256, 256, 512, 512]
    assert all(100 % recipe.window_length(step, 100) == 0 for step in (0, 300, 600))
    assert [recipe.window_length(step, 7) for step in (0, 300, 600)] == [7, 7, 7]


@pytest.mark.parametrize(("steps", "wanted"), [(1, 0), (2, 1), (3, 1), (4, 2), (29, 2), (300, 30), (3000, 100)])
def test_the_rates_rise_in_short_runs_too(steps, wanted):
    recipe = replace(RECIPE, max_steps=steps, warmup_steps=100)
    assert recipe.num_warmup_steps == wanted
    assert replace(recipe, first_step=500, max_steps=500 + steps).num_warmup_steps == wanted
    assert replace(recipe, warmup_steps=0).learning_rate_factor(0) == 1
    if wanted > 1:
        assert recipe.learning_rate_factor(0) == 1 / wanted


def test_a_recipe_is_read_as_it_was_written():
    recipe = replace(RECIPE, windows=((0.0, 2), (0.5, 1)), patience=3, bfloat16=True)
    assert Recipe.from_json(recipe.to_json() | {"of_a_later_version": 1}) == recipe


def test_a_run_of_an_earlier_version_goes_on_by_the_cosine_that_it_began_with():
    earlier = {name: value for name, value in RECIPE.to_json().items() if name != "cooldown"}
    assert Recipe.from_json(earlier) == replace(RECIPE, cooldown=None)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("max_steps", 0, "must be at least 1"),
        ("batch_size", 1 << 21, "must be at most 1048576"),
        ("batch_size", -1, "must be at least 1"),
        ("accumulation", 0, "must be at least 1"),
        ("validate_every", 0, "must be at least 1"),
        ("learning_rate", 0.0, "must be above 0"),
        ("learning_rate", math.nan, "must be above 0"),
        ("muon_learning_rate", math.inf, "must be above 0"),
        ("max_grad_norm", -1.0, "must be above 0"),
        ("weight_decay", -0.1, "must be at least 0"),
        ("warmup_steps", -1, "must be at least 0"),
        ("cooldown", 0.0, "must be above 0 and at most 1"),
        ("cooldown", 1.1, "must be above 0 and at most 1"),
        ("cooldown", math.nan, "must be above 0 and at most 1"),
        ("dropout", 1.0, "must be at least 0 and below 1"),
        ("patience", 0, "must be at least 1"),
        ("seed", -1, "must lie between 0 and 2147483647"),
        ("seed", 1 << 31, "must lie between 0 and 2147483647"),
    ],
)
def test_a_wrong_number_is_refused(name, value, words):
    with pytest.raises(TrainingError, match=f"^{option_of(name)} is {value}; it {words}"):
        replace(RECIPE, **{name: value})
