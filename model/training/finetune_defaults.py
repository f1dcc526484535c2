"""Sensible choices for fine-tuning, where the user names none."""

import copy
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from model.config import GPT2Config
from model.gpt2 import GPT2
from model.training.data.shards import TokenShards
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
from model.training.trainer import MAX_SAVING_SHARE, DataSource

EPOCHS = 3
BATCH_TOKENS = 4096
STEPS_PER_EPOCH = 20  # at least, also with little data
VALIDATIONS = 12
PATIENCE = 3
MIN_WINDOW = 16
MIN_TRAIN_WINDOWS, MIN_VALIDATION_WINDOWS = 8, 2
MAX_VALIDATION_EXAMPLES = 1000
NO_COMPILED_EXAMPLES = "examples make batches of many shapes, each of which would be compiled anew; leave out --compile"


@dataclass(frozen=True, slots=True)
class Material:
    """What an epoch goes through: windows of text, or examples."""

    num_rows: int
    tokens_per_row: float
    is_examples: bool

    def epochs(self, recipe: Recipe) -> float:
        return recipe.max_steps * recipe.batch_size / self.num_rows


def choose_window(shards: TokenShards, context: int) -> int:
    """The context or, if too few windows of it can be cut from the text, the largest divisor of it that leaves enough."""
    for window in (context // divisor for divisor in range(1, context + 1) if context % divisor == 0):
        train, validation = (sum((len(shard) - 1) // window for shard in split) for split in (shards.train, shards.validation))
        if train - len(shards.train) >= MIN_TRAIN_WINDOWS and validation >= MIN_VALIDATION_WINDOWS:
            return window
        if window <= MIN_WINDOW:
            break
    num_train, num_validation = (sum(map(len, split)) for split in (shards.train, shards.validation))
    raise TrainingError(
        f"the text has {num_train:,} tokens to train on and {num_validation:,} held out, too few even for windows of {window}: "
        f"{(MIN_TRAIN_WINDOWS + 1) * window} and {MIN_VALIDATION_WINDOWS * window + 1} are needed; more text helps"
    )


def num_held_out(num_examples: int, fraction: float | None) -> int:
    """Examples for validation, one at least; fraction None is 10 %, but no more than is worth measuring."""
    if num_examples < 2:
        raise TrainingError(f"{num_examples} of the examples fit; two at least are needed, one of them to be held out")
    wanted = min(num_examples // 10, MAX_VALIDATION_EXAMPLES) if fraction is None else round(num_examples * fraction)
    return min(max(1, wanted), num_examples - 1)


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
    rows = min(BATCH_TOKENS / material.tokens_per_row, material.num_rows / STEPS_PER_EPOCH)  # for each process
    parts = int(str(given.get("accumulation", 1)))
    batch_size = int(str(given.get("batch_size", processes.num * parts * (1 << int(math.log2(max(1, rows / parts)))))))
    chosen: dict[str, object] = {
        "max_steps": 1,
        "batch_size": batch_size,
        "optimizer": "adamw",
        "learning_rate": default_learning_rate(config, lora),
        "weight_decay": 0.01,
        "windows": ((0.0, 1),),  # the network knows the whole context already
        "patience": None if "max_steps" in given else PATIENCE,  # whoever names the steps is to have them
    }
    recipe = Recipe(**(chosen | given))  # type: ignore[arg-type]
    recipe.check_shares(processes.num)
    if recipe.compiled and material.is_examples:
        raise TrainingError(NO_COMPILED_EXAMPLES)
    if "bfloat16" not in given:
        recipe = replace(recipe, bfloat16=choose_bfloat16(device, config.n_embd, processes, report))
    if "accumulation" not in given:  # a batch of long examples may come to twice the average
        length = min(config.n_positions, 2 * material.tokens_per_row) if material.is_examples else material.tokens_per_row
        num_rows = max(1, batch_size // processes.num)
        recipe = replace(recipe, accumulation=num_parts(num_rows, length, config, recipe, device))
    return recipe


def default_learning_rate(config: GPT2Config, lora: bool) -> float:
    """AdamW's: 1e-3 at a width of 320, falling with its cube to the customary 7e-5 at GPT-2's 768; ten times as much for LoRA.

    Measured on 120 KB of Shakespeare, 60 steps, 10 M parameters, validation loss 4.94 before: at 1e-4 4.09, 3e-4 3.84 (with
    a dropout of 0.1, 3.94), 1e-3 3.75; LoRA at 1e-3 4.21, 3e-3 4.01, 1e-2 3.88.
    """
    return (1e-2 if lora else 1e-3) * min(1.0, (320 / config.n_embd) ** 3)


def preference_learning_rate(config: GPT2Config, lora: bool) -> float:
    """A tenth of what text takes: a preference is a wish, not a text to be known."""
    return default_learning_rate(config, lora) / 10


def with_steps(
    recipe: Recipe,
    given: dict[str, object],
    material: Material,
    minutes: float | None,
    model: GPT2,
    objective: Callable[[GPT2, Recipe], Objective],
    data: DataSource,
    validation_seconds: float,
    report: Callable[[str], None],
) -> Recipe:
    """As many steps as fit into the minutes at the speed measured here or, where none are given, as EPOCHS need if these are fewer.

    Compiled if it pays.
    """
    batch_tokens = recipe.batch_size * material.tokens_per_row

    def measure(compiled: bool) -> Speed:
        what = "a compiled step, which takes a while at first" if compiled else "a training step"
        report(f"measuring the speed of {what} here")
        how = replace(recipe, compiled=compiled)
        # Compiling puts other operations into the network; the one that is trained stays as it is.
        measured = objective(copy.deepcopy(model) if compiled else model, how)
        return measured_speed(measured, data, how, batch_tokens)

    def steps(speed: Speed) -> int:
        if "max_steps" in given:
            return recipe.max_steps
        affordable = steps_within(60 * (minutes or DEFAULT_MINUTES), batch_tokens / speed.tokens_per_second, validation_seconds)
        wanted = math.ceil(EPOCHS * material.num_rows / recipe.batch_size) if minutes is None else affordable
        return max(1, min(wanted, affordable))

    try_compiling = "compiled" not in given and not material.is_examples and _compiling_may_pay(recipe, model)
    if "max_steps" in given:
        try_compiling &= model.config.num_parameters * recipe.max_steps * batch_tokens >= TRY_COMPILING_WORK
    if try_compiling or "max_steps" not in given:
        speed = measure(recipe.compiled)
        if try_compiling:
            recipe, speed = _compiled_if_it_pays(recipe, speed, steps(speed) * batch_tokens, measure)
        recipe = replace(recipe, max_steps=steps(speed))
    if "validate_every" not in given:
        recipe = replace(recipe, validate_every=max(1, recipe.max_steps // VALIDATIONS))
    return recipe


def _compiled_if_it_pays(recipe: Recipe, plain: Speed, num_tokens: float, measure: Callable[[bool], Speed]) -> tuple[Recipe, Speed]:
    """What a long run of plain steps had better be, with its speed."""
    if num_tokens / plain.tokens_per_second < 60 * TRY_COMPILING_MINUTES:
        return recipe, plain
    compiled = measure(True)
    pays = compiling_pays(plain, compiled, int(num_tokens), num_lengths=1)
    return (replace(recipe, compiled=True), compiled) if pays else (recipe, plain)


def _compiling_may_pay(recipe: Recipe, model: GPT2) -> bool:
    return compiling_may_pay(recipe.bfloat16, model.wte.weight.device) and not recipe.checkpoint_activations


def steps_within(seconds: float, step_seconds: float, validation_seconds: float) -> int:
    """Steps that fit into the time together with the validations of a run, what is saved at each included."""
    return int(max(0.0, seconds * (1 - MAX_SAVING_SHARE) - VALIDATIONS * validation_seconds) / step_seconds)


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
