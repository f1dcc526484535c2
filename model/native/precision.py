"""What a checkpoint loses in each precision: the native step against the plain network in float32, on a built-in text.

Real GPT-2 checkpoints have a few activations far larger than the rest, which eight bits may not bear: whether they do is measured
for the checkpoint at hand.
"""

import itertools
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from model.batch import Chunk, ForwardBatch
from model.gpt2 import GPT2
from model.native.library import Precision
from model.native.runner import NativeRunner
from model.tokenizer import Tokenizer

# The beginning of Lewis Carroll's "Alice's Adventures in Wonderland" (1865), in the public domain.
SAMPLE = Path(__file__).parent / "sample.txt"
NUM_TOKENS = 256
NUM_DECODED = 3
# How much the perplexity on the sample may rise over float32's; PyTorch's and our own float32 differ by rounding alone.
LIMITS = {Precision.INT8: 1.01, Precision.BFLOAT16: 1.002}
# How far logits may lie from the plain network's, as a share of their standard deviation (root mean squares). Rounding stays
# well below; wrong arithmetic comes out near 1.4.
TOLERANCES = {Precision.INT8: 0.5, Precision.BFLOAT16: 0.1, Precision.FLOAT32: 0.001}


class Reference(NamedTuple):
    """What the plain network says of some token ids (T): its logits (T, V) in float32, their standard deviation, its mean loss."""

    token_ids: tuple[int, ...]
    logits: NDArray[np.float32]
    deviation: float
    loss: float

    @classmethod
    def of(cls, model: GPT2, tokenizer: Tokenizer, num_tokens: int = NUM_TOKENS) -> "Reference":
        token_ids = tuple(tokenizer.encode(SAMPLE.read_text(encoding="utf-8"))[: min(num_tokens, model.config.n_positions)])
        with torch.inference_mode():
            logits = model.eval()(torch.tensor([token_ids]))[0]
            return cls(token_ids, logits.numpy(), float(logits.std(correction=0)), _mean([_losses(logits, token_ids[1:])]))


class Loss(NamedTuple):
    """`error` is the logits' distance from the reference in its standard deviations; perplexities are over float32's."""

    error: float
    perplexity_ratio: float

    def is_sane(self, precision: Precision) -> bool:
        return self.error <= TOLERANCES[precision]  # False for NaN too

    def is_within_limit(self, precision: Precision) -> bool:
        return precision not in LIMITS or self.perplexity_ratio <= LIMITS[precision]


def measure_loss(runner: NativeRunner, reference: Reference) -> Loss:
    """Run the sample in slot 0: as a prompt but for the last tokens, which come one by one as in decoding."""
    num_tokens = len(reference.token_ids)
    num_prompt = max(num_tokens - NUM_DECODED, 1)
    errors, losses = [], []
    for start, end in itertools.pairwise([0, *range(num_prompt, num_tokens), num_tokens]):
        chunk = Chunk(0, start, reference.token_ids[start:end], None)
        logits = torch.from_numpy(runner.logits(ForwardBatch((chunk,)), range(end - start)))
        errors.append(_squared_errors(logits, torch.from_numpy(reference.logits[start:end])))
        losses.append(_losses(logits, reference.token_ids[start + 1 : end + 1]))
    # Apart, lest a few decoded rows that are wrong be lost among the prompt's.
    prompt, decoded = errors[0], torch.cat(errors[1:]) if errors[1:] else errors[0]
    error = torch.stack([prompt.mean(), decoded.mean()]).sqrt().max().item() / reference.deviation  # NaN if either is
    return Loss(error, float(np.exp(_mean(losses) - reference.loss)))


ROWS_AT_ONCE = 16  # of logits: what is made of them stays in the cache, where all at once would take half a second to allocate


def _squared_errors(logits: torch.Tensor, expected: torch.Tensor) -> torch.Tensor:
    """The mean over each row of (T, V)."""
    pairs = zip(torch.split(logits, ROWS_AT_ONCE), torch.split(expected, ROWS_AT_ONCE), strict=True)
    return torch.cat([(ours - theirs).square().mean(dim=-1) for ours, theirs in pairs])


def _losses(logits: torch.Tensor, next_ids: tuple[int, ...]) -> torch.Tensor:
    """The cross-entropy of each token given those before it, in nats; the sample's last row has none."""
    targets = torch.tensor(next_ids, dtype=torch.int64)
    pairs = zip(torch.split(logits[: len(targets)], ROWS_AT_ONCE), torch.split(targets, ROWS_AT_ONCE), strict=True)
    return torch.cat([torch.nn.functional.cross_entropy(x, y, reduction="none") for x, y in pairs])


def _mean(losses: list[torch.Tensor]) -> float:
    """0 for a sample of a single token."""
    all_losses = torch.cat(losses)
    return float(all_losses.mean()) if len(all_losses) else 0.0
