"""What a checkpoint loses in a precision: a native step beside the same weights in float32, on a built-in text. No torch.

Real GPT-2 checkpoints have a few activations far larger than the rest, which eight bits may not bear: whether they do is measured
for the checkpoint at hand, and since kernels of one arithmetic give the same bits, with the same outcome on every machine.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from model.batch import Chunk, ForwardBatch, Scores
from model.config import GPT2Config
from model.native.library import Precision
from model.native.runner import NativeRunner
from model.tokenizer import PLAIN_TEXT, Tokenizer
from model.weights import Weight

# The beginning of Lewis Carroll's "Alice's Adventures in Wonderland" (1865), in the public domain.
SAMPLE = Path(__file__).parent / "sample.txt"
NUM_TOKENS = 256
# The last tokens come one by one, as in decoding. Of these and a few before, all logits are compared.
NUM_DECODED, NUM_LAST = 3, 8
# How much the perplexity on the sample may rise over float32's.
INT8_LIMIT = 1.01
# How far logits may lie from float32's, as a share of their standard deviation (root mean squares). Rounding stays well below;
# wrong arithmetic comes out near 1.4.
TOLERANCES = {Precision.INT8: 0.5, Precision.BFLOAT16: 0.1, Precision.FLOAT32: 0.001}


def reference_runner(config: GPT2Config, weights: Mapping[str, Weight], num_threads: int, kernels: str) -> NativeRunner:
    """Float32 with one slot, straight from the weights as they lie: what the others are held against."""
    return NativeRunner(config, weights, 1, Precision.FLOAT32, num_threads, kernels, is_streamed=True)


def sample_ids(tokenizer: Tokenizer, num_tokens: int) -> tuple[int, ...]:
    """The beginning of the sample."""
    return tuple(tokenizer.encode(SAMPLE.read_text(encoding="utf-8"), PLAIN_TEXT)[:num_tokens])


class Measured(NamedTuple):
    """What a runner says of token ids (T): the log-probability of each but the first (T - 1), and the last rows' logits (N, V).

    The first `num_prompt` of these rows were computed as part of a prompt, the others one by one.
    """

    logprobs: NDArray[np.float64]
    logits: NDArray[np.float32]
    num_prompt: int

    @property
    def is_finite(self) -> bool:
        return bool(np.isfinite(self.logits).all())


def score(runner: NativeRunner, token_ids: Sequence[int], num_decoded: int = NUM_DECODED) -> Measured:
    """Run each token once, in slot 0: most of the prompt, the rest of it, then the last tokens one by one."""
    num_tokens = len(token_ids)
    num_prompt = max(num_tokens - num_decoded, 1)
    first = max(num_tokens - NUM_LAST, 0)
    logprobs = [_scores(runner, token_ids[:first], token_ids[1 : first + 1])] if first else []
    logits = [_logits(runner, token_ids, first, num_prompt)]
    logits += [_logits(runner, token_ids, position, position + 1) for position in range(num_prompt, num_tokens)]
    rows = np.concatenate(logits)
    logprobs.append(_logprobs(rows[:-1], token_ids[first + 1 :]))
    return Measured(np.concatenate(logprobs), rows, num_prompt - first)


class Loss(NamedTuple):
    """`error` is the distance from float32 in standard deviations of its logits; perplexities are over float32's."""

    error: float
    perplexity_ratio: float

    def is_sane(self, precision: Precision) -> bool:
        return self.error <= TOLERANCES[precision]  # False for NaN too


def loss_of(scores: Measured, reference: Measured) -> Loss:
    with np.errstate(over="ignore", invalid="ignore"):  # a step that is wrong may give anything
        # Apart, lest a few decoded rows that are wrong be lost among the prompt's.
        prompt, decoded = np.split(np.square(scores.logits - reference.logits).mean(axis=-1), [scores.num_prompt])
        errors = [rows.mean() for rows in (prompt, decoded, np.square(scores.logprobs - reference.logprobs)) if len(rows)]
        error = float(np.sqrt(np.max(errors)) / reference.logits.std())  # NaN if any is
        rise = reference.logprobs.mean() - scores.logprobs.mean() if len(reference.logprobs) else 0.0
        return Loss(error, float(np.exp(rise)))


def _scores(runner: NativeRunner, token_ids: Sequence[int], next_ids: Sequence[int]) -> NDArray[np.float64]:
    """The log-probability of the token after each of a prompt's: (T,); NaN where the step computes no numbers."""
    batch = ForwardBatch((Chunk(0, 0, tuple(token_ids), scores=Scores(0, tuple(next_ids))),))
    (out,) = runner.launch(batch).collect().chunks
    return np.array([math.nan] * len(next_ids) if out.error else [score.logprob for score in out.scores])


def _logits(runner: NativeRunner, token_ids: Sequence[int], start: int, end: int) -> NDArray[np.float32]:
    return runner.logits(ForwardBatch((Chunk(0, start, tuple(token_ids[start:end])),)), range(end - start))


def _logprobs(logits: NDArray[np.float32], next_ids: Sequence[int]) -> NDArray[np.float64]:
    """Of the token after each row (N, V): (N,)."""
    shifted = (logits - logits.max(axis=-1, keepdims=True)).astype(np.float64)
    chosen = shifted[np.arange(len(shifted)), np.asarray(next_ids, dtype=np.intp)]
    result: NDArray[np.float64] = chosen - np.log(np.exp(shifted).sum(axis=-1))
    return result
