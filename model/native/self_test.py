"""Whether kernels compute what they should on this machine: held against the scalar ones on a tiny built-in network.

Kernels of one arithmetic give the same bits, so that one difference shows; those of another (bfloat16 has several) come near.
"""

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from model.batch import Chunk, ForwardBatch
from model.config import GPT2Config
from model.native.library import NativeUnavailable, Precision
from model.native.precision import TOLERANCES
from model.native.runner import NativeRunner
from model.weights import Weight

# Widths that neither 64 nor 16 divides, beside some that they do: vectors have a body and a tail.
CONFIG = GPT2Config(vocab_size=300, n_positions=64, n_embd=72, n_layer=2, n_head=3, n_inner=200, eos_token_ids=(0,))
# A prompt longer than the groups in which rows are multiplied, then tokens one by one.
PROMPT, TOKENS = tuple(range(7, 47)), (211, 5, 299)


class SelfTestFailed(NativeUnavailable):
    """The kernels compute something else than they should."""


def check_kernels(precision: Precision, num_threads: int, kernels: str) -> None:
    """Take some milliseconds; raises SelfTestFailed, naming the kernels."""
    weights = built_in_weights()
    runner = NativeRunner(CONFIG, weights, 1, precision, num_threads, kernels)
    oracle = NativeRunner(CONFIG, weights, 1, precision, 1, "scalar")
    if runner.kernels == oracle.kernels:
        return
    ours, theirs = (np.concatenate(list(_logits(r))) for r in (runner, oracle))
    if ours.tobytes() == theirs.tobytes() and np.isfinite(ours).all():
        return
    with np.errstate(over="ignore", invalid="ignore"):  # kernels that are wrong may give anything
        error = float(np.sqrt(np.square(ours - theirs).mean()) / theirs.std())
    if runner.arithmetic == oracle.arithmetic or not error <= TOLERANCES[precision]:
        raise SelfTestFailed(
            f"the self-test of the {runner.kernels} kernels in {precision.label} failed, {error:.3g} deviations from scalar ones"
        )


def built_in_weights() -> dict[str, Weight]:
    """Of CONFIG: the same bits wherever they are made, large enough that attention is far from uniform."""
    numbers = _numbers(CONFIG.num_parameters)
    weights, start = {}, 0
    for name, shape in CONFIG.parameter_shapes.items():
        values = numbers[start : start + math.prod(shape)].reshape(shape)
        start += values.size
        is_gain = ".ln_" in name or name.startswith("ln_")
        weights[name] = Weight(1 + values / 4 if is_gain and name.endswith("weight") else values / 4, "F32", is_transposed=False)
    return weights


def _logits(runner: NativeRunner) -> Iterator[NDArray[np.float32]]:
    yield runner.logits(ForwardBatch((Chunk(0, 0, PROMPT),)), range(len(PROMPT)))
    for position, token_id in enumerate(TOKENS, start=len(PROMPT)):
        yield runner.logits(ForwardBatch((Chunk(0, position, (token_id,)),)), [0])


def _numbers(count: int) -> NDArray[np.float32]:
    """Evenly over [-1, 1) in steps of 2^-23, exact in float32: SplitMix64 (Steele et al. 2014) of 0, 1, 2, ..."""
    x = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((x >> np.uint64(40)).astype(np.float32) - 2**23) / np.float32(2**23)
