"""What is chosen where the user names nothing: for no text, however small, may the choices contradict each other."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.config import GPT2Config
from model.training import defaults
from model.training.data.batches import WindowSampler, validation_batches
from model.training.data.shards import TokenShards
from model.training.defaults import (
    Speed,
    Validations,
    choose_recipe,
    compiling_pays,
    default_batch_size,
    default_context,
    default_sizes,
    default_validate_every,
    default_vocab_size,
    measured_speed,
    seconds_for_steps,
    steps_within,
)
from model.training.distributed import Processes
from model.training.recipe import Recipe

CPU = torch.device("cpu")


@settings(deadline=None)
@given(num_tokens=st.integers(50, 3000) | st.integers(3000, 10**9), cuda=st.booleans())
def test_the_sizes_fit_the_text(num_tokens, cuda):
    sizes = default_sizes(num_tokens, torch.device("cuda" if cuda else "cpu"), {})
    config = GPT2Config(vocab_size=512, eos_token_ids=(0,), **sizes)
    context, num_train = config.n_positions, num_tokens - num_tokens // 10
    assert 16 <= context <= 512
    assert num_train >= 2 * context + 1  # the least that is refused to nobody
    windows = default_batch_size(context, num_train)
    assert 1 <= windows <= max(1, 8192 // context)
    assert windows * context <= max(context, num_train / 50)
    assert steps_within(60, 1000, windows * context, num_train) >= 1


@pytest.mark.parametrize(
    ("num_bytes", "vocab_size", "num_tokens", "sizes"),
    [
        (10_000, 512, 5_000, (64, 64, 2, 1)),
        (100_000, 512, 50_000, (512, 64, 2, 1)),
        (1_000_000, 1024, 400_000, (512, 128, 4, 2)),
        (100_000_000, 8192, 25_000_000, (512, 256, 6, 4)),
    ],
)
def test_more_text_gets_a_larger_network(num_bytes, vocab_size, num_tokens, sizes):
    assert default_vocab_size(num_bytes) == vocab_size
    assert tuple(default_sizes(num_tokens, CPU, {}).values()) == sizes


@pytest.mark.parametrize("num_tokens", [34, 50, 100, 300])
def test_a_few_sentences_can_be_cut_into_windows(num_tokens):
    ids = np.zeros(num_tokens, dtype=np.uint16)
    context, border = default_context(num_tokens), num_tokens - num_tokens // 10
    WindowSampler([ids[:border]] if border > 32 else [ids], context, seed=0).batch(0, default_batch_size(context, border), context)
    assert list(validation_batches([ids[border:]], context, 256, 16))


def test_what_is_given_stays_and_the_rest_fits_it():
    assert default_sizes(10**6, CPU, {"n_positions": 32, "n_layer": 9})["n_positions"] == 32
    for n_embd, n_head in ((1, 1), (32, 1), (96, 1), (128, 2), (192, 3), (200, 2), (320, 5), (97, 1)):
        assert default_sizes(10**6, CPU, {"n_embd": n_embd})["n_head"] == n_head
    assert default_sizes(10**6, CPU, {"n_embd": 96, "n_head": 3})["n_head"] == 3


@pytest.mark.parametrize("num_parts", [1, 2, 3, 24])
def test_a_batch_can_be_shared_out(num_parts):
    for context, num_tokens in ((16, 100), (64, 5000), (512, 10**7)):
        assert default_batch_size(context, num_tokens, num_parts) % num_parts == 0


@pytest.mark.parametrize(
    ("given", "cooldown", "learning_rate"),
    [
        ({"batch_size": 64}, 0.4, 6e-3),
        ({"batch_size": 63}, None, 3e-3),  # of fewer than 4,096 tokens
        ({"batch_size": 63, "optimizer": "adamw"}, 0.4, 3e-3),
        ({"batch_size": 64, "cooldown": 1.0, "learning_rate": 1e-3}, 1.0, 1e-3),
    ],
)
def test_rates_stay_high_for_long_with_batches_that_are_large_enough(given, cooldown, learning_rate):
    ids = np.zeros(100_000, dtype=np.uint16)
    fixed = {"max_steps": 10, "bfloat16": False, "accumulation": 1, "compiled": False, **given}
    config = GPT2Config(vocab_size=5, n_positions=64, n_embd=4, n_layer=1, n_head=1, eos_token_ids=(0,))
    recipe = choose_recipe(fixed, None, config, TokenShards([ids], [ids], 1), CPU, Processes(), lambda line: None)
    assert (recipe.cooldown, recipe.learning_rate) == (cooldown, learning_rate)


def test_steps_fit_into_the_time_and_into_twenty_epochs():
    assert steps_within(60, 1000, 600, 10**6) == 100
    assert steps_within(60, 1000, 600, 1200) == 40
    assert steps_within(1, 1, 600, 1200) == 1


def test_validation_takes_a_small_part_of_a_run():
    assert default_validate_every(1000, 8192, 8192) == 50
    assert default_validate_every(8, 8192, 46_000) == 8
    assert default_validate_every(100, 8192, 131_072) == 32
    assert default_validate_every(1, 16, 1) == 1


def test_the_speed_is_that_of_all_processes_together(monkeypatch):
    config = GPT2Config(vocab_size=40, n_positions=16, n_embd=8, n_layer=1, n_head=1, eos_token_ids=(0,))
    sampler = WindowSampler([np.zeros(1000, dtype=np.uint16)], 16, seed=0)
    recipe = Recipe(max_steps=1, batch_size=12, accumulation=3)
    seconds = iter(range(1000))
    monkeypatch.setattr(defaults.time, "monotonic", lambda: float(next(seconds)))
    assert measured_speed(config, sampler, recipe, CPU, 1) == Speed(12 * 16, 1.0)
    assert measured_speed(config, sampler, recipe, CPU, 2) == Speed(12 * 16, 1.0)


class Clock:
    """Nobody waits: each step takes what its windows cost, and a little more or less."""

    def __init__(self, monkeypatch):
        self.now = 0.0
        monkeypatch.setattr("time.monotonic", lambda: self.now)

    def take(self, seconds):
        self.now += seconds


def test_minutes_are_filled_by_steps_of_all_lengths_and_by_validations(monkeypatch):
    """The speed used to be that of windows of the middle length, and validations nobody's time: two minutes took 75 seconds."""
    clock, seconds_of = Clock(monkeypatch), {4: 0.1, 8: 0.2, 16: 0.6}
    forward = defaults.NextTokenLoss.forward

    def timed(self, tokens, targets):
        clock.take(seconds_of[tokens.shape[1]])
        return forward(self, tokens, targets)

    monkeypatch.setattr(defaults.NextTokenLoss, "forward", timed)
    ids = np.zeros(100_000, dtype=np.uint16)
    config = GPT2Config(vocab_size=40, n_positions=16, n_embd=8, n_layer=1, n_head=1, eos_token_ids=(0,))
    given = {"bfloat16": False, "compiled": False}
    recipe = choose_recipe(given, 2, config, TokenShards([ids], [ids], 1), CPU, Processes(), lambda line: None)
    lengths = [recipe.window_length(step, 16) for step in range(recipe.max_steps)]
    steps = sum(seconds_of[length] for length in lengths)
    num_validations = -(-recipe.max_steps // recipe.validate_every)
    tokens_per_second = recipe.batch_size * 16 * len(lengths) / steps
    total = steps + num_validations * 256 * 16 / 3 / tokens_per_second
    assert 0.9 * 120 < total < 1.02 * 120


def test_minutes_that_are_added_are_those_of_the_longest_windows(monkeypatch):
    """A run's last windows make the whole of what is added, not the share that they had of the run."""
    clock, forward = Clock(monkeypatch), defaults.NextTokenLoss.forward

    def timed(self, tokens, targets):
        clock.take(0.5)
        return forward(self, tokens, targets)

    monkeypatch.setattr(defaults.NextTokenLoss, "forward", timed)
    ids = np.zeros(1000, dtype=np.uint16)
    config = GPT2Config(vocab_size=40, n_positions=16, n_embd=8, n_layer=1, n_head=1, eos_token_ids=(0,))
    recipe = Recipe(max_steps=10, batch_size=2, validate_every=1000)
    steps = defaults.steps_of_minutes(1, config, TokenShards([ids], [ids], 1), recipe, CPU, Processes(), lambda line: None)
    assert 70 < steps <= 120


def test_a_text_that_is_learned_by_heart_before_the_time_is_over_is_said(monkeypatch):
    lines = []
    monkeypatch.setattr(defaults, "measured_speed", lambda *of: Speed(1e6, 1))
    config = GPT2Config(vocab_size=40, n_positions=16, n_embd=8, n_layer=1, n_head=1, eos_token_ids=(0,))
    ids = np.zeros(10_000, dtype=np.uint16)
    given = {"bfloat16": False, "compiled": False}
    choose_recipe(given, 2, config, TokenShards([ids], [ids], 1), CPU, Processes(), lines.append)
    assert lines[-1] == "20 times through the text take less than 2 minutes; --steps names more"


def test_a_run_on_weighted_sets_ends_when_the_one_that_comes_round_most_often_is_learned_by_heart(monkeypatch):
    """A small set with a large weight was gone through a hundred times before all of the text was, as one, twenty times."""
    lines = []
    monkeypatch.setattr(defaults, "measured_speed", lambda *of: Speed(1e6, 1))
    config = GPT2Config(vocab_size=40, n_positions=16, n_embd=8, n_layer=1, n_head=1, eos_token_ids=(0,))
    large, small = np.zeros(9_000, dtype=np.uint16), np.zeros(1_000, dtype=np.uint16)
    shards = TokenShards([large, small], [large], 1, set_sizes=[1, 1], weights=[1, 1])
    given = {"bfloat16": False, "compiled": False}
    recipe = choose_recipe(given, 2, config, shards, CPU, Processes(), lines.append, ["large.txt", "small.txt"])
    assert recipe.max_steps * recipe.batch_size * 16 == pytest.approx(20 * 2_000, rel=0.01)
    assert lines[-1] == "20 times through small.txt take less than 2 minutes; --steps names more"


def test_a_measure_is_of_eight_steps_or_fewer_where_they_take_long(monkeypatch):
    clock = Clock(monkeypatch)
    for seconds, expected in ((0.1, 9), (2.0, 4), (100.0, 3)):
        steps = []
        first, mean = defaults.timed_steps(lambda: (steps.append(1), clock.take(seconds)), 5.0, CPU)  # noqa: B023 - called here
        assert (len(steps), first) == (expected, pytest.approx(seconds))
        assert mean == pytest.approx(seconds)


def test_compiling_pays_where_it_saves_more_than_it_takes():
    plain, compiled = Speed(1000, 1), Speed(1250, 30)
    assert compiling_pays(plain, compiled, num_tokens=500_000, num_lengths=3)  # saves 100 seconds, takes 90
    assert not compiling_pays(plain, compiled, num_tokens=400_000, num_lengths=3)
    assert not compiling_pays(plain, Speed(990, 0), num_tokens=10**9, num_lengths=3)


class Machine:
    """Measures as it is told to, and counts how often it had to compile."""

    def __init__(self, monkeypatch, bfloat16, plain, compiled):
        self.num_compilations = 0
        monkeypatch.setattr(defaults, "choose_bfloat16", lambda *of: bfloat16)
        monkeypatch.setattr("model.training.objective.can_compile", lambda device: True)

        def measured(config, sampler, recipe, device, num_processes):
            self.num_compilations += recipe.compiled
            return compiled if recipe.compiled else plain

        monkeypatch.setattr(defaults, "measured_speed", measured)

    def recipe(self, minutes=None, **given):
        config = GPT2Config(vocab_size=40, n_positions=16, n_embd=8, n_layer=1, n_head=1, eos_token_ids=(0,))
        ids = np.zeros(100_000, dtype=np.uint16)
        return choose_recipe(given, minutes, config, TokenShards([ids], [ids], 1), CPU, Processes(), lambda line: None)


SLOW, FAST = Speed(1000, 1), Speed(1200, 20)


def test_a_long_run_in_bfloat16_is_compiled_where_that_is_measured_to_pay(monkeypatch):
    assert Machine(monkeypatch, True, SLOW, FAST).recipe(minutes=15).compiled
    assert not Machine(monkeypatch, True, SLOW, Speed(1010, 20)).recipe(minutes=15).compiled


@pytest.mark.parametrize(
    ("bfloat16", "given"),
    [
        (False, {"minutes": 15}),  # float32 on a CPU, where it was never seen to pay
        (True, {"minutes": 4}),
        (True, {"max_steps": 100}),
        (True, {"minutes": 15, "compiled": False}),
    ],
)
def test_where_compiling_cannot_pay_it_is_not_even_tried(monkeypatch, bfloat16, given):
    machine = Machine(monkeypatch, bfloat16, SLOW, FAST)
    recipe = machine.recipe(**given)
    assert (recipe.compiled, recipe.bfloat16, machine.num_compilations) == (False, bfloat16, 0)


def test_what_is_given_is_neither_measured_nor_changed(monkeypatch):
    machine = Machine(monkeypatch, True, SLOW, FAST)
    recipe = machine.recipe(minutes=15, compiled=True, bfloat16=False)
    assert (recipe.compiled, recipe.bfloat16) == (True, False)
    batch_tokens = recipe.batch_size * 16
    validations = Validations(256 * 16, defaults.SAVING_SECONDS * 2000)
    left = seconds_for_steps(900 - 3 * FAST.first_seconds, FAST.tokens_per_second, batch_tokens, validations)
    assert recipe.max_steps == pytest.approx(steps_within(left, FAST.tokens_per_second, batch_tokens, 100_000), abs=1)
    assert 600 < left < 840
