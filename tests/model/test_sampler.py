"""Logits to tokens: the right distribution, the same bits for a row whatever stands beside it, and no row that spoils another."""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from model.batch import SamplingParams, TokenMask
from model.masks import MAX_MASKS
from model.sampler import DrawRow, SamplingPlan, ScoringPlan, _inverse_cdf, log_softmax, score
from model.upload import Upload
from tests.model.drawing import Asked, Drawing, asked

V = 40
NUM_DRAWS = 4000


class Told(NamedTuple):
    """What the sampler tells of a row."""

    token_id: int
    logprob: float
    nothing_left: bool


def draw(logits: torch.Tensor, wanted: Sequence[Asked]) -> list[Told]:
    rows = Drawing(wanted, logits.device).draw(logits)
    return [Told(int(token_id), logprob, bool(nothing_left)) for token_id, logprob, nothing_left in rows]


def bits(tokens: Sequence[Told]) -> list[tuple[int, str]]:
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


def expected_logits(logits: list[float], wanted: Asked) -> list[float]:
    params, logits = wanted.draw.params, list(logits)
    for i, bias in params.logit_bias:
        logits[i] += bias
    generated = Counter(wanted.generated)
    for i in {*wanted.prompt, *wanted.generated}:
        logits[i] = logits[i] / params.repetition_penalty if logits[i] > 0 else logits[i] * params.repetition_penalty
        logits[i] -= params.frequency_penalty * generated[i] + params.presence_penalty * (generated[i] > 0)
    allowed = ALLOWED if wanted.draw.mask else range(V)
    return [x if i in allowed and i not in wanted.draw.banned_ids else -math.inf for i, x in enumerate(logits)]


def expected_distribution(logits: list[float], wanted: Asked) -> list[float]:
    params = wanted.draw.params
    logits = [x / params.temperature for x in expected_logits(logits, wanted)]
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


ALLOWED = (3, 4, 39)
MASK = TokenMask.of(ALLOWED, V)
HISTORY = {"prompt": (1, 2, 3, 3), "generated": (4, 4, 4, 5, 2)}
CASES = {
    "plain": asked(SamplingParams(temperature=1.0)),
    "cold": asked(SamplingParams(temperature=0.4)),
    "hot": asked(SamplingParams(temperature=3.0)),
    "top_k": asked(SamplingParams(temperature=1.0, top_k=7)),
    "top_k_above_the_vocabulary": asked(SamplingParams(temperature=1.0, top_k=10**30)),
    "top_p": asked(SamplingParams(temperature=1.0, top_p=0.8)),
    "min_p": asked(SamplingParams(temperature=1.0, min_p=0.1)),
    "typical_p": asked(SamplingParams(temperature=1.0, typical_p=0.7)),
    "all_filters": asked(SamplingParams(temperature=1.5, top_k=30, top_p=0.95, min_p=0.02, typical_p=0.9)),
    "repetition": asked(SamplingParams(temperature=1.0, repetition_penalty=1.8), **HISTORY),
    "frequency": asked(SamplingParams(temperature=1.0, frequency_penalty=0.7), **HISTORY),
    "presence": asked(SamplingParams(temperature=1.0, presence_penalty=-1.1), **HISTORY),
    "bias": asked(SamplingParams(temperature=1.0, logit_bias=((0, 3.0), (9, -100.0)))),
    "banned": asked(SamplingParams(temperature=1.0), banned_ids=(0, 8, 39)),
    "mask": asked(SamplingParams(temperature=1.0), mask=MASK),
    "mask_and_penalties": asked(
        SamplingParams(temperature=1.0, repetition_penalty=1.8, frequency_penalty=0.7), mask=MASK, **HISTORY
    ),
    "mask_and_bans": asked(SamplingParams(temperature=1.0, top_p=0.9), mask=MASK, banned_ids=(3, 7)),
    "everything": asked(
        SamplingParams(0.8, 20, 0.9, 0.01, 0.95, 1.3, 0.2, 0.4, ((2, 1.0),)), 0, (1, 2, 3), (4, 4, 5), banned_ids=(6,)
    ),
}


# Not along the positions where these penalise: with the position grows the history.
ALONG = [
    (name, along) for name, wanted in CASES.items() for along in ("positions", "seeds")
    if along == "seeds" or not wanted.draw.params.penalises
]  # fmt: skip


@pytest.mark.parametrize(("name", "along"), ALONG)
def test_draws_follow_the_distribution_that_was_asked_for(device, name, along):
    logits, wanted = gaussian(3), CASES[name]
    draws = [
        Asked(
            wanted.draw._replace(params=replace(wanted.draw.params, seed=11 if along == "positions" else i * 2**40)),
            wanted.prompt,
            wanted.generated,
            i if along == "positions" else 11,
        )
        for i in range(NUM_DRAWS)
    ]
    counts = Counter(token.token_id for token in draw(logits.to(device).expand(NUM_DRAWS, V), draws))
    expected = expected_distribution(logits[0].tolist(), wanted)
    assert all(expected[i] > 0 for i in counts), "a token was drawn that the filters had cut off"
    rare = [i for i, x in enumerate(expected) if x * NUM_DRAWS < 5]  # too few for a cell of their own
    cells = [(counts[i], x * NUM_DRAWS) for i, x in enumerate(expected) if i not in rare]
    cells.append((sum(counts[i] for i in rare), sum(expected[i] for i in rare) * NUM_DRAWS))
    statistic = sum((seen - wanted) ** 2 / max(wanted, 1.0) for seen, wanted in cells)
    assert statistic < chi_square_limit(len(cells) - 1)


@pytest.mark.parametrize("wanted", CASES.values(), ids=CASES)
def test_logits_are_adjusted_as_the_reference_does(device, wanted):
    logits = gaussian(4)
    drawing = Drawing([wanted], device)
    adjusted = drawing.adjusted(logits.to(device))
    assert adjusted[0].tolist() == pytest.approx(expected_logits(logits[0].tolist(), wanted), rel=1e-6, abs=1e-6)
    probabilities = drawing.probabilities(logits.to(device))
    assert probabilities[0].tolist() == pytest.approx(expected_distribution(logits[0].tolist(), wanted), abs=1e-6)


def test_temperature_zero_takes_the_likeliest_token_after_bias_penalties_bans_and_masks(device):
    logits = torch.tensor([[0.0, 3.0, 2.0, 1.0]] * 5, device=device)
    draws = [
        asked(SamplingParams()),
        asked(SamplingParams(repetition_penalty=2.0), prompt=(1,)),
        asked(SamplingParams(), banned_ids=(1, 2)),
        asked(SamplingParams(logit_bias=((0, 3.5),))),
        asked(SamplingParams(), mask=TokenMask.of((0, 3), 4)),
    ]
    assert [token.token_id for token in draw(logits, draws)] == [1, 2, 3, 0, 3]


def test_tokens_behind_a_draws_row_are_not_penalised_though_the_slot_has_them(device):
    params = SamplingParams(repetition_penalty=2.0, presence_penalty=1.0)
    wanted = asked(params, prompt=(1, 2), generated=(3, 4))
    drawing = Drawing([wanted], device)
    upload = Upload(device)
    plan = SamplingPlan([DrawRow(0, 3, wanted.draw)], upload)
    upload.send()
    logits = gaussian(13).to(device)
    shorter = Drawing([asked(params, prompt=(1, 2), generated=(3,))], device)
    assert torch.equal(drawing.sampler.adjust(logits, plan, upload), shorter.adjusted(logits))


def test_a_row_that_does_not_penalise_keeps_its_bits_beside_one_that_does(device):
    logits = torch.tensor([[3e38, -3e38, 1.0], [1.0, 2.0, 3.0]], device=device)
    drawing = Drawing([asked(SamplingParams()), asked(SamplingParams(repetition_penalty=2.0), prompt=(2,))], device)
    adjusted = drawing.adjusted(logits)
    assert torch.equal(adjusted[0], logits[0])
    assert adjusted[1].tolist() == [1.0, 2.0, 1.5]


@pytest.mark.parametrize("wanted", CASES.values(), ids=CASES)
def test_log_probabilities_are_the_models_own_whatever_was_asked_for(device, wanted):
    logits = gaussian(5)
    (token,) = draw(logits.to(device), [wanted])
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
BANNED = st.sampled_from([(), (82,), (0, 5)])
MASKS = st.sampled_from([None, None, TokenMask.of(tuple(range(0, 83, 3)), 83), TokenMask.of((82, 5), 83)])
DRAWS = st.builds(asked, PARAMS, st.integers(0, 1023), IDS, IDS, banned_ids=BANNED, mask=MASKS)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(draws=st.lists(DRAWS, min_size=1, max_size=8), seed=st.integers(0, 2**32))
def test_a_rows_token_and_the_bits_of_its_log_probability_do_not_depend_on_the_other_rows(device, draws, seed):
    logits = gaussian(seed, rows=len(draws), size=83).to(device)
    together = draw(logits, draws)
    alone = [draw(logits[i : i + 1], [wanted])[0] for i, wanted in enumerate(draws)]
    assert bits(together) == bits(alone)


def test_rows_of_a_large_vocabulary_keep_their_bits_on_any_number_of_threads(threads):
    # Torch adds up 32,768 values or more of one lone row in pieces, one a thread; logsumexp did so in one draw of twenty.
    logits = gaussian(6, rows=60, size=50257)
    draws = [asked(SamplingParams(seed=i), i) for i in range(60)]
    assert bits(draw(logits, draws)) == bits([draw(logits[i : i + 1], [wanted])[0] for i, wanted in enumerate(draws)])


def test_scores_of_a_large_vocabulary_keep_their_bits_and_are_what_a_draw_reports(threads):
    logits = gaussian(12, rows=40, size=50257)
    drawn = draw(logits, [asked(SamplingParams(temperature=1.0, seed=i), i) for i in range(40)])

    def scores(rows: slice) -> list[list[float]]:
        upload = Upload(torch.device("cpu"))
        plan = ScoringPlan([told.token_id for told in drawn[rows]], [0] * len(drawn[rows]), upload)
        upload.send()
        return score(log_softmax(logits[rows]), plan, upload).tolist()

    assert scores(slice(0, 40)) == [[told.logprob] for told in drawn]
    assert [scores(slice(i, i + 1))[0] for i in range(40)] == scores(slice(0, 40))


@pytest.mark.parametrize("name", ["top_p", "typical_p"])
def test_the_only_row_with_a_filter_is_filtered_as_if_it_were_alone(threads, name):
    logits = gaussian(7, rows=20, size=50257)
    for i in range(20):
        lone, other = SamplingParams(temperature=1.0, **{name: 0.6}), SamplingParams(temperature=1.0)
        both = logits[[i, (i + 1) % 20]]
        alone = Drawing([asked(lone)]).probabilities(both[:1])
        together = Drawing([asked(lone), asked(other)]).probabilities(both)
        assert torch.equal(alone[0], together[0])


NO_NUMBERS = {
    "plain": asked(SamplingParams(temperature=1.0)),
    "filtered": asked(SamplingParams(temperature=1.0, top_k=5, top_p=0.9, typical_p=0.9, min_p=0.1)),
    "greedy": asked(SamplingParams()),
}
NOTHING_LEFT = {
    "everything_banned": asked(SamplingParams(temperature=1.0), banned_ids=tuple(range(V))),
    "everything_banned_greedy": asked(SamplingParams(), banned_ids=tuple(range(V))),
    "an_empty_mask": asked(SamplingParams(temperature=1.0, top_p=0.9), mask=TokenMask.of((), V)),
    "an_empty_mask_greedy": asked(SamplingParams(), mask=TokenMask.of((), V)),
    "a_mask_of_what_is_banned": asked(SamplingParams(repetition_penalty=1.2), prompt=(1,), mask=MASK, banned_ids=ALLOWED),
}


def check_that_others_are_left_alone(logits: torch.Tensor, factor: float, wanted: Asked) -> Told:
    """The token of the second of three rows, multiplied by a factor."""
    others = [CASES["everything"], CASES["plain"]]
    expected = draw(logits[[0, 2]], others)
    logits[1] *= factor
    first, spoilt, last = draw(logits, [others[0], wanted, others[1]])
    assert 0 <= spoilt.token_id < V
    assert bits([first, last]) == bits(expected)
    assert not first.nothing_left
    assert not last.nothing_left
    return spoilt


@pytest.mark.parametrize("wanted", NO_NUMBERS.values(), ids=NO_NUMBERS)
def test_a_row_of_no_numbers_says_so_by_a_nan_and_leaves_the_others_alone(device, wanted):
    token = check_that_others_are_left_alone(gaussian(8, rows=3).to(device), math.nan, wanted)
    assert math.isnan(token.logprob)
    assert not token.nothing_left


@pytest.mark.parametrize("wanted", NOTHING_LEFT.values(), ids=NOTHING_LEFT)
def test_a_row_with_nothing_to_draw_says_so_and_leaves_the_others_alone(device, wanted):
    assert check_that_others_are_left_alone(gaussian(8, rows=3).to(device), 1.0, wanted).nothing_left


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_penalty_beyond_what_floats_hold_still_draws_a_token_of_the_vocabulary(device, temperature):
    extreme = SamplingParams(temperature, repetition_penalty=1e-300, frequency_penalty=-2.0)
    (token,) = draw(gaussian(9).abs().to(device), [asked(extreme, prompt=(1, 2), generated=(3,))])
    assert token.token_id in (1, 2, 3)
    assert math.isfinite(token.logprob)


def test_more_masks_than_are_kept_are_all_heard(device):
    pairs = [(i % V, (i + 7 + i // V) % V) for i in range(MAX_MASKS + 30)]
    wanted = [asked(SamplingParams(), mask=TokenMask.of(pair, V)) for pair in pairs]
    logits = gaussian(10).expand(len(wanted), V).to(device)
    expected = [max(pair, key=logits[0].tolist().__getitem__) for pair in pairs]
    drawing = Drawing(wanted, device)
    for _ in range(2):
        assert [int(row[0]) for row in drawing.draw(logits)] == expected
