"""Every set of kernels gives the bits of the scalar ones, whatever the weights: NaN where those give NaN, infinity where those do.

float32, int8 and bfloat16-fma are promised so. What of bfloat16 one set alone has cannot be compared.
"""

import functools
import itertools
import math
import random

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from model.batch import Chunk, Draw, ForwardBatch, SamplingParams, TokenMask
from model.config import GPT2Config
from model.native.runner import NativeRunner
from model.network_files import weights_of
from model.weights import Weight
from tests.model.native.kinds import COMMON, KERNELS, Kind, missing, network
from tests.model.native.running import execute, sample, scored, token_bits, top_bits

SHAPES = {
    "tails": GPT2Config(vocab_size=131, n_positions=100, n_embd=75, n_layer=2, n_head=3, n_inner=110, eos_token_ids=(0,)),
    # 450 inputs of the last product are three panels in float32.
    "heads_of_64": GPT2Config(vocab_size=128, n_positions=100, n_embd=128, n_layer=1, n_head=2, n_inner=450, eos_token_ids=(0,)),
}
TAILS = SHAPES["tails"]
OTHERS = [kernels for kernels in KERNELS if kernels != "scalar"]


@pytest.fixture(params=COMMON)
def arithmetic(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(params=OTHERS)
def kernels(request: pytest.FixtureRequest, available: tuple[str, ...]) -> str:
    if reason := missing(Kind(request.param, "float32")):
        pytest.skip(reason)
    return request.param


def bits(values: NDArray[np.floating]) -> bytes:
    """Of NaN nothing but that it is one."""
    return np.where(np.isnan(values), np.nan, values).astype(values.dtype).tobytes()


def random_ids(seed: int, length: int, vocab_size: int) -> tuple[int, ...]:
    chance = random.Random(seed)
    return tuple(chance.randrange(vocab_size) for _ in range(length))


def steps(runner: NativeRunner, num_tokens: int) -> NDArray[np.float32]:
    """The logits of a prompt in two pieces of odd lengths beside another sequence, and of tokens one by one after it."""
    ids = random_ids(1, num_tokens, runner.vocab_size)
    cuts = [0, num_tokens // 3, num_tokens * 3 // 4, *range(num_tokens * 3 // 4 + 1, num_tokens + 1)]
    rows = []
    for start, end in itertools.pairwise(cuts):
        batch = ForwardBatch((Chunk(1, start, ids[start:end]), Chunk(0, start // 2, ids[end - 1 : end])))
        rows.append(runner.logits(batch, range(batch.num_tokens)))
    return np.concatenate(rows)


# ---- adversarial networks


def scaled(weights: dict[str, Weight], factor: float) -> dict[str, Weight]:
    return {name: w._replace(values=w.values * np.float32(factor)) for name, w in weights.items()}


def signs(config: GPT2Config) -> dict[str, Weight]:
    """Every weight plus or minus the same: all of its bytes are plus or minus 127."""
    chance = np.random.default_rng(0)
    shapes = config.parameter_shapes.items()
    values = {name: chance.choice(np.array([-0.5, 0.5], np.float32), shape) for name, shape in shapes}
    return {name: Weight(value, "F32", False) for name, value in values.items()}


def all_exponents(config: GPT2Config) -> dict[str, Weight]:
    """Any finite float, from denormals to the greatest, as likely as any other: much of what comes of them is NaN or infinite."""
    chance = np.random.default_rng(0)
    weights = {}
    for name, shape in config.parameter_shapes.items():
        exponents = chance.integers(0, 255, shape, np.uint32)
        words = exponents << 23 | chance.integers(0, 1 << 23, shape, np.uint32) | chance.integers(0, 2, shape, np.uint32) << 31
        weights[name] = Weight(words.view(np.float32), "F32", False)
    return weights


def with_outliers(config: GPT2Config, num: int) -> dict[str, Weight]:
    """Some inputs of every product of the first layer a thousand times as large as the others."""
    weights = {name: w._replace(values=w.values.copy()) for name, w in weights_of(network(config)).items()}
    chance = np.random.default_rng(num)
    for name, first, size in (
        ("ln_1.weight", 0, config.n_embd),
        ("ln_2.bias", 0, config.n_embd),
        ("attn.c_attn.bias", 2 * config.n_embd, config.n_embd),  # values
        ("mlp.c_fc.bias", 0, config.inner_size),
    ):
        weights["h.0." + name].values[first + chance.choice(size, num, replace=False)] += 1000
    return weights


def one_spoilt_row(config: GPT2Config, value: float) -> dict[str, Weight]:
    """Position 7 overflows on its way; those before it must not."""
    weights = {name: w._replace(values=w.values.copy()) for name, w in weights_of(network(config)).items()}
    weights["wpe.weight"].values[7, ::2] = value
    weights["wpe.weight"].values[7, 1::2] = -value
    return weights


NETWORKS = {
    "random": lambda config: weights_of(network(config)),
    "all_bytes_at_127": signs,
    "denormal": lambda config: scaled(weights_of(network(config)), 1e-39),
    "tiny": lambda config: scaled(weights_of(network(config)), 1e-20),
    "large": lambda config: scaled(weights_of(network(config)), 1e4),
    "overflowing": lambda config: scaled(weights_of(network(config)), 1e20),
    "all_exponents": all_exponents,
    "a_row_of_1e30": lambda config: one_spoilt_row(config, 1e30),
    "a_row_of_3e38": lambda config: one_spoilt_row(config, 3e38),
    **{f"{num}_outliers": functools.partial(with_outliers, num=num) for num in (1, 8, 9)},
}


@functools.cache
def scalar_steps(arithmetic: str, shape: str, weights: str) -> NDArray[np.float32]:
    return steps(Kind("scalar", arithmetic).runner(SHAPES[shape], NETWORKS[weights](SHAPES[shape]), num_slots=2), 40)


@pytest.mark.parametrize("weights", NETWORKS)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_step_gives_the_bits_of_the_scalar_kernels_whatever_the_weights(kernels, arithmetic, shape, weights):
    runner = Kind(kernels, arithmetic).runner(SHAPES[shape], NETWORKS[weights](SHAPES[shape]), num_slots=2, num_threads=2)
    assert bits(steps(runner, 40)) == bits(scalar_steps(arithmetic, shape, weights))


@pytest.mark.parametrize("weights", ["a_row_of_1e30", "a_row_of_3e38"])
def test_a_row_that_overflows_leaves_the_others_as_they_are(available, arithmetic, weights):
    ids = random_ids(2, 7, TAILS.vocab_size)
    for kernels in available:
        spoilt, sound = (Kind(kernels, arithmetic).runner(TAILS, NETWORKS[name](TAILS)) for name in (weights, "random"))
        rows = [runner.logits(ForwardBatch((Chunk(0, 0, (*ids, 1)),)), range(8)) for runner in (spoilt, sound)]
        assert bits(rows[0][:7]) == bits(rows[1][:7])
        assert bits(rows[0][7:]) != bits(rows[1][7:])


# ---- every remainder


def shape_with_remainder(i: int) -> GPT2Config:
    """A head's size, the widths and the vocabulary: each takes on every remainder of 64 as i goes from 1 to 64."""
    return GPT2Config(vocab_size=66 + 5 * i, n_positions=70, n_embd=3 * i, n_layer=1, n_head=3, n_inner=7 * i, eos_token_ids=(0,))


@pytest.mark.parametrize("first", range(1, 65, 8))
def test_every_remainder_of_the_widths_gives_the_bits_of_the_scalar_kernels(available, arithmetic, first):
    for i in range(first, first + 8):
        config = shape_with_remainder(i)
        weights, ids = weights_of(network.__wrapped__(config)), random_ids(i, 6, config.vocab_size)
        of_sets = {}
        for kernels in available:
            runner = Kind(kernels, arithmetic).runner(config, weights)
            prompt = runner.logits(ForwardBatch((Chunk(0, 0, ids[:5]),)), range(5))
            (out,) = execute(runner, scored(0, 5, ids[5:], [config.vocab_size - 1], top_n=3)).chunks
            of_sets[kernels] = bits(prompt) + repr(out.scores).encode()
        assert len(set(of_sets.values())) == 1, f"{config}: {[k for k in of_sets if of_sets[k] != of_sets['scalar']]}"


ROWS = [*range(1, 21), 47, 48, 49, 50, 97]


@functools.cache
def scalar_rows(arithmetic: str, shape: str) -> NDArray[np.float32]:
    runner = Kind("scalar", arithmetic).runner(SHAPES[shape], NETWORKS["8_outliers"](SHAPES[shape]))
    ids = random_ids(3, max(ROWS), runner.vocab_size)
    return runner.logits(ForwardBatch((Chunk(0, 0, ids),)), range(len(ids)))


@pytest.mark.parametrize("shape", SHAPES)
def test_any_number_of_rows_gives_the_bits_of_the_scalar_kernels(kernels, arithmetic, shape):
    runner, expected = (
        Kind(kernels, arithmetic).runner(SHAPES[shape], NETWORKS["8_outliers"](SHAPES[shape])),
        scalar_rows(arithmetic, shape),
    )
    ids = random_ids(3, max(ROWS), runner.vocab_size)
    for num_rows in ROWS:
        logits = runner.logits(ForwardBatch((Chunk(0, 0, ids[:num_rows]),)), range(num_rows))
        assert bits(logits) == bits(expected[:num_rows]), f"{num_rows} rows"


# ---- draws

V = 331
GENERATOR = torch.Generator().manual_seed(1)
ROWS_OF_LOGITS = {
    "gaussian": torch.randn(V, generator=GENERATOR) * 2,
    "flat": torch.zeros(V),
    "steep": torch.randn(V, generator=GENERATOR) * 50,
    "denormal": torch.randn(V, generator=GENERATOR) * 1e-39,
    "huge": torch.randn(V, generator=GENERATOR) * 1e37,
    "half_impossible": torch.where(torch.arange(V) % 2 == 0, torch.randn(V, generator=GENERATOR), -math.inf),
    "few_values": torch.randint(0, 3, (V,), generator=GENERATOR).float(),
    "a_nan": torch.cat([torch.randn(V - 1, generator=GENERATOR), torch.tensor([math.nan])]),
    "vocabulary_of_gpt2": torch.randn(50257, generator=GENERATOR) * 2,
}
WAYS = {
    "greedy_with_penalties": SamplingParams(repetition_penalty=1.3, frequency_penalty=0.2, presence_penalty=0.1),
    "plain": SamplingParams(1.0),
    "cold": SamplingParams(0.01),
    "hot": SamplingParams(1e6),
    "top_k": SamplingParams(1.0, top_k=37),
    "top_p": SamplingParams(1.0, top_p=0.9),
    "min_p": SamplingParams(1.0, min_p=0.05),
    "typical_p": SamplingParams(1.0, typical_p=0.7),
    "bias": SamplingParams(1.0, logit_bias=((0, 3.0), (9, -100.0))),
    "all": SamplingParams(0.8, 200, 0.9, 0.01, 0.95, 1.3, 0.2, 0.4, ((2, 1.0),)),
}


def draw(kernels: str, logits: torch.Tensor, params: SamplingParams) -> tuple[str | None, list[tuple[int, str]]]:
    mask = TokenMask.of(tuple(i for i in range(len(logits)) if i % 7), len(logits))
    out = sample(logits.numpy(), (1, 2, 3, 4, 4, 5), Draw(0, params, 3, (6,), mask=mask, top_n=4), kernels)
    return out.error, [bits for (token,) in out.tokens for bits in (token_bits(token), *top_bits(token))]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("logits", ROWS_OF_LOGITS)
def test_a_draw_gives_the_bits_of_the_scalar_kernels(kernels, logits, way):
    row = ROWS_OF_LOGITS[logits]
    for seed in range(2 if len(row) > V else 12):
        params = SamplingParams(**{name: getattr(WAYS[way], name) for name in WAYS[way].__slots__} | {"seed": seed})
        assert draw(kernels, row, params) == draw("scalar", row, params)


# ---- weights as they lie, and what the caller set


def stored(shape: str, dtype: torch.dtype, is_transposed: bool) -> dict[str, Weight]:
    """A network's weights as a checkpoint may hold them; float16 has denormals of its own among them."""
    names = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
    weights = {}
    for name, parameter in network(SHAPES[shape]).named_parameters():
        turned = is_transposed and ".c_" in name and parameter.ndim == 2
        values = (parameter.t() if turned else parameter).contiguous().to(dtype)
        values = values.view(torch.uint16) if dtype is torch.bfloat16 else values
        weights[name] = Weight(values.numpy(), names[dtype], turned)
    return weights


@pytest.mark.parametrize("is_transposed", [False, True], ids=["out_in", "in_out"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", SHAPES)
def test_weights_read_where_they_lie_give_the_bits_of_packed_ones(available, shape, dtype, is_transposed):
    weights = stored(shape, dtype, is_transposed)
    in_float32 = {name: Weight(w.to_float32(), "F32", w.is_transposed) for name, w in weights.items()}
    expected = bits(steps(Kind(available[0], "float32").runner(SHAPES[shape], in_float32, num_slots=2), 24))
    for kernels in available:
        for is_streamed in (False, True):
            runner = Kind(kernels, "float32").runner(SHAPES[shape], weights, 2, 1 + is_streamed, is_streamed)
            assert bits(steps(runner, 24)) == expected, f"{kernels}, {is_streamed=}"


@pytest.mark.parametrize("is_transposed", [False, True], ids=["out_in", "in_out"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_weights_of_two_bytes_give_the_bits_of_the_same_ones_in_float32(available, arithmetic, dtype, is_transposed):
    weights = stored("tails", dtype, is_transposed)
    in_float32 = {}
    for name, w in weights.items():
        values = w.to_float32().T if w.is_transposed else w.to_float32()
        in_float32[name] = Weight(np.ascontiguousarray(values), "F32", False)
    for kernels in available:
        given, expected = (Kind(kernels, arithmetic).runner(TAILS, w, num_slots=2) for w in (weights, in_float32))
        assert bits(steps(given, 8)) == bits(steps(expected, 8)), kernels


@pytest.mark.parametrize("weights", ["denormal", "tiny", "all_exponents"])
def test_a_caller_whose_thread_flushes_denormals_gets_the_same_bits(available, arithmetic, weights):
    for kernels in available:
        results = []
        for is_flushing in (False, True):
            if torch.set_flush_denormal(is_flushing) is False:
                pytest.skip("this CPU cannot flush denormals")
            try:
                runner = Kind(kernels, arithmetic).runner(TAILS, NETWORKS[weights](TAILS), num_slots=2, num_threads=2)
                results.append(bits(steps(runner, 8)))
            finally:
                torch.set_flush_denormal(False)
        assert results[0] == results[1], kernels
