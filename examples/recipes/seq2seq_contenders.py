"""The two networks that learn to translate, encoder-decoder and GPT-2, each with its loss and its greedy search; and their race."""

import itertools
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from common import share
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from model.config import GPT2Config
from model.gpt2 import GPT2
from model.transformer.config import TransformerConfig
from model.transformer.decoding import CachedAttention, greedy
from model.transformer.network import Transformer
from model.transformer.training import Batch, Pair, Recipe, batches, smoothed_loss, sources, train, translation_loss

MAX_TOKENS = 32  # of a sentence and its end; the longest that can be made has fewer
# For both. Rates are half the paper's, whose batches were larger; its 4,000 steps of warm-up would be all that there are here.
RECIPE = Recipe(batch_tokens=2048, warmup_steps=400, rate_factor=0.5)

Rows = Sequence[Sequence[int]]


@dataclass
class Contender:
    """A network from random weights, how it learns, how it translates, and its exact match after so many seconds."""

    name: str
    network: nn.Module
    loss: Callable[[Batch], Tensor]
    translate: Callable[[Rows], list[list[int]]]
    curve: list[tuple[float, float]] = field(default_factory=list)
    steps: int = 0

    @property
    def num_parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.network.parameters())


@dataclass(frozen=True, slots=True)
class Length:
    """How long to train: so many steps if given, else so many seconds of processor time; and how often to measure on the way."""

    seconds: float
    steps: int | None
    points: int

    def share_done(self, step: int, seconds: float) -> float:
        return step / self.steps if self.steps else seconds / self.seconds


def encoder_decoder(config: TransformerConfig) -> Contender:
    model = Transformer(config).init_weights(torch.Generator().manual_seed(0)).eval()
    loss = translation_loss(model, RECIPE.label_smoothing)
    return Contender("encoder-decoder", model, loss, lambda rows: greedy(model, sources(rows, config), MAX_TOKENS))


def decoder_only(config: TransformerConfig) -> Contender:
    """GPT-2 on source, end, begin, target, end: the same tokens, and the loss on the target alone.

    Of as many weights: of a layer's matrices GPT-2 has 12 width², as the encoder has, and the decoder 16, with its cross-attention.
    """
    num_layers = config.num_encoder_layers + config.num_decoder_layers * 16 // 12
    sizes = GPT2Config(config.vocab_size, 2 * MAX_TOKENS, config.d_model, num_layers, config.n_head, eos_token_ids=(config.eos_id,))
    model = GPT2(sizes).init_weights(torch.Generator().manual_seed(0)).eval()

    def loss(batch: Batch) -> Tensor:
        ids, asked = one_row_each(batch, config.pad_id)
        return smoothed_loss(model(ids[:, :-1]), asked[:, 1:], config.pad_id, RECIPE.label_smoothing)

    return Contender("GPT-2", model, loss, lambda rows: gpt2_greedy(model, rows, config))


def one_row_each(batch: Batch, pad_id: int) -> tuple[Tensor, Tensor]:
    """Source and target in one row (B, S + T), and of that the part that is learned: the target behind its first token."""
    ids, asked = [], []
    for source, target in zip(batch.source, batch.target, strict=True):
        source, target = source[source != pad_id], target[target != pad_id]
        ids.append(torch.cat((source, target)))
        asked.append(torch.cat((torch.full_like(source, pad_id), target.new_full((1,), pad_id), target[1:])))
    filled = (pad_sequence(rows, batch_first=True, padding_value=pad_id) for rows in (ids, asked))
    return next(filled), next(filled)


def gpt2_greedy(model: GPT2, rows: Rows, config: TransformerConfig) -> list[list[int]]:
    """As the encoder-decoder's; sources of one length together, so that a cache needs no mask."""
    found: dict[int, list[int]] = {}
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    for _, group in itertools.groupby(order, key=lambda i: len(rows[i])):
        members = list(group)
        prompts = torch.tensor([[*rows[i], config.eos_id, config.bos_id] for i in members])
        found |= zip(members, _continued(model, prompts, config.eos_id), strict=True)
    return [found[i] for i in range(len(rows))]


@torch.inference_mode()
def _continued(model: GPT2, prompts: Tensor, eos_id: int) -> Iterator[list[int]]:
    cache, ids, length, new = CachedAttention(), prompts, 0, prompts[:, :0]
    while new.shape[1] < MAX_TOKENS and not new.eq(eos_id).any(dim=1).all():
        positions = torch.arange(length, length + ids.shape[1])
        length += ids.shape[1]
        ids = model.lm_head(model.hidden_states(ids, positions, cache)[:, -1:]).argmax(dim=-1)  # (B, 1)
        new = torch.cat((new, ids), dim=1)
    return (row[: row.index(eos_id)] if eos_id in row else row for row in new.tolist())


def learn(contender: Contender, pairs: Sequence[Pair], tests: Sequence[Pair], config: TransformerConfig, length: Length) -> None:
    """Train as long as told; the curve is measured on the way, which takes none of the training's time.

    The time is the processor's, all threads together: the same whatever else runs on the machine.
    """
    seconds, point, began = 0.0, 1, time.process_time()
    for step in train(contender.network, config.d_model, contender.loss, batches(pairs, config, RECIPE), RECIPE):
        seconds, contender.steps = seconds + time.process_time() - began, step.number
        done = length.share_done(step.number, seconds)
        if done >= point / length.points:
            point += 1
            right = exact_match(contender.translate([source for source, _ in tests]), tests)
            contender.curve.append((round(seconds, 1), right))
            line = f"{contender.name}: step {step.number:,}, {seconds:.0f} s, loss {step.loss:.3f}, exact match {right:.1%}"
            print(line, file=sys.stderr, flush=True)
        if done >= 1:
            return
        began = time.process_time()


def exact_match(found: Rows, tests: Sequence[Pair]) -> float:
    return share([list(row) == list(target) for row, (_, target) in zip(found, tests, strict=True)])
