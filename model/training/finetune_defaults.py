"""Sensible choices for fine-tuning, where the user names none."""

import copy
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from model.config import GPT2Config
from model.gpt2 import GPT2
from model.training.data.source import DataSource
from model.training.defaults import (
    DEFAULT_MINUTES,
    MEASURED_SECONDS,
    TRY_COMPILING_MINUTES,
    TRY_COMPILING_WORK,
    Speed,
    compiling_pays,
    timed_steps,
)
from model.training.distributed import Processes
from model.training.errors import TrainingError
from model.training.memory import num_parts
from model.training.objective import Objective, compiling_may_pay
from model.training.precision import choose_bfloat16
from model.training.recipe import Recipe
from model.training.segments import VALIDATIONS as MORE_VALIDATIONS
from model.training.tasks.task import Material
from model.training.trainer import MAX_SAVING_SHARE

EPOCHS = 3
BATCH_TOKENS = 4096
STEPS_PER_EPOCH = 20  # at least, also with little data
VALIDATIONS = 12
PATIENCE = 3
NO_COMPILED_EXAMPLES = "examples make batches of many shapes, each of which would be compiled anew; leave out --compile"


def choose_recipe(
    given: dict[str, object],
    config: GPT2Config,
    material: Material,
    lora: bool,
    device: torch.device,
    processes: Processes,
    report: Callable[[str], None],
) -> Recipe:
    """All but the number of steps, which needs the speed."""
    chosen: dict[str, object] = {
        "max_steps": 1,
        "batch_size": default_batch_size(material, processes.num, int(str(given.get("accumulation", 1)))),
        "optimizer": "adamw",
        "learning_rate": default_learning_rate(config, lora),
        "weight_decay": 0.01,
        "windows": ((0.0, 1),),  # the network knows the whole context already
        "patience": None if "max_steps" in given else PATIENCE,  # whoever names the steps is to have them
    }
    recipe = Recipe(**(chosen | given))  # type: ignore[arg-type]
    recipe.check_shares(processes.num)
    if recipe.compiled and not material.is_text:
        raise TrainingError(NO_COMPILED_EXAMPLES)
    if "bfloat16" not in given:
        recipe = replace(recipe, bfloat16=choose_bfloat16(device, config.n_embd, processes, report))
    if "accumulation" not in given:
        num_rows = max(1, recipe.batch_size // processes.num)
        recipe = replace(recipe, accumulation=num_parts(num_rows, _longest(material, config), config, recipe, device))
    return recipe


def default_batch_size(material: Material, num_processes: int, num_parts: int) -> int:
    """Rows that make BATCH_TOKENS, or fewer where an epoch would have too few steps; a power of two for each part."""
    rows = min(BATCH_TOKENS / material.tokens_per_row, material.num_rows / STEPS_PER_EPOCH)  # for each process
    return num_processes * num_parts * (1 << int(math.log2(max(1, rows / num_parts))))


def _longest(material: Material, config: GPT2Config) -> float:
    """Tokens of the rows of a batch that is planned for: one of long examples may come to twice the average."""
    if material.is_text:
        return material.tokens_per_row
    return min(material.sequences_per_row * config.n_positions, 2 * material.tokens_per_row)


def default_learning_rate(config: GPT2Config, lora: bool) -> float:
    """AdamW's: 1e-3 at a width of 320, falling with its cube to the customary 7e-5 at GPT-2's 768; ten times as much for LoRA.

    Measured on 120 KB of Shakespeare, 60 steps, 10 M parameters, validation loss 4.94 before: at 1e-4 4.09, 3e-4 3.84 (with
    a dropout of 0.1, 3.94), 1e-3 3.75; LoRA at 1e-3 4.21, 3e-3 4.01, 1e-2 3.88.
    """
    return (1e-2 if lora else 1e-3) * min(1.0, (320 / config.n_embd) ** 3)


def preference_learning_rate(config: GPT2Config, lora: bool) -> float:
    """A tenth of what text takes: a preference is a wish, not a text to be known."""
    return default_learning_rate(config, lora) / 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """What is timed before a run: the network as it is, what it is to minimise, and its data."""

    model: GPT2
    objective: Callable[[GPT2, Recipe], Objective]
    data: DataSource
    batch_tokens: float  # of a step of all processes
    validation_seconds: float
    report: Callable[[str], None]

    def speed(self, recipe: Recipe) -> Speed:
        what = "a compiled step, which takes a while at first" if recipe.compiled else "a training step"
        self.report(f"measuring the speed of {what} here")
        # Compiling puts other operations into the network; the one that is trained stays as it is.
        objective = self.objective(copy.deepcopy(self.model) if recipe.compiled else self.model, recipe)
        return measured_speed(objective, self.data, recipe, self.batch_tokens)


def with_steps(recipe: Recipe, given: dict[str, object], material: Material, minutes: float | None, trial: Trial) -> Recipe:
    """As many steps as fit into the minutes at the speed measured here or, where none are given, as EPOCHS need if these are fewer.

    Compiled if it pays.
    """

    def steps(speed: Speed) -> int:
        if "max_steps" in given:
            return recipe.max_steps
        seconds, step_seconds = 60 * (minutes or DEFAULT_MINUTES), trial.batch_tokens / speed.tokens_per_second
        affordable = steps_within(seconds, step_seconds, VALIDATIONS * trial.validation_seconds)
        wanted = math.ceil(EPOCHS * material.epoch_rows / recipe.batch_size) if minutes is None else affordable
        return max(1, min(wanted, affordable))

    tries_compiling = _tries_compiling(recipe, given, material, trial)
    if tries_compiling or "max_steps" not in given:
        speed = trial.speed(recipe)
        if tries_compiling:
            recipe, speed = _compiled_if_it_pays(recipe, speed, steps(speed) * trial.batch_tokens, trial)
        recipe = replace(recipe, max_steps=steps(speed))
    if "validate_every" not in given:
        recipe = replace(recipe, validate_every=max(1, recipe.max_steps // VALIDATIONS))
    return recipe


def more_steps(minutes: float, recipe: Recipe, validations_are_named: bool, trial: Trial) -> int:
    """Steps of a run that goes on for so many minutes more, at the speed measured here; `recipe` is that from here on."""
    seconds, step_seconds = 60 * minutes, trial.batch_tokens / trial.speed(recipe).tokens_per_second
    steps = steps_within(seconds, step_seconds + trial.validation_seconds / recipe.validate_every, 0.0)
    if not validations_are_named:  # there are so many at most
        steps = max(steps, steps_within(seconds, step_seconds, MORE_VALIDATIONS * trial.validation_seconds))
    return max(1, steps)


def _tries_compiling(recipe: Recipe, given: dict[str, object], material: Material, trial: Trial) -> bool:
    if "compiled" in given or not material.is_text or recipe.checkpoint_activations:
        return False
    if not compiling_may_pay(recipe.bfloat16, trial.model.wte.weight.device):
        return False
    work = trial.model.config.num_parameters * recipe.max_steps * trial.batch_tokens
    return "max_steps" not in given or work >= TRY_COMPILING_WORK


def _compiled_if_it_pays(recipe: Recipe, plain: Speed, num_tokens: float, trial: Trial) -> tuple[Recipe, Speed]:
    """What a long run of plain steps had better be, with its speed."""
    if num_tokens / plain.tokens_per_second < 60 * TRY_COMPILING_MINUTES:
        return recipe, plain
    compiled = trial.speed(replace(recipe, compiled=True))
    pays = compiling_pays(plain, compiled, int(num_tokens), num_lengths=1)
    return (replace(recipe, compiled=True), compiled) if pays else (recipe, plain)


def steps_within(seconds: float, step_seconds: float, validation_seconds: float) -> int:
    """Steps that fit into the time together with all validations of a run, what is saved between them included."""
    return int(max(0.0, seconds * (1 - MAX_SAVING_SHARE) - validation_seconds) / step_seconds)


def measured_speed(objective: Objective, data: DataSource, recipe: Recipe, batch_tokens: float) -> Speed:
    """Of all processes together, by some parts of real steps, without the update; the network stays as it is.

    The steps are those from the first of the schedule on, for there are no lengths of windows before it.
    """
    objective.train()
    parts = (part for step in itertools.count(recipe.first_step) for part in data.batch(step).parts)

    def step() -> None:
        objective(*(tensor.to(objective.device) for tensor in next(parts))).backward()
        objective.zero_grad(set_to_none=True)

    first_seconds, mean = timed_steps(step, MEASURED_SECONDS, objective.device)
    return Speed(batch_tokens / recipe.accumulation / mean, first_seconds)
