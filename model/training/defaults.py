"""Sensible sizes for the text and the machine, where the user names none."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from model.config import GPT2Config
from model.gpt2 import GPT2
from model.training.data.batches import WeightedSampler, WindowSampler, validation_batches, window_sampler
from model.training.data.shards import TokenShards
from model.training.data.weighted_sets import most_repeated
from model.training.distributed import Processes
from model.training.memory import PRETRAINING_PART_BYTES, num_parts
from model.training.objective import NextTokenLoss, compiling_may_pay
from model.training.optimizer import Optimizers
from model.training.precision import choose_bfloat16
from model.training.recipe import Recipe
from model.training.trainer import MAX_SAVING_SHARE

DEFAULT_MINUTES = 15.0
LARGE_BATCH_TOKENS = 4096
MEASURED_SECONDS = 5.0
VALIDATION_SPEED = 3  # times that of training: no gradients
SAVING_SECONDS = 5e-8  # a parameter, for the state and the model: 0.7 s for 14 M
MAX_EPOCHS = 20  # of any set of texts: beyond it a small model learns its text by heart rather than the language
# (tokens of text from which it pays, n_embd, n_layer, n_head), heads of 64. A megabyte gets the sizes with which nanoGPT trains
# tinyshakespeare on a CPU; far more text, a parameter of the blocks to about ten tokens.
CPU_SIZES = ((0, 64, 2, 1), (250_000, 128, 4, 2), (3_000_000, 192, 6, 3), (10_000_000, 256, 6, 4), (30_000_000, 320, 7, 5))
GPU_SIZES = (*CPU_SIZES[:4], (30_000_000, 512, 8, 8), (300_000_000, 768, 12, 12))
# A run shorter than this is over before compiling could have paid, so that it is not even tried: in minutes or, where the steps are
# given, in parameters times tokens.
TRY_COMPILING_MINUTES, TRY_COMPILING_WORK = 5.0, 10**13


def default_vocab_size(num_bytes: int) -> int:
    """A power of two from 512 to 8,192: one token to about 1,000 bytes of text, so that each is seen often enough."""
    return int(min(8192, max(512, 2 ** round(math.log2(max(1, num_bytes) / 1000)))))


def default_context(num_tokens: int) -> int:
    """512 tokens, fewer for little text: 64 windows at least."""
    return min(512, max(16, 1 << int(math.log2(max(1, num_tokens / 64)))))


def default_sizes(num_tokens: int, device: torch.device, given: dict[str, int]) -> dict[str, int]:
    """n_positions, n_embd, n_layer and n_head of the largest network that so much text can fill; what is given stays."""
    sizes = GPU_SIZES if device.type == "cuda" else CPU_SIZES
    _, n_embd, n_layer, n_head = next(size for size in reversed(sizes) if num_tokens >= size[0])
    if "n_embd" in given:  # heads of about 64 that divide it
        n_embd = given["n_embd"]
        n_head = next(heads for heads in range(max(1, n_embd // 64), 0, -1) if n_embd % heads == 0)
    sizes_chosen = {"n_positions": default_context(num_tokens), "n_embd": n_embd, "n_layer": n_layer, "n_head": n_head}
    return sizes_chosen | given


def default_batch_size(context: int, num_tokens: int, num_parts: int = 1) -> int:
    """Windows that make 8,192 tokens a step; for a small text fewer, so that an epoch has 50 steps. A multiple of the parts."""
    windows = min(8192, 1 << int(math.log2(max(context, num_tokens / 50)))) // context
    return num_parts * max(1, windows // num_parts)


def default_rates(optimizer: str, batch_tokens: int) -> dict[str, float]:
    """Fields of the recipe: rates that stay high for long, and with Muon higher ones of AdamW beside it, for batches large enough.

    Measured with batches of 768 and of 4,096 tokens ("What was tried" in docs/training.md): with the small ones Muon learned less
    by them, AdamW alone more.
    """
    if optimizer == "adamw":
        return {"cooldown": 0.4}
    return {"cooldown": 0.4, "learning_rate": 6e-3} if batch_tokens >= LARGE_BATCH_TOKENS else {}


def default_validate_every(max_steps: int, batch_tokens: int, held_out_tokens: int) -> int:
    """Twenty times a run, or less often where so much held-out text would take a sixth of its time: a token of it costs a third."""
    return max(1, max_steps // 20, min(max_steps, 2 * held_out_tokens // batch_tokens))


def steps_within(seconds: float, tokens_per_second: float, batch_tokens: int, tokens_per_epoch: int) -> int:
    """Steps that fit into the time, and into MAX_EPOCHS; of weighted sets an epoch is that of the most repeated."""
    return max(1, int(min(seconds * tokens_per_second, MAX_EPOCHS * tokens_per_epoch) / batch_tokens))


def seconds_for_steps(seconds: float, tokens_per_second: float, batch_tokens: int, validations: "Validations") -> float:
    """What of the time is left for steps beside the validations, with what is saved at each, and the saves between."""
    seconds = left = seconds * (1 - MAX_SAVING_SHARE)
    each = validations.num_tokens / VALIDATION_SPEED / tokens_per_second + validations.saving_seconds
    for _ in range(4):  # as fewer steps may have fewer validations
        num_steps = max(1, int(left * tokens_per_second / batch_tokens))
        every = validations.every or default_validate_every(num_steps, batch_tokens, validations.num_tokens)
        left = max(0.0, seconds - math.ceil(num_steps / every) * each)
    return left


@dataclass(frozen=True, slots=True)
class Validations:
    """What decides how long those of a run take; `every` None leaves their distance open."""

    num_tokens: int
    saving_seconds: float
    every: int | None = None


@dataclass(frozen=True, slots=True)
class Speed:
    """Of all processes together; `first_seconds` are those of the first step, with its compilation."""

    tokens_per_second: float
    first_seconds: float


def choose_recipe(
    given: dict[str, object],
    minutes: float | None,
    config: GPT2Config,
    shards: TokenShards,
    device: torch.device,
    processes: Processes,
    report: Callable[[str], None],
    names: Sequence[str] = (),
) -> Recipe:
    """What is given, and the rest for the text and the machine: as many steps as fit into the minutes at the speed measured here.

    `names` are those of the paths that the shards' weights are of, for what is told of one. Raises TrainingError where the context
    is too long for the text, or the processes cannot share the batch.
    """
    train_tokens, repeated = sum(map(len, shards.train)), most_repeated(shards, names)
    epoch_tokens = max(1, int(repeated.until_repeated))
    sampler = window_sampler(shards, config.n_positions, seed=0, names=names)  # both refuse a context that is too long
    next(validation_batches(shards.validation, config.n_positions, 1, 1))
    recipe = _step_of(given, config, train_tokens, device, processes, report)

    def measure(compiled: bool) -> Speed:
        what = "a compiled step, which takes a while at first" if compiled else "a training step"
        report(f"measuring the speed of {what} here")
        return measured_speed(config, sampler, replace(recipe, compiled=compiled), device, processes.num)

    seconds = None if "max_steps" in given else 60 * (DEFAULT_MINUTES if minutes is None else minutes)
    validations = _validations(recipe, config, shards, recipe.validate_every if "validate_every" in given else None)
    recipe = _with_steps(recipe, "compiled" in given, seconds, config, epoch_tokens, validations, device, measure)
    batch_tokens = recipe.batch_size * config.n_positions
    if minutes is not None and recipe.max_steps == steps_within(math.inf, 1, batch_tokens, epoch_tokens):
        report(f"{MAX_EPOCHS} times through {repeated.name} take less than {minutes:g} minutes; --steps names more")
    if "validate_every" not in given:
        recipe = replace(recipe, validate_every=default_validate_every(recipe.max_steps, batch_tokens, validations.num_tokens))
    return recipe


def _step_of(
    given: dict[str, object],
    config: GPT2Config,
    train_tokens: int,
    device: torch.device,
    processes: Processes,
    report: Callable[[str], None],
) -> Recipe:
    """What is given, and the rest of what makes up one step."""
    num_shares = processes.num * int(str(given.get("accumulation", 1)))
    chosen = {"max_steps": 1, "batch_size": default_batch_size(config.n_positions, train_tokens, num_shares)} | given
    recipe = Recipe(**chosen)  # type: ignore[arg-type]
    recipe = replace(recipe, **(default_rates(recipe.optimizer, recipe.batch_size * config.n_positions) | given))  # type: ignore[arg-type]
    recipe.check_shares(processes.num, " windows")
    if "bfloat16" not in given:
        recipe = replace(recipe, bfloat16=choose_bfloat16(device, config.n_embd, processes, report))
    if "accumulation" not in given and device.type == "cpu":
        share = recipe.batch_size // processes.num
        accumulation = num_parts(share, config.n_positions, config, recipe, device, PRETRAINING_PART_BYTES)
        recipe = replace(recipe, accumulation=accumulation)
    return recipe


def steps_of_minutes(
    minutes: float,
    config: GPT2Config,
    shards: TokenShards,
    recipe: Recipe,
    device: torch.device,
    processes: Processes,
    report: Callable[[str], None],
) -> int:
    """Steps of a run's recipe that fit into so many more minutes at the speed measured here."""
    report("measuring the speed of a training step here")
    sampler = window_sampler(shards, config.n_positions, seed=0)
    speed = measured_speed(config, sampler, replace(recipe, windows=((0.0, recipe.windows[-1][1]),)), device, processes.num)
    batch_tokens = recipe.batch_size * config.n_positions
    validations = _validations(recipe, config, shards, recipe.validate_every)
    seconds = seconds_for_steps(60 * minutes, speed.tokens_per_second, batch_tokens, validations)
    return max(1, int(seconds * speed.tokens_per_second / batch_tokens))


def _validations(recipe: Recipe, config: GPT2Config, shards: TokenShards, every: int | None) -> Validations:
    held_out = min(sum(map(len, shards.validation)), recipe.validation_windows * config.n_positions)
    return Validations(held_out, SAVING_SECONDS * config.num_parameters, every)


def _with_steps(
    recipe: Recipe,
    compiled_is_given: bool,
    seconds: float | None,
    config: GPT2Config,
    epoch_tokens: int,
    validations: Validations,
    device: torch.device,
    measure: Callable[[bool], Speed],
) -> Recipe:
    """The recipe with the steps that fit into `seconds`, or its own if that is None; compiled if that pays."""
    batch_tokens = recipe.batch_size * config.n_positions
    try_compiling = not compiled_is_given and compiling_may_pay(recipe.bfloat16, device)
    if seconds is None:
        try_compiling &= config.num_parameters * recipe.max_steps * batch_tokens >= TRY_COMPILING_WORK
    else:
        try_compiling &= seconds >= 60 * TRY_COMPILING_MINUTES
    if seconds is None and not try_compiling:
        return recipe
    speed = measure(recipe.compiled)

    def steps(speed: Speed, compiled: bool) -> int:
        if seconds is None:
            return recipe.max_steps
        compiling = len(recipe.windows) * speed.first_seconds if compiled else 0.0
        left = seconds_for_steps(seconds - compiling, speed.tokens_per_second, batch_tokens, validations)
        return steps_within(left, speed.tokens_per_second, batch_tokens, epoch_tokens)

    if not try_compiling:
        return replace(recipe, max_steps=steps(speed, recipe.compiled))
    compiled = measure(True)
    pays = compiling_pays(speed, compiled, steps(speed, compiled=False) * batch_tokens, len(recipe.windows))
    return replace(recipe, max_steps=steps(compiled if pays else speed, pays), compiled=pays)


def compiling_pays(plain: Speed, compiled: Speed, num_tokens: int, num_lengths: int) -> bool:
    """Whether what compiled steps save on so many tokens is more than the compilation takes, anew for each length of windows."""
    saved = num_tokens / plain.tokens_per_second - num_tokens / compiled.tokens_per_second
    return saved > num_lengths * compiled.first_seconds


def measured_speed(
    config: GPT2Config, sampler: WindowSampler | WeightedSampler, recipe: Recipe, device: torch.device, num_processes: int
) -> Speed:
    """Of all processes together, each making steps at once with the others, of a network that is then thrown away.

    It is the mean over a run, each length of windows for its share of the steps. Compiled steps are timed at the middle length
    alone, for each is compiled anew: the others are taken to gain as much.
    """
    model = GPT2(config, recipe.dropout).init_weights().to(device)
    optimizers, context = Optimizers(model, recipe), config.n_positions
    size = recipe.batch_size // (recipe.accumulation * num_processes)

    def timed(loss: NextTokenLoss, length: int, max_seconds: float) -> tuple[float, float]:
        def step() -> None:
            for part in range(recipe.accumulation):
                tokens, targets = sampler.batch(part * size, size, length)
                (loss(tokens.to(device), targets.to(device)) / targets.numel()).backward()
            optimizers.step(0.0)

        return timed_steps(step, max_seconds, device)

    shares, lengths = _windows_of_run(recipe, context)
    loss = NextTokenLoss(model, recipe.bfloat16, False, recipe.checkpoint_activations)
    times = {length: timed(loss, length, MEASURED_SECONDS / len(set(lengths))) for length in dict.fromkeys(lengths)}
    mean = sum(share * times[length][1] for share, length in zip(shares, lengths, strict=True))
    first_seconds = times[lengths[0]][0]
    if recipe.compiled:
        middle = lengths[len(lengths) // 2]
        first_seconds, seconds = timed(
            NextTokenLoss(model, recipe.bfloat16, True, recipe.checkpoint_activations), middle, MEASURED_SECONDS
        )
        mean *= seconds / times[middle][1]
    return Speed(recipe.batch_size * context / mean, first_seconds)


def _windows_of_run(recipe: Recipe, context: int) -> tuple[list[float], list[int]]:
    """The lengths of the windows in a run's order, behind the share of the steps that each has."""
    begins = [begin for begin, _ in recipe.windows]
    shares = [end - begin for begin, end in zip(begins, [*begins[1:], 1.0], strict=True)]
    long_run = replace(recipe, max_steps=1 << 20, first_step=0)
    return shares, [long_run.window_length(math.ceil(begin * (1 << 20)), context) for begin in begins]


def timed_steps(step: Callable[[], None], max_seconds: float, device: torch.device) -> tuple[float, float]:
    """The seconds of a first step, in which things are compiled and allocated, and the mean of those behind it.

    They are eight, or as many as fit into the time, two at least. Not the median: whatever else the machine does is to count too.
    """
    durations: list[float] = []
    while len(durations) < 3 or (len(durations) < 9 and sum(durations[1:]) < max_seconds):
        begin = time.monotonic()
        step()
        if device.type == "cuda":
            torch.cuda.synchronize()
        durations.append(time.monotonic() - begin)
    return durations[0], sum(durations[1:]) / len(durations[1:])
