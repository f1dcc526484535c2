"""Training the encoder-decoder on pairs of token ids, as published: batches by length, label smoothing, warm-up. Knows no text.

Vaswani et al. 2017, section 5. The loop trains any network for which a batch has a loss, so that others can be held against it.
"""

import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.training.errors import TrainingError
from model.training.trainer import Step
from model.transformer.config import TransformerConfig
from model.transformer.network import Transformer

Pair = tuple[Sequence[int], Sequence[int]]  # a source and its target, without bos_id and eos_id
POOL = 50  # batches whose pairs are put in order of length together; more would batch equal lengths alone, in fewer ways


@dataclass(frozen=True, slots=True)
class Recipe:
    """The numbers of section 5 that decide the result; its batches were 25,000 tokens of source and as many of target."""

    batch_tokens: int = 4096  # of source and target, with padding
    warmup_steps: int = 4000  # 0 and 1 are none: the highest rate is that of the first step
    rate_factor: float = 1.0  # on equation 3
    label_smoothing: float = 0.1
    betas: tuple[float, float] = (0.9, 0.98)
    epsilon: float = 1e-9
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse, as TrainingError, what no data could make right."""
        if self.batch_tokens < 1:
            raise TrainingError(f"batch_tokens is {self.batch_tokens}; it must be at least 1")
        if self.warmup_steps < 0:
            raise TrainingError(f"warmup_steps is {self.warmup_steps}; it must be at least 0")
        for name in ("rate_factor", "epsilon"):
            if not 0 < (value := getattr(self, name)) < math.inf:
                raise TrainingError(f"{name} is {value}; it must be finite and above 0")
        if not 0 <= self.label_smoothing < 1:
            raise TrainingError(f"label_smoothing is {self.label_smoothing}; it must be at least 0 and below 1")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise TrainingError(f"betas are {', '.join(map(str, self.betas))}; each must be at least 0 and below 1")

    def learning_rate(self, step: int, d_model: int) -> float:
        """d_model^-0.5 min(step^-0.5, step warmup_steps^-1.5) for steps from 1 on: section 5.3, equation 3."""
        rising = step * max(1, self.warmup_steps) ** -1.5  # of one step it is never the smaller
        return self.rate_factor * float(d_model**-0.5 * min(step**-0.5, rising))


@dataclass(frozen=True, slots=True)
class Batch:
    """Pairs as rectangles of token ids, filled up with pad_id."""

    source: Tensor  # (B, S), each row ends with eos_id
    target: Tensor  # (B, T), each row begins with bos_id and ends with eos_id

    @property
    def num_tokens(self) -> int:
        return self.source.numel() + self.target.numel()


def sources(rows: Sequence[Sequence[int]], config: TransformerConfig) -> Tensor:
    """Sources as the network takes them, (B, S): each ends with eos_id, so that there is none without a token."""
    return _rectangle([[*row, config.eos_id] for row in rows], config)


def to_batch(pairs: Sequence[Pair], config: TransformerConfig) -> Batch:
    targets = [[config.bos_id, *target, config.eos_id] for _, target in pairs]
    return Batch(sources([source for source, _ in pairs], config), _rectangle(targets, config))


def _rectangle(rows: list[list[int]], config: TransformerConfig) -> Tensor:
    longest = max(map(len, rows))
    return torch.tensor([row + [config.pad_id] * (longest - len(row)) for row in rows])


def batches(pairs: Sequence[Pair], config: TransformerConfig, recipe: Recipe) -> Iterator[Batch]:
    """Batches without end, each epoch in another order: pairs of about equal length together, section 5.1.

    Raises TrainingError where there is no pair, or one that is too long.
    """
    check_pairs(pairs, config)
    chance = random.Random(recipe.seed)
    while True:
        order = chance.sample(range(len(pairs)), len(pairs))
        groups = list(_groups(order, [_padded_size(pair) for pair in pairs], recipe.batch_tokens))
        chance.shuffle(groups)
        for group in groups:
            yield to_batch([pairs[i] for i in group], config)


def check_pairs(pairs: Sequence[Pair], config: TransformerConfig) -> None:
    """Raise TrainingError where there is no pair, or one that is longer than the network's positions."""
    if not pairs:
        raise TrainingError("there are no pairs to train on")
    longest = max(max(len(source) + 1, len(target) + 1) for source, target in pairs)
    if longest > config.max_positions:
        raise TrainingError(
            f"a pair has {longest} tokens on one side, its end counted; the model takes at most {config.max_positions}"
        )


def _padded_size(pair: Pair) -> int:
    """Of both sides, if every row of a batch were as long as this one."""
    return 2 * max(len(pair[0]) + 1, len(pair[1]) + 2)


def _groups(order: list[int], sizes: list[int], batch_tokens: int) -> Iterator[list[int]]:
    """The pairs of `order` in groups of at most `batch_tokens`, or of one pair: by length within what makes POOL batches."""
    pool = max(1, POOL * batch_tokens * len(order) // sum(sizes))
    for begin in range(0, len(order), pool):
        group: list[int] = []
        for i in sorted(order[begin : begin + pool], key=lambda i: sizes[i]):
            if group and sizes[i] * (len(group) + 1) > batch_tokens:  # sizes grow: the newest row is as long as any
                yield group
                group = []
            group.append(i)
        yield group


def smoothed_loss(logits: Tensor, targets: Tensor, pad_id: int, label_smoothing: float = 0.0) -> Tensor:
    """Mean over the targets (B, T) that are no padding of -sum_v q_v log p_v, q = (1 - e) at the target + e / V everywhere.

    Label smoothing, section 5.4, after Szegedy et al. 2016, section 7.
    """
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=pad_id, label_smoothing=label_smoothing)


def translation_loss(model: Transformer, label_smoothing: float) -> Callable[[Batch], Tensor]:
    """The loss of a batch: each token of the target from those before it and from the source."""

    def loss(batch: Batch) -> Tensor:
        logits = model(batch.source, batch.target[:, :-1])  # (B, T - 1, V)
        return smoothed_loss(logits, batch.target[:, 1:], model.config.pad_id, label_smoothing)

    return loss


def train(
    network: nn.Module, d_model: int, loss_of: Callable[[Batch], Tensor], data: Iterator[Batch], recipe: Recipe
) -> Iterator[Step]:
    """Step by step as often as asked, so that whoever asks may measure, save or stop in between; that time is not counted."""
    optimizer = torch.optim.Adam(network.parameters(), lr=0.0, betas=recipe.betas, eps=recipe.epsilon)
    for number, batch in enumerate(data, start=1):
        began = time.perf_counter()
        network.train()
        for group in optimizer.param_groups:
            group["lr"] = recipe.learning_rate(number, d_model)
        loss = loss_of(batch)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        network.eval()
        yield Step(number, loss.item(), batch.num_tokens, time.perf_counter() - began)


@torch.inference_mode()
def validation_loss(model: Transformer, pairs: Sequence[Pair], batch_size: int = 64) -> float:
    """Nats a token of the targets, eos_id included, without label smoothing."""
    model.eval()
    total, num_tokens = 0.0, 0
    for begin in range(0, len(pairs), batch_size):
        batch = to_batch(pairs[begin : begin + batch_size], model.config)
        count = int((batch.target[:, 1:] != model.config.pad_id).sum())
        total += translation_loss(model, 0.0)(batch).item() * count
        num_tokens += count
    return total / num_tokens
