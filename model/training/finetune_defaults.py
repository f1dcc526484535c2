"""Sensible choices for fine-tuning, where the user names none."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from model.config import GPT2Config
from model.gpt2 import GPT2
from model.training.defaults import DEFAULT_MINUTES
from model.training.distributed import Processes
from model.training.errors import TrainingError
from model.training.objective import NextTokenLoss, compiling_may_pay
from model.training.precision import choose_bfloat16
from model.training.recipe import Recipe
from model.training.shards import TokenShards
from model.training.trainer import DataSource

EPOCHS = 3
BATCH_TOKENS = 4096
STEPS_PER_EPOCH = 20  # at least, also with little data
VALIDATIONS = 12
PATIENCE = 3
COMPILING_PAYS_SECONDS = 600  # of a run without it: compiling takes up to a minute and saves a sixth of each step
MIN_WINDOW = 16
MIN_TRAIN_WINDOWS, MIN_VALIDATION_WINDOWS = 8, 2
MAX_VALIDATION_EXAMPLES = 1000
# Logits of one part of a batch: half a gigabyte as float32.
MAX_LOGITS = 1 << 27


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


def hold_out_every(num_examples: int, fraction: float | None) -> int:
    """Each how many-th example is held out; fraction None is 10 %, but no more than is worth measuring."""
    if num_examples < 2:
        raise TrainingError(f"{num_examples} of the examples fit; two at least are needed, one of them to be held out")
    every = max(10, num_examples // MAX_VALIDATION_EXAMPLES) if fraction is None else max(2, round(1 / fraction))
    return min(every, num_examples)


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
        "accumulation": _parts(max(1, batch_size // processes.num), material.tokens_per_row * config.vocab_size),
        "optimizer": "adamw",
        "learning_rate": default_learning_rate(config, lora),
        "weight_decay": 0.01,
        "windows": ((0.0, 1),),  # the network knows the whole context already
        "patience": PATIENCE,
    }
    recipe = Recipe(**(chosen | given))  # type: ignore[arg-type]
    recipe.check_shares(processes.num)
    if recipe.compiled and material.is_examples:
        raise TrainingError("examples make batches of many shapes, each of which would be compiled anew; leave out --compile")
    if "bfloat16" not in given:
        recipe = replace(recipe, bfloat16=choose_bfloat16(device, config.n_embd, processes, report))
    return recipe


def _parts(num_rows: int, logits_per_row: float) -> int:
    """The fewest equal parts of a process's rows whose logits fit."""
    fitting = (parts for parts in range(1, num_rows) if num_rows % parts == 0 and num_rows / parts * logits_per_row <= MAX_LOGITS)
    return next(fitting, num_rows)


def default_learning_rate(config: GPT2Config, lora: bool) -> float:
    """AdamW's: 1e-3 at a width of 320, falling with its cube to the customary 7e-5 at GPT-2's 768; ten times as much for LoRA.

    Measured on 120 KB of Shakespeare, 60 steps, 10 M parameters, validation loss 4.94 before: at 1e-4 4.09, 3e-4 3.84 (with
    a dropout of 0.1, 3.94), 1e-3 3.75; LoRA at 1e-3 4.21, 3e-3 4.01, 1e-2 3.88.
    """
    return (1e-2 if lora else 1e-3) * min(1.0, (320 / config.n_embd) ** 3)


def with_steps(
    recipe: Recipe, given: dict[str, object], material: Material, minutes: float | None, model: GPT2, data: DataSource
) -> Recipe:
    """The recipe with as many steps as EPOCHS need or, if that is less, as fit into the minutes at the speed measured here."""
    may_compile = compiling_may_pay(recipe.bfloat16, model.wte.weight.device)
    may_compile &= "compiled" not in given and not material.is_examples
    if may_compile or "max_steps" not in given:
        seconds = seconds_per_step(model, data, recipe)
    if "max_steps" not in given:
        steps = math.ceil(EPOCHS * material.num_rows / recipe.batch_size)
        affordable = int(60 * (minutes or DEFAULT_MINUTES) / seconds)
        recipe = replace(recipe, max_steps=max(1, min(steps, affordable)))
    if may_compile:
        recipe = replace(recipe, compiled=recipe.max_steps * seconds > COMPILING_PAYS_SECONDS)
    if "validate_every" not in given:
        recipe = replace(recipe, validate_every=max(1, recipe.max_steps // VALIDATIONS))
    return recipe


def seconds_per_step(model: GPT2, data: DataSource, recipe: Recipe) -> float:
    """The median of five real steps without the update, after one in which things are compiled and allocated."""
    loss = NextTokenLoss(model, recipe.bfloat16, recipe.compiled).train()
    device = model.wte.weight.device
    durations = []
    for step in range(6):
        begin = time.monotonic()
        for tokens, targets in data.batch(step).parts:
            loss(tokens.to(device), targets.to(device)).backward()
        if device.type == "cuda":
            torch.cuda.synchronize()
        durations.append(time.monotonic() - begin)
        model.zero_grad(set_to_none=True)
    return sorted(durations[1:])[2]
