"""The native sampler draws what the plain one draws: from the same tokens, with the same probabilities.

A token drawn at a uniform u is right if u lies in its interval of the cumulative distribution that PyTorch computes in float64, or
within 1e-6 of it: the native one weighs tokens in float32.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from model import filters, philox
from model.batch import NOT_FINITE, NOTHING_TO_DRAW, Chunk, ChunkOutput, Draw, ForwardBatch, SampledToken, SamplingParams, TokenMask
from model.native.library import available_kernels
from model.native.packing import PackedBatch
from tests.model.native.running import UNIFORM, packed_draw, sample

V = 500
GPT2_V = 50_257
CLOSE = 1e-6
LAST_UNIFORM = 1 - 2**-53

pytestmark = pytest.mark.usefixtures("available")


def gaussian(seed: int, size: int = V, spread: float = 2.0) -> torch.Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed)) * spread


class Asked(NamedTuple):
    """How a row is drawn from, and the tokens before it."""

    params: SamplingParams
    prompt_ids: tuple[int, ...] = ()
    generated_ids: tuple[int, ...] = ()
    banned_ids: tuple[int, ...] = ()
    allowed_ids: tuple[int, ...] | None = None

    def draw(self, vocab_size: int) -> Draw:
        mask = None
        if self.allowed_ids is not None:
            mask = TokenMask.of(tuple(i for i in self.allowed_ids if i < vocab_size), vocab_size)
        return Draw(0, self.params, len(self.prompt_ids), self.banned_ids, mask=mask)


class NativeSampler:
    """One row of logits and what is asked of it, to be drawn from at any uniform."""

    def __init__(self, logits: torch.Tensor, asked: Asked) -> None:
        # NaN stands around the row: nothing beyond it may count.
        self.padded = np.full(len(logits) + 128, np.nan, np.float32)
        self.row = self.padded[64 : 64 + len(logits)]
        self.row[:] = logits.numpy()
        self.history, self.asked = asked.prompt_ids + asked.generated_ids, asked.draw(len(logits))

    def draw(self, uniform: float | None = None) -> SampledToken:
        """At a uniform, or at that of the draw's own seed and position."""
        out = self._output(uniform)
        assert out.error is None
        ((token,),) = out.tokens
        return token

    def error(self, uniform: float | None = None) -> str | None:
        return self._output(uniform).error

    def _output(self, uniform: float | None) -> ChunkOutput:
        """That of every set of kernels, and of the fastest."""
        outputs = [sample(self.row, self.history, self.asked, kernels, uniform) for kernels in (None, *available_kernels())]
        assert len(set(map(repr, outputs))) == 1
        return outputs[0]


def adjusted(logits: torch.Tensor, asked: Asked) -> torch.Tensor:
    """Bias, penalties of what came before, then what may not be drawn: token by token, as plainly as it can be said."""
    p, row = asked.params, logits.clone()
    for token_id, value in p.logit_bias:
        row[token_id] += value
    for token_id in {*asked.prompt_ids, *asked.generated_ids} if p.penalises else ():
        logit, count = row[token_id].item(), asked.generated_ids.count(token_id)
        logit = logit / p.repetition_penalty if logit > 0 else logit * p.repetition_penalty
        logit -= p.frequency_penalty * count + p.presence_penalty * (count > 0)
        row[token_id] = min(max(logit, -1e30), 1e30)
    row[list(asked.banned_ids)] = -math.inf
    if asked.allowed_ids is not None:
        row[[i for i in range(len(row)) if i not in asked.allowed_ids]] = -math.inf
    return row


def probabilities(logits: torch.Tensor, asked: Asked) -> torch.Tensor:
    """What is drawn from, by the filters of PyTorch's sampler: float64 (V,)."""
    p = asked.params
    row = adjusted(logits, asked)[None].double() / p.temperature
    if p.top_k > 0:
        k = min(p.top_k, len(logits))
        row = filters.top_k(row, torch.tensor([[float(k)]]), largest=k)
    for apply, value, off in ((filters.top_p, p.top_p, 1), (filters.min_p, p.min_p, 0), (filters.typical_p, p.typical_p, 1)):
        if value != off:
            row = apply(row, torch.tensor([[value]], dtype=torch.float64))
    return row.softmax(dim=-1)[0]


class Expected:
    """The distributions that may be drawn from: with the filters as they are, and with each moved a little either way.

    Where a filter's limit falls within rounding of a token's border, that token may stay or go. So it may where logits become
    equal in float32, once they are counted from the greatest.
    """

    def __init__(self, logits: torch.Tensor, asked: Asked) -> None:
        p = asked.params
        moves = [[0.0] if off else [0.0, -CLOSE, CLOSE] for off in (p.top_p == 1, p.min_p == 0, p.typical_p == 1)]
        ready = adjusted(logits, asked).double()
        rounded = ((ready - ready.max()) / p.temperature).float()
        rows = []
        for a, b, c in itertools.product(*moves):
            moved = replace(p, top_p=p.top_p * (1 + a), min_p=p.min_p * (1 + b), typical_p=p.typical_p * (1 + c))
            rows.append(probabilities(logits, asked._replace(params=moved)))
            alone = SamplingParams(1.0, moved.top_k, moved.top_p, moved.min_p, moved.typical_p)
            rows.append(probabilities(rounded, Asked(alone)))
        self.plain = rows[0]
        distinct = {row.numpy().tobytes(): row.numpy() for row in rows}
        self.probabilities = np.stack(list(distinct.values()), axis=-1)  # (V, N)
        self.ends = self.probabilities.cumsum(axis=0)
        self.logprobs = logits.double().log_softmax(dim=-1).tolist()

    def middles(self) -> list[float]:
        """A uniform for each token that can be drawn."""
        ends = self.plain.cumsum(dim=-1)
        return ((ends - self.plain / 2)[self.plain > 0]).clamp(max=LAST_UNIFORM).tolist()

    def check(self, uniform: float, token: SampledToken) -> None:
        p, end = self.probabilities[token.token_id], self.ends[token.token_id]
        right = (p > 0) & (end - p - CLOSE <= uniform) & (uniform <= end + CLOSE)
        assert right.any(), f"token {token.token_id} of probability {p.tolist()}, up to {end.tolist()}, at {uniform}"
        assert token.logprob == pytest.approx(self.logprobs[token.token_id], rel=1e-6, abs=1e-6)


def check(logits: torch.Tensor, asked: Asked, uniforms: Sequence[float] | None = None) -> None:
    """At uniforms that meet every token, or at those given: the same tokens, and their log-probabilities the model's own."""
    expected, native = Expected(logits, asked), NativeSampler(logits, asked)
    for uniform in (*(expected.middles() if uniforms is None else uniforms), 0.0, LAST_UNIFORM):
        expected.check(uniform, native.draw(uniform))


HISTORY = {"prompt_ids": (1, 2, 3, 3), "generated_ids": (4, 4, 4, 5, 2)}
CASES = {
    "plain": Asked(SamplingParams(temperature=1.0)),
    "cold": Asked(SamplingParams(temperature=0.3)),
    "hot": Asked(SamplingParams(temperature=3.0)),
    "top_1": Asked(SamplingParams(temperature=1.0, top_k=1)),
    "top_k": Asked(SamplingParams(temperature=1.0, top_k=37)),
    "top_k_all_but_one": Asked(SamplingParams(temperature=1.0, top_k=V - 1)),
    "top_k_above_the_vocabulary": Asked(SamplingParams(temperature=1.0, top_k=10**30)),
    "top_p": Asked(SamplingParams(temperature=1.0, top_p=0.9)),
    "top_p_small": Asked(SamplingParams(temperature=1.0, top_p=0.01)),
    "top_p_smallest": Asked(SamplingParams(temperature=1.0, top_p=1e-300)),
    "top_p_nearly_1": Asked(SamplingParams(temperature=1.0, top_p=0.99999)),
    "min_p": Asked(SamplingParams(temperature=1.0, min_p=0.05)),
    "min_p_1": Asked(SamplingParams(temperature=1.0, min_p=1.0)),
    "typical_p": Asked(SamplingParams(temperature=1.0, typical_p=0.7)),
    "typical_p_smallest": Asked(SamplingParams(temperature=1.0, typical_p=1e-300)),
    "all_filters": Asked(SamplingParams(temperature=1.5, top_k=300, top_p=0.95, min_p=0.02, typical_p=0.9)),
    "repetition": Asked(SamplingParams(temperature=1.0, repetition_penalty=1.8), **HISTORY),
    "frequency": Asked(SamplingParams(temperature=1.0, frequency_penalty=0.7), **HISTORY),
    "presence": Asked(SamplingParams(temperature=1.0, presence_penalty=-1.1), **HISTORY),
    "bias": Asked(SamplingParams(temperature=1.0, logit_bias=((0, 3.0), (9, -100.0), (0, 0.5)))),
    "banned": Asked(SamplingParams(temperature=1.0), banned_ids=(0, 8, 39, 8)),
    "masked": Asked(SamplingParams(temperature=1.0), allowed_ids=(3, 70, 499)),
    "masked_and_filtered": Asked(SamplingParams(0.9, 3, 0.9, 0.01, 0.95), allowed_ids=tuple(range(7, 300, 3))),
    "masked_with_penalties": Asked(
        SamplingParams(1.0, repetition_penalty=1.8), **HISTORY, banned_ids=(3,), allowed_ids=(2, 3, 5, 64)
    ),
    "everything": Asked(SamplingParams(0.8, 200, 0.9, 0.01, 0.95, 1.3, 0.2, 0.4, ((2, 1.0),)), (1, 2, 3), (4, 4, 5), (6, 499)),
}


@pytest.mark.parametrize("asked", CASES.values(), ids=CASES)
def test_every_token_that_can_be_drawn_is_drawn_where_it_should_be_and_no_other(asked):
    check(gaussian(1), asked)


@pytest.mark.parametrize("asked", CASES.values(), ids=CASES)
def test_so_it_is_with_the_vocabulary_of_gpt2(asked):
    logits = gaussian(2, GPT2_V, spread=3.0)
    uniforms = torch.rand(50, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    check(logits, asked, uniforms.tolist())


@pytest.mark.parametrize("size", [V, GPT2_V])
@pytest.mark.parametrize("asked", CASES.values(), ids=CASES)
def test_temperature_zero_takes_the_likeliest_token_after_bias_penalties_and_bans(asked, size):
    for seed in range(5):
        logits = gaussian(seed, size)
        greedy = asked._replace(params=replace(asked.params, temperature=0.0))
        token = NativeSampler(logits, greedy).draw()
        assert token.token_id == adjusted(logits, greedy).argmax()
        assert token.logprob == pytest.approx(logits.double().log_softmax(dim=-1)[token.token_id].item(), rel=1e-6, abs=1e-6)


def test_a_draw_without_a_uniform_of_its_own_uses_that_of_its_seed_and_position():
    logits = gaussian(4)
    expected = Expected(logits, Asked(SamplingParams(temperature=1.0)))
    for seed, row, start in itertools.product((0, 1, 2**40, 2**64 - 1), (0, 5), (0, 1, 1018)):
        draw = Draw(row, SamplingParams(temperature=1.0, seed=seed))
        packed = PackedBatch(ForwardBatch((Chunk(0, start, (0,) * 6, (draw,)),)), V)
        assert packed_draw(packed)[UNIFORM] == philox.uniform(seed, start + row + 1)
    asked = Asked(SamplingParams(temperature=1.0, seed=5), prompt_ids=(1, 2, 3))
    expected.check(philox.uniform(5, 1), NativeSampler(logits, asked).draw())


# Values in steps, so that many are equal; near each other; far apart.
ROWS = st.one_of(
    st.integers(0, 2**32).map(gaussian),
    st.tuples(st.integers(0, 2**32), st.sampled_from([0.25, 1.0, 4.0])).map(lambda x: (gaussian(x[0]) / x[1]).round() * x[1]),
    st.tuples(st.integers(0, 2**32), st.sampled_from([0.1, 30.0])).map(lambda x: gaussian(x[0], spread=x[1])),
    st.tuples(st.integers(0, 2**32), st.integers(2, 70)).map(lambda x: gaussian(*x)),
)
PARAMS = st.builds(
    SamplingParams,
    temperature=st.sampled_from([0.1, 0.7, 1.0, 1.3, 5.0]),
    top_k=st.sampled_from([0, 0, 1, 2, 50, 499, 1000]),
    top_p=st.just(1.0) | st.floats(1e-3, 1.0),
    min_p=st.just(0.0) | st.floats(1e-6, 1.0),
    typical_p=st.just(1.0) | st.floats(1e-3, 1.0),
    repetition_penalty=st.sampled_from([1.0, 1.3, 0.5, 1000.0]),
    frequency_penalty=st.sampled_from([0.0, 0.6, -2.0]),
    presence_penalty=st.sampled_from([0.0, -0.4, 2.0]),
    logit_bias=st.lists(st.tuples(st.integers(0, 1), st.floats(-100, 100, width=32)), max_size=3).map(tuple),
)
IDS = st.lists(st.integers(0, 1), max_size=6).map(tuple)
DRAWS = st.builds(Asked, PARAMS, IDS, IDS, st.sampled_from([(), (0,)]), st.sampled_from([None, (1,), (0, 1), tuple(range(1, 70))]))


# Always the same examples: in one of some ten thousand, rounding swaps two tokens of nearly equal cost at typical_p's limit.
@settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(logits=ROWS, asked=DRAWS, uniforms=st.lists(st.floats(0, LAST_UNIFORM), min_size=5, max_size=5))
def test_whatever_is_asked_for_the_same_is_drawn(logits, asked, uniforms):
    check(logits, asked, [*uniforms, 0.1, 0.5, 0.9, 0.999])


@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(1.0, top_k=3),
        SamplingParams(1.0, top_k=1, top_p=0.5),
        SamplingParams(1.0, top_p=0.3),
        SamplingParams(1.0, typical_p=0.3),
        SamplingParams(1.0, min_p=1.0),
        SamplingParams(0.5, top_k=3, top_p=0.5, min_p=0.5, typical_p=0.5),
    ],
)
@pytest.mark.parametrize("value", [0.0, -0.0, -7.5, 1e-40, 1e6])
def test_among_equal_logits_top_k_keeps_all_and_the_masses_keep_the_first(params, value):
    check(torch.full((V,), value), Asked(params))


@pytest.mark.parametrize("temperature", [1e-300, 1e-30, 1e-5])
def test_next_to_no_temperature_takes_the_likeliest(temperature):
    logits = gaussian(5)
    for uniform in (0.0, 0.3, LAST_UNIFORM):
        asked = Asked(SamplingParams(temperature, top_k=40, top_p=0.9, min_p=0.1, typical_p=0.9))
        assert NativeSampler(logits, asked).draw(uniform).token_id == logits.argmax()


@pytest.mark.parametrize("temperature", [1e6, 1e38, 1e300])
def test_any_temperature_above_leaves_nothing_but_chance(temperature):
    asked = Asked(SamplingParams(temperature))
    for i in range(V):
        assert NativeSampler(gaussian(6), asked).draw((i + 0.5) / V).token_id == i


@pytest.mark.parametrize("filters", [{}, {"top_k": 5, "top_p": 0.5, "min_p": 0.5, "typical_p": 0.5}], ids=["plain", "filtered"])
@pytest.mark.parametrize("temperature", [0.0, 1e-5, 1.0, 1e5])
def test_the_only_token_that_may_be_drawn_is_taken(temperature, filters):
    logits = gaussian(7)
    for only in (0, 63, 64, 499):
        params, others = SamplingParams(temperature, **filters), tuple(i for i in range(V) if i != only)
        ways = Asked(params, banned_ids=others), Asked(params, allowed_ids=(only,))
        for uniform, asked in itertools.product((0.0, 0.5, LAST_UNIFORM), ways):
            token = NativeSampler(logits, asked).draw(uniform)
            assert token.token_id == only
            assert token.logprob == pytest.approx(logits.double().log_softmax(dim=-1)[only].item(), rel=1e-6, abs=1e-6)


FILTERS = {
    "plain": {},
    "top_k": {"top_k": 5},
    "top_p": {"top_p": 0.5},
    "min_p": {"min_p": 0.5},
    "typical_p": {"typical_p": 0.5},
    "all": {"top_k": 5, "top_p": 0.5, "min_p": 0.5, "typical_p": 0.5},
}


@pytest.mark.parametrize(
    "nothing", [{"banned_ids": tuple(range(V))}, {"allowed_ids": ()}, {"allowed_ids": (3,), "banned_ids": (3,)}], ids=str
)
@pytest.mark.parametrize("filters", FILTERS.values(), ids=FILTERS)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_row_of_which_nothing_may_be_drawn_is_said_to_be_one(temperature, filters, nothing):
    for uniform, history in itertools.product((0.0, 0.5, LAST_UNIFORM), ({}, HISTORY)):
        params = SamplingParams(temperature, repetition_penalty=1.2 if history else 1.0, **filters)
        assert NativeSampler(gaussian(8), Asked(params, **history, **nothing)).error(uniform) == NOTHING_TO_DRAW


@pytest.mark.parametrize("size", [1, 7, 8, 9, 64, 65, V])
def test_a_mask_counts_its_bits_from_the_lowest_and_those_beyond_the_vocabulary_do_not_count(size):
    for only in {0, size // 2, size - 1}:
        bits = bytearray(-(-size // 8))
        bits[only // 8] = 1 << only % 8
        if size % 8:
            bits[-1] |= 0xFF << size % 8 & 0xFF
        draw = Draw(0, SamplingParams(), mask=TokenMask(bytes(bits)))
        ((token,),) = sample(gaussian(13, size).numpy(), (), draw).tokens
        assert token.token_id == only


@pytest.mark.parametrize("filters", FILTERS.values(), ids=FILTERS)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("value", [math.nan, math.inf], ids=str)
@pytest.mark.parametrize("places", [slice(0, 1), slice(499, 500), slice(70, 71), slice(64, 128), slice(None)], ids=str)
def test_a_row_with_a_logit_that_is_no_number_is_said_to_be_one(value, places, temperature, filters):
    logits = gaussian(9)
    logits[places] = value
    for history in ({}, HISTORY):
        penalty = 1.2 if history else 1.0
        asked = Asked(SamplingParams(temperature, repetition_penalty=penalty, **filters), **history)
        for uniform in (0.0, 0.5, LAST_UNIFORM):
            assert NativeSampler(logits, asked).error(uniform) == NOT_FINITE


@pytest.mark.parametrize("asked", [CASES[name] for name in ("plain", "top_k", "top_p", "typical_p", "all_filters")])
@pytest.mark.parametrize("places", [slice(0, 40), slice(3, 500, 2), slice(64, 128)], ids=["some", "half", "a_whole_block"])
def test_tokens_that_the_model_rules_out_are_never_drawn(asked, places):
    logits = gaussian(10)
    logits[places] = -math.inf
    check(logits, asked)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize(
    "extreme",
    [
        {"repetition_penalty": 1e-300},
        {"repetition_penalty": 1e300},
        {"frequency_penalty": -1e38},
        {"frequency_penalty": 1e38},
        {"presence_penalty": -2.0, "frequency_penalty": -2.0, "repetition_penalty": 1000.0},
    ],
    ids=str,
)
def test_a_penalty_beyond_what_floats_hold_still_draws_a_token_of_the_vocabulary(temperature, extreme):
    logits = gaussian(11)
    asked = Asked(SamplingParams(temperature, **extreme), prompt_ids=(1, 2, 70), generated_ids=(3, 3, 4))
    if temperature == 0:
        token = NativeSampler(logits, asked).draw()
        assert token.token_id == adjusted(logits, asked).argmax()
        assert math.isfinite(token.logprob)
    else:
        check(logits, asked)


def test_the_same_row_gives_the_same_bits_again():
    logits, asked = gaussian(12), CASES["everything"]
    assert len({NativeSampler(logits, asked).draw(0.37).logprob.hex() for _ in range(10)}) == 1


def test_a_penalty_counts_every_time_that_a_token_came():
    logits = torch.zeros(V)
    for count, expected in ((0, 7), (1, 7), (2, 0)):
        logits[7] = 1.5
        asked = Asked(SamplingParams(frequency_penalty=1.0), generated_ids=(7,) * count)
        assert NativeSampler(logits, asked).draw().token_id == expected


def test_a_caller_whose_thread_flushes_denormals_is_given_the_same_token():
    """1e-40 is more than nothing, and so the likeliest."""
    logits = torch.zeros(V)
    logits[5] = 1e-40
    sampler = NativeSampler(logits, Asked(SamplingParams()))
    if not torch.set_flush_denormal(True):
        pytest.skip("this CPU cannot flush denormals")
    try:
        assert sampler.draw().token_id == 5
    finally:
        torch.set_flush_denormal(False)


@pytest.mark.parametrize("kind_of_row", ["different", "some_equal", "all_equal", "impossible"])
@pytest.mark.parametrize("top_n", [1, 2, 5, 20, 63, 64, 65, 499, V, 10**30])
def test_the_likeliest_tokens_are_those_of_the_sorted_logits_and_among_equals_the_lower_ids(kind_of_row, top_n):
    logits = {
        "different": gaussian(14),
        "some_equal": gaussian(15).round(),
        "all_equal": torch.zeros(V),
        "impossible": torch.where(torch.arange(V) % 3 == 0, gaussian(16), -math.inf),
    }[kind_of_row]
    order = sorted(range(V), key=lambda i: (-logits[i].item(), i))[:top_n]
    for params in (SamplingParams(), SamplingParams(1.0, top_k=3, logit_bias=((2, 100.0),))):
        for kernels in available_kernels():
            ((token,),) = sample(logits.numpy(), (), Draw(0, params, mask=TokenMask.of((2, 3), V), top_n=top_n), kernels).tokens
            assert [token_id for token_id, _ in token.top] == order  # the model's own: no bias, no mask
            expected = logits.double().log_softmax(dim=-1)[order].tolist()
            assert [logprob for _, logprob in token.top] == pytest.approx(expected, rel=1e-6, abs=1e-6)
            assert dict(token.top).get(token.token_id, token.logprob) == token.logprob  # to the bit
