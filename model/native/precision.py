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
    """What the plain network says of some token ids (T): its logits (T, V) in float32."""

    token_ids: tuple[int, ...]
    logits: NDArray[np.float32]

    @classmethod
    def of(cls, model: GPT2, tokenizer: Tokenizer, num_tokens: int = NUM_TOKENS) -> "Reference":
        token_ids = tokenizer.encode(SAMPLE.read_text(encoding="utf-8"))[: min(num_tokens, model.config.n_positions)]
        with torch.inference_mode():
            return cls(tuple(token_ids), model.eval()(torch.tensor([token_ids]))[0].numpy())


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
    starts = [0, *range(num_prompt, num_tokens), num_tokens]
    parts = []
    for start, end in itertools.pairwise(starts):
        chunk = Chunk(0, start, reference.token_ids[start:end], None)
        parts.append(runner.logits(ForwardBatch((chunk,)), range(end - start)))
    logits = np.concatenate(parts)
    # Apart, lest a few decoded rows that are wrong be lost among the prompt's.
    parts = [part for part in np.split(logits - reference.logits, [num_prompt]) if len(part)]
    error = max(np.sqrt(np.mean(part**2)) for part in parts) / reference.logits.std()
    rise = _loss(logits, reference.token_ids) - _loss(reference.logits, reference.token_ids)
    return Loss(float(error), float(np.exp(rise)))


def _loss(logits: NDArray[np.float32], token_ids: tuple[int, ...]) -> float:
    """The mean cross-entropy of each token given those before it, in nats; 0 for a single token."""
    if len(token_ids) < 2:
        return 0.0
    return float(torch.nn.functional.cross_entropy(torch.from_numpy(logits[:-1]), torch.tensor(token_ids[1:])))
