"""A run that ends by the clock: as many steps as fit, at rates that have fallen to zero when it is time."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from model.config import GPT2Config
from model.gpt2 import GPT2
from model.training.data.shards import TokenShards
from model.training.data.windows import WindowData
from model.training.deadline import Deadline
from model.training.distributed import Processes
from model.training.recipe import Recipe
from model.training.trainer import Trainer

CONFIG = GPT2Config(vocab_size=257, n_positions=16, n_embd=16, n_layer=1, n_head=2, eos_token_ids=(256,))
RECIPE = Recipe(max_steps=1000, batch_size=2, warmup_steps=0, validate_every=1000, validation_windows=2)


@pytest.fixture
def clock(monkeypatch):
    """A clock that nobody waits for."""
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    return now


def test_the_share_of_the_time_counts_from_the_end_of_the_first_step(clock):
    deadline = Deadline(at=300.0)
    shares = []
    for clock[0] in (100.0, 199.0):
        shares.append(deadline.share)
    for clock[0] in (200.0, 225.0, 290.0, 300.0, 400.0):
        deadline.begin()
        shares.append(deadline.share)
    assert shares == pytest.approx([0, 0, 0, 0.25, 0.9, 1, 1])
    assert (deadline.has_passed, deadline.seconds_left) == (True, 0.0)


class Run:
    """Steps take so many seconds each; as its own observer it notes what is done when."""

    def __init__(self, clock, seconds, deadline, **recipe):
        self.clock, self.seconds, self.validated, self.factors = clock, iter(seconds), [], []
        ids = (np.arange(2000) % 250).astype(np.uint16)
        recipe = replace(RECIPE, **recipe)
        data = WindowData(TokenShards([ids], [ids[:100]], 2000), CONFIG.n_positions, recipe, Processes())
        model = GPT2(CONFIG).init_weights(torch.Generator().manual_seed(0))
        self.trainer = Trainer(model, data, recipe, self, deadline=deadline)
        update = self.trainer.optimizers.step
        self.trainer.optimizers.step = lambda factor: (self.factors.append(factor), update(factor), self.pass_time())

    def pass_time(self):
        self.clock[0] += next(self.seconds)

    def on_step(self, step): ...

    def on_validation(self, validation):
        self.validated.append(validation.step)

    def on_checkpoint(self): ...


def test_a_run_makes_the_steps_that_fit_and_its_rates_fall_to_zero_with_the_clock(clock):
    """However long the first one was compiled for, and however much slower the last ones are."""
    run = Run(clock, [60, *[1] * 100, *[2] * 1000], Deadline(at=100 + 60 + 200))
    assert run.trainer.run()
    assert run.trainer.progress.step == 1 + 100 + 50
    assert run.factors[0] == 1
    assert run.factors[101] == pytest.approx(0.5, abs=0.01)
    assert run.factors[-1] < 1e-3
    assert run.factors == sorted(run.factors, reverse=True)
    assert run.validated == [151]


def test_a_run_without_time_makes_one_step_and_is_measured(clock):
    run = Run(clock, [60, 1], Deadline(at=110))
    assert run.trainer.run()
    assert run.validated == [1]


def test_a_run_makes_no_more_than_its_steps(clock):
    run = Run(clock, [1] * 10, Deadline(at=1000), max_steps=3)
    assert run.trainer.run()
    assert run.validated == [3]
