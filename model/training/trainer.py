"""The training loop: AdamW with decay on matrices only, linear warm-up and cosine decay, gradient clipping."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn
from tqdm import tqdm

from model.gpt2 import GPT2
from model.training.data import WindowSampler


@dataclass(frozen=True, slots=True)
class Recipe:
    """What a run does; defaults follow GPT-2's (Radford et al. 2018, section 4.1: AdamW, warm-up, cosine, clipping at 1)."""

    max_seconds: float
    batch_tokens: int = 8192
    # Short windows first: attention costs less, and the first words are learned from a few neighbours (Press et al. 2021).
    windows: tuple[tuple[float, int], ...] = ((0.0, 128), (0.3, 256), (0.85, 512))
    learning_rate: float = 2e-3
    warmup: float = 0.02
    weight_decay: float = 0.1
    betas: tuple[float, float] = (0.9, 0.95)
    max_grad_norm: float = 1.0


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Matrices decay; biases and LayerNorms do not."""
    parameters = list(model.parameters())
    return [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]


class Trainer:
    """Trains until the recipe's time is up; the schedule follows elapsed time, so that the learning rate ends at zero."""

    def __init__(self, model: GPT2, data: WindowSampler, recipe: Recipe) -> None:
        self.model, self.data, self.recipe = model, data, recipe
        self.optimizer = torch.optim.AdamW(
            parameter_groups(model, recipe.weight_decay), lr=recipe.learning_rate, betas=recipe.betas, fused=True
        )
        self.tokens_seen = 0

    def run(self, on_progress: Callable[[float, float], None], save: Callable[[], None], save_seconds: float = 300) -> None:
        """Step until the time is up; `on_progress(fraction, loss)` each step, `save()` every `save_seconds` and at the end."""
        start = last_save = time.monotonic()
        with tqdm(total=100, unit="%", bar_format="{percentage:3.0f}%|{bar}| {remaining} left {postfix}") as bar:
            while (fraction := (time.monotonic() - start) / self.recipe.max_seconds) < 1:
                loss = self.step(fraction)
                on_progress(fraction, loss)
                bar.update(100 * fraction - bar.n)
                rate = self.tokens_seen / (time.monotonic() - start)
                bar.set_postfix_str(f"loss {loss:.3f}, {rate:,.0f} tokens/s")
                if time.monotonic() - last_save > save_seconds:
                    save()
                    last_save = time.monotonic()
        save()

    def step(self, fraction: float) -> float:
        """One optimiser step at this fraction of the run; returns the mean loss in nats a token."""
        window = next(length for begin, length in reversed(self.recipe.windows) if fraction >= begin)
        tokens, targets = self.data.batch(self.recipe.batch_tokens // window, window)
        for group in self.optimizer.param_groups:
            group["lr"] = self.recipe.learning_rate * self._schedule(fraction)
        device = self.model.wte.weight.device
        tokens, targets = tokens.to(device), targets.to(device)
        with torch.autocast(device.type, dtype=torch.bfloat16):
            logits = self.model(tokens)  # (B, T, V)
            loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten())
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.tokens_seen += tokens.numel()
        return loss.item()

    def _schedule(self, fraction: float) -> float:
        if fraction < self.recipe.warmup:
            return max(fraction / self.recipe.warmup, 1e-3)
        progress = (fraction - self.recipe.warmup) / (1 - self.recipe.warmup)
        return 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
