"""Sensible sizes for the text and the machine, where the user names none."""

import math
import time
from dataclasses import replace

import torch

from model.config import GPT2Config
from model.gpt2 import GPT2
from model.training.batches import Sampler
from model.training.objective import NextTokenLoss
from model.training.optimizer import Optimizers
from model.training.recipe import Recipe

DEFAULT_MINUTES = 15.0
MAX_EPOCHS = 20  # beyond it a small model learns its text by heart rather than the language
# (tokens of text from which it pays, n_embd, n_layer, n_head), heads of 64. A megabyte gets the sizes with which nanoGPT trains
# tinyshakespeare on a CPU; far more text, a parameter of the blocks to about ten tokens.
CPU_SIZES = ((0, 64, 2, 1), (250_000, 128, 4, 2), (3_000_000, 192, 6, 3), (10_000_000, 256, 6, 4), (30_000_000, 320, 7, 5))
GPU_SIZES = (*CPU_SIZES[:4], (30_000_000, 512, 8, 8), (300_000_000, 768, 12, 12))


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


def default_validate_every(max_steps: int, batch_tokens: int, held_out_tokens: int) -> int:
    """Twenty times a run, or less often where so much held-out text would take a sixth of its time: a token of it costs a third."""
    return max(1, max_steps // 20, min(max_steps, 2 * held_out_tokens // batch_tokens))


def steps_within(seconds: float, tokens_per_second: float, batch_tokens: int, tokens_per_epoch: int) -> int:
    """Steps that fit into the time, and into MAX_EPOCHS."""
    return max(1, int(min(seconds * tokens_per_second, MAX_EPOCHS * tokens_per_epoch) / batch_tokens))


def measured_tokens_per_second(
    config: GPT2Config, sampler: Sampler, recipe: Recipe, device: torch.device, num_processes: int
) -> float:
    """Of all processes together, each making five steps at once with the others, of a network that is then thrown away.

    The first step, with its compilation, does not count; the windows are those of the middle of a run.
    """
    model = GPT2(config, recipe.dropout).init_weights().to(device)
    loss, optimizers = NextTokenLoss(model, recipe.bfloat16, recipe.compiled), Optimizers(model, recipe)
    length = replace(recipe, max_steps=2).window_length(1, config.n_positions)
    tokens, targets = sampler.batch(0, recipe.batch_size // (recipe.accumulation * num_processes), length)
    rates = []
    for _ in range(5):
        begin = time.monotonic()
        for _ in range(recipe.accumulation):
            (loss(tokens.to(device), targets.to(device)) / targets.numel()).backward()
        optimizers.step(0.0)
        if device.type == "cuda":
            torch.cuda.synchronize()
        rates.append(num_processes * recipe.accumulation * tokens.numel() / (time.monotonic() - begin))
    return sorted(rates[1:])[1]
