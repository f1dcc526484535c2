"""Logits to tokens: the right distribution, the same bits for a row whatever stands beside it, and no row that spoils another."""

import math
from collections import Counter
from collections.abc import Iterator, Sequence

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from model.batch import Draw, SampledToken, SamplingParams
from model.sampler import Sampler, SamplingPlan, _inverse_cdf, to_tokens
from model.upload import Upload

V = 40
NUM_DRAWS = 4000


def draw(logits: torch.Tensor, draws: Sequence[Draw]) -> tuple[SampledToken, ...]:
    upload = Upload(logits.device)
    plan = SamplingPlan(draws, upload)
    upload.send()
    return to_tokens(Sampler().draw(logits, plan, upload))


def bits(tokens: Sequence[SampledToken]) -> list[tuple[int, str]]:
    return [(token.token_id, token.logprob.hex()) for token in tokens]


def gaussian(seed: int, rows: int = 1, size: int = V, spread: float = 2.0) -> torch.Tensor:
    return torch.randn(rows, size, generator=torch.Generator().manual_seed(seed)) * spread


@pytest.fixture(params=[1, 2, 3], ids="{}_threads".format)
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


# The reference: one row in plain Python floats.


def softmax(logits: list[float]) -> list[float]:
    weights = [math.exp(x - max(logits)) for x in logits]
    total = math.fsum(weights)
    return [weight / total for weight in weights]


def expected_logits(logits: list[float], asked: Draw) -> list[float]:
    params, logits = asked.params, list(logits)
    for i, bias in params.logit_bias:
        logits[i] += bias
    generated = Counter(asked.generated_ids)
    for i in {*asked.prompt_ids, *asked.generated_ids}:
        logits[i] = logits[i] / params.repetition_penalty if logits[i] > 0 else logits[i] * params.repetition_penalty
        logits[i] -= params.frequency_penalty * generated[i] + params.presence_penalty * (generated[i] > 0)
    return [-math.inf if i in asked.banned_ids else x for i, x in enumerate(logits)]


def expected_distribution(logits: list[float], asked: Draw) -> list[float]:
    params = asked.params
    logits = [x / params.temperature for x in expected_logits(logits, asked)]
    if params.top_k:
        smallest = sorted(logits, reverse=True)[min(params.top_k, V) - 1]
        logits = [x if x >= smallest else -math.inf for x in logits]
    if params.top_p < 1:
        logits = keep_mass(logits, [-x for x in logits], params.top_p)
    if params.min_p > 0:
        logits = [x if math.exp(x - max(logits)) >= params.min_p else -math.inf for x in logits]
    if params.typical_p < 1:
        surprise = [math.inf if x == 0 else -math.log(x) for x in softmax(logits)]
        entropy = math.fsum(x * s for x, s in zip(softmax(logits), surprise, strict=True) if x > 0)
        logits = keep_mass(logits, [abs(s - entropy) for s in surprise], params.typical_p)
    return softmax(logits)


def keep_mass(logits: list[float], cost: list[float], p: float) -> list[float]:
    probabilities, kept = softmax(logits), [-math.inf] * len(logits)
    mass = 0.0
    for i in sorted(range(len(logits)), key=cost.__getitem__):
        if mass >= p:
            break
        kept[i], mass = logits[i], mass + probabilities[i]
    return kept


def chi_square_limit(degrees: int) -> float:
    """The value that chi-square exceeds once in 100,000 times (Wilson and Hilferty 1931), z being 4.265."""
    return degrees * (1 - 2 / (9 * degrees) + 4.265 * math.sqrt(2 / (9 * degrees))) ** 3


HISTORY = {"prompt_ids": (1, 2, 3, 3), "generated_ids": (4, 4, 4, 5, 2)}
CASES = {
    "plain": Draw(SamplingParams(temperature=1.0), 0),
    "cold": Draw(SamplingParams(temperature=0.4), 0),
    "hot": Draw(SamplingParams(temperature=3.0), 0),
    "top_k": Draw(SamplingParams(temperature=1.0, top_k=7), 0),
    "top_k_above_the_vocabulary": Draw(SamplingParams(temperature=1.0, top_k=10**30), 0),
    "top_p": Draw(SamplingParams(temperature=1.0, top_p=0.8), 0),
    "min_p": Draw(SamplingParams(temperature=1.0, min_p=0.1), 0),
    "typical_p": Draw(SamplingParams(temperature=1.0, typical_p=0.7), 0),
    "all_filters": Draw(SamplingParams(temperature=1.5, top_k=30, top_p=0.95, min_p=0.02, typical_p=0.9), 0),
    "repetition": Draw(SamplingParams(temperature=1.0, repetition_penalty=1.8), 0, **HISTORY),
    "frequency": Draw(SamplingParams(temperature=1.0, frequency_penalty=0.7), 0, **HISTORY),
    "presence": Draw(SamplingParams(temperature=1.0, presence_penalty=-1.1), 0, **HISTORY),
    "bias": Draw(SamplingParams(temperature=1.0, logit_bias=((0, 3.0), (9, -100.0))), 0),
    "banned": Draw(SamplingParams(temperature=1.0), 0, banned_ids=(0, 8, 39)),
    "everything": Draw(
        SamplingParams(0.8, 20, 0.9, 0.01, 0.95, 1.3, 0.2, 0.4, ((2, 1.0),)), 0, (1, 2, 3), (4, 4, 5), banned_ids=(6,)
    ),
}


@pytest.mark.parametrize("asked", CASES.values(), ids=CASES)
@pytest.mark.parametrize("along", ["positions", "seeds"])
def test_draws_follow_the_distribution_that_was_asked_for(device, asked, along):
    logits = gaussian(3)
    p = asked.params
    draws = [
        Draw(
            SamplingParams(
                p.temperature, p.top_k, p.top_p, p.min_p, p.typical_p, p.repetition_penalty, p.frequency_penalty,
                p.presence_penalty, p.logit_bias, seed=11 if along == "positions" else i * 2**40,
            ),
            i if along == "positions" else 11,
            asked.prompt_ids,
            asked.generated_ids,
            asked.banned_ids,
        )
        for i in range(NUM_DRAWS)
    ]  # fmt: skip
    counts = Counter(token.token_id for token in draw(logits.to(device).expand(NUM_DRAWS, V), draws))
    expected = expected_distribution(logits[0].tolist(), asked)
    assert all(expected[i] > 0 for i in counts), "a token was drawn that the filters had cut off"
    rare = [i for i, x in enumerate(expected) if x * NUM_DRAWS < 5]  # too few for a cell of their own
    cells = [(counts[i], x * NUM_DRAWS) for i, x in enumerate(expected) if i not in rare]
    cells.append((sum(counts[i] for i in rare), sum(expected[i] for i in rare) * NUM_DRAWS))
    statistic = sum((seen - wanted) ** 2 / max(wanted, 1.0) for seen, wanted in cells)
    assert statistic < chi_square_limit(len(cells) - 1)


@pytest.mark.parametrize("asked", CASES.values(), ids=CASES)
def test_logits_are_adjusted_as_the_reference_does(device, asked):
    logits = gaussian(4)
    upload = Upload(device)
    plan = SamplingPlan([asked], upload)
    upload.send()
    adjusted = Sampler().adjust(logits.to(device), plan, upload)
    assert adjusted[0].tolist() == pytest.approx(expected_logits(logits[0].tolist(), asked), rel=1e-6, abs=1e-6)
    probabilities = Sampler().probabilities(adjusted, plan, upload)
    assert probabilities[0].tolist() == pytest.approx(expected_distribution(logits[0].tolist(), asked), abs=1e-6)


def test_temperature_zero_takes_the_likeliest_token_after_bias_penalties_and_bans(device):
    logits = torch.tensor([[0.0, 3.0, 2.0, 1.0]] * 4, device=device)
    draws = [
        Draw(SamplingParams(), 0),
        Draw(SamplingParams(repetition_penalty=2.0), 0, prompt_ids=(1,)),
        Draw(SamplingParams(), 0, banned_ids=(1, 2)),
        Draw(SamplingParams(logit_bias=((0, 3.5),)), 0),
    ]
    assert [token.token_id for token in draw(logits, draws)] == [1, 2, 3, 0]


@pytest.mark.parametrize("asked", CASES.values(), ids=CASES)
def test_log_probabilities_are_the_models_own_whatever_was_asked_for(device, asked):
    logits = gaussian(5)
    (token,) = draw(logits.to(device), [asked])
    assert token.logprob == pytest.approx(math.log(softmax(logits[0].tolist())[token.token_id]), abs=1e-5)


@pytest.mark.parametrize("u", [0.0, 1 - 2**-53])
def test_the_ends_of_the_unit_interval_draw_tokens_that_can_be_drawn(device, u):
    probabilities = torch.tensor([[0.0, 0.3, 0.0, 0.7, 0.0]] * 2, dtype=torch.float64, device=device)
    ids = _inverse_cdf(probabilities, torch.tensor([u, u], dtype=torch.float64, device=device))
    assert ids.tolist() == ([1, 1] if u == 0 else [3, 3])


PARAMS = st.builds(
    SamplingParams,
    temperature=st.sampled_from([0.0, 0.3, 1.0, 2.0]),
    top_k=st.sampled_from([0, 1, 5, 1000]),
    top_p=st.sampled_from([1.0, 0.3, 0.9]),
    min_p=st.sampled_from([0.0, 0.05]),
    typical_p=st.sampled_from([1.0, 0.5, 0.9]),
    repetition_penalty=st.sampled_from([1.0, 1.3, 0.5]),
    frequency_penalty=st.sampled_from([0.0, 0.6]),
    presence_penalty=st.sampled_from([0.0, -0.4]),
    logit_bias=st.sampled_from([(), ((3, 2.5),), ((3, -1.0), (82, 1.0))]),
    seed=st.integers(0, 2**64 - 1),
)
IDS = st.lists(st.integers(0, 82), max_size=6).map(tuple)
DRAWS = st.builds(Draw, PARAMS, st.integers(0, 1023), IDS, IDS, st.sampled_from([(), (82,), (0, 5)]))


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(draws=st.lists(DRAWS, min_size=1, max_size=8), seed=st.integers(0, 2**32))
def test_a_rows_token_and_the_bits_of_its_log_probability_do_not_depend_on_the_other_rows(device, draws, seed):
    logits = gaussian(seed, rows=len(draws), size=83).to(device)
    together = draw(logits, draws)
    alone = [draw(logits[i : i + 1], [asked])[0] for i, asked in enumerate(draws)]
    assert bits(together) == bits(alone)


def test_rows_of_a_large_vocabulary_keep_their_bits_on_any_number_of_threads(threads):
    # Torch adds up 32,768 values or more of one lone row in pieces, one a thread; logsumexp did so in one draw of twenty.
    logits = gaussian(6, rows=60, size=50257)
    draws = [Draw(SamplingParams(seed=i), i) for i in range(60)]
    assert bits(draw(logits, draws)) == bits([draw(logits[i : i + 1], [asked])[0] for i, asked in enumerate(draws)])


@pytest.mark.parametrize("name", ["top_p", "typical_p"])
def test_the_only_row_with_a_filter_is_filtered_as_if_it_were_alone(threads, name):
    logits = gaussian(7, rows=20, size=50257)
    upload = Upload(torch.device("cpu"))
    for i in range(20):
        lone, other = SamplingParams(temperature=1.0, **{name: 0.6}), SamplingParams(temperature=1.0)
        plans = [SamplingPlan([Draw(p, 0) for p in row], upload) for row in ([lone], [lone, other])]
        upload.send()
        both = logits[[i, (i + 1) % 20]]
        alone, together = (Sampler().probabilities(both[:n], plan, upload) for n, plan in enumerate(plans, 1))
        assert torch.equal(alone[0], together[0])


IMPOSSIBLE = {
    "nan_logits": (Draw(SamplingParams(temperature=1.0), 0), math.nan),
    "nan_logits_filtered": (Draw(SamplingParams(temperature=1.0, top_k=5, top_p=0.9, typical_p=0.9, min_p=0.1), 0), math.nan),
    "nan_logits_greedy": (Draw(SamplingParams(), 0), math.nan),
    "everything_banned": (Draw(SamplingParams(temperature=1.0), 0, banned_ids=tuple(range(V))), 1.0),
}


@pytest.mark.parametrize(("asked", "factor"), IMPOSSIBLE.values(), ids=IMPOSSIBLE)
def test_a_row_with_nothing_to_draw_says_so_by_a_nan_and_leaves_the_others_alone(device, asked, factor):
    logits = gaussian(8, rows=3).abs().to(device)
    others = [CASES["everything"], CASES["plain"]]
    expected = draw(logits[[0, 2]], others)
    logits[1] *= factor
    first, spoilt, last = draw(logits, [others[0], asked, others[1]])
    assert math.isnan(spoilt.logprob)
    assert 0 <= spoilt.token_id < V
    assert bits([first, last]) == bits(expected)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_penalty_beyond_what_floats_hold_still_draws_a_token_of_the_vocabulary(device, temperature):
    extreme = SamplingParams(temperature, repetition_penalty=1e-300, frequency_penalty=-2.0)
    (token,) = draw(gaussian(9).abs().to(device), [Draw(extreme, 0, prompt_ids=(1, 2), generated_ids=(3,))])
    assert token.token_id in (1, 2, 3)
    assert math.isfinite(token.logprob)
