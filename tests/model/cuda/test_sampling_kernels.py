"""The kernels that sample: the sampler's own tokens, whatever the logits, and a row's bits the same in any crowd."""

import math
import random
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import pytest
import torch
import triton
import triton.language as tl
from torch import Tensor

from model.batch import SamplingParams
from model.cuda.kernels.inverse_cdf import first_beyond, uniform_number
from model.cuda.kernels.parts import PART, parts, parts_twin
from model.cuda.records import MAX_IDS, Field, Status
from model.philox import uniform
from tests.model.cuda.drawn_on_device import KERNELS, N_POSITIONS, TWINS, DeviceDraws, gaussian, quantised, records, some_params
from tests.model.drawing import Asked, Drawing, asked

PLAIN = SamplingParams(temperature=1.0)


# Penalties and bans


def history_of(rng: random.Random, size: int, length: int) -> tuple[int, ...]:
    """Few of the tokens, so that they come again and again."""
    some = rng.sample(range(size), k=min(size, 12))
    return tuple(rng.choice(some) for _ in range(length))


def penalising(seed: int, size: int, penalties: Sequence[tuple[float, float, float]]) -> list[Asked]:
    rng = random.Random(seed)
    wanted = []
    for repetition, frequency, presence in penalties:
        params = SamplingParams(repetition_penalty=repetition, frequency_penalty=frequency, presence_penalty=presence)
        prompt, generated = (history_of(rng, size, rng.choice([0, 1, 30, 64, 75])) for _ in range(2))
        banned = tuple({*rng.sample(range(size), k=3), *prompt[:2], *generated[:1]})
        wanted.append(asked(params, prompt=prompt, generated=generated, banned_ids=rng.choice([(), banned])))
    return wanted


PENALTIES = [(1.3, 0.0, 0.0), (1.0, 0.7, 0.0), (1.0, 0.0, -1.5), (0.5, -2.0, 2.0), (1.1, 0.1, 0.2), (1.0, 0.0, 0.0)]
EXTREME = [(1e-300, 0.0, 0.0), (1e38, 2.0, 2.0), (1.0, 1e38, -1e38), (1.7, -1e38, 0.0), (1e-45, 0.0, 1e30)]


@pytest.mark.parametrize("penalties", [PENALTIES, EXTREME], ids=["plain", "extreme"])
@pytest.mark.parametrize("size", [40, 301])
def test_penalties_and_bans_have_the_samplers_bits(device: torch.device, penalties: list, size: int) -> None:
    logits = gaussian(size, len(penalties), size)
    logits[:, ::5] *= 0
    wanted = penalising(size, size, penalties)
    theirs, twins, ours = Drawing(wanted).adjusted(logits), logits.clone(), logits.to(device, copy=True)
    draws, twin = DeviceDraws(wanted, device), DeviceDraws(wanted, torch.device("cpu"), TWINS)
    draws.adjust(ours, draws.saved, draws.history, draws.draws)
    twin.adjust(twins, twin.saved, twin.history, twin.draws)
    assert torch.equal(ours.cpu(), theirs)
    assert torch.equal(twins, theirs)
    assert torch.equal(draws.saved.cpu().nan_to_num(12345), twin.saved.nan_to_num(12345)), "nothing else is touched"


def test_a_row_that_asks_for_nothing_keeps_its_bits(device: torch.device) -> None:
    logits = gaussian(1, 3, 301).to(device)
    logits[1, 7], logits[2, 9] = torch.nan, -torch.inf
    before = logits.clone()
    wanted = [
        asked(SamplingParams(top_p=0.1, top_k=3)),
        asked(PLAIN),
        asked(replace(PLAIN, top_k=3, frequency_penalty=1.0), max_new=0),
    ]
    draws = DeviceDraws(wanted, device)
    draws.adjust(logits, draws.saved, draws.history, draws.draws)
    draws.filters(logits, draws.draws)
    assert torch.equal(logits.view(torch.int32), before.view(torch.int32))


# Parts


def test_parts_are_summed_up_as_by_their_twin(device: torch.device) -> None:
    size, temperatures = 2 * PART + 77, [0.0, 1.0, 1e-5, 1e30, 0.7, 0.7, 0.7]
    logits = quantised(5, len(temperatures), size)
    logits[4, :PART], logits[5, PART + 3], logits[6, 1:] = -torch.inf, torch.nan, -torch.inf
    draws = records([asked(SamplingParams(temperature=t)) for t in temperatures], device)
    results = []
    for launch, place in ((parts, device), (parts_twin, torch.device("cpu"))):
        maxima = torch.zeros(len(temperatures), 3, device=place)
        ids, sums = maxima.int(), maxima.double()
        launch(maxima, ids, sums, logits.to(place), draws.to(place))
        results.append((maxima.cpu(), ids.cpu(), sums.cpu()))
    (maxima, ids, sums), (maxima_twin, ids_twin, sums_twin) = results
    torch.testing.assert_close(maxima, maxima_twin, rtol=0, atol=0, equal_nan=True)
    is_empty = maxima_twin == -torch.inf
    assert torch.equal(ids[~is_empty], ids_twin[~is_empty])
    torch.testing.assert_close(sums, sums_twin, rtol=1e-13, atol=0)


# Draws


@triton.jit
def _uniforms(numbers, seeds, positions):
    i = tl.program_id(0)
    tl.store(numbers + i, uniform_number(tl.load(seeds + i), tl.load(positions + i)))


def test_the_uniform_number_is_that_of_the_seed_and_position(device: torch.device) -> None:
    rng = random.Random(1)
    pairs = [
        (seed, position) for seed in (0, 1, 2**32 - 1, 2**63, 2**64 - 1, rng.randrange(2**64)) for position in (0, 1, 1023, 2**31)
    ]
    seeds = torch.tensor([seed - 2**64 if seed >= 2**63 else seed for seed, _ in pairs], device=device)
    positions = torch.tensor([position for _, position in pairs], device=device)
    numbers = torch.zeros(len(pairs), dtype=torch.float64, device=device)
    _uniforms[len(pairs),](numbers, seeds, positions)
    assert numbers.tolist() == [uniform(*pair) for pair in pairs]


@triton.jit
def _first(out, weights, bounds, SIZE: tl.constexpr):
    tl.store(out, first_beyond(tl.load(weights + tl.arange(0, SIZE)), tl.load(bounds), tl.load(bounds + 1)))


@pytest.mark.parametrize(("before", "target", "first"), [(0.0, 0.0, 2), (0.0, 3.0, 4), (9.0, 4.0, 2), (0.0, 8.0, 4)])
def test_where_rounding_leaves_no_token_a_next_one_of_some_weight_is_taken(
    device: torch.device, before: float, target: float, first: int
) -> None:
    weights = torch.tensor([0.0, 0.0, 3.0, 0.0, 2.0, 0.0, 0.0, 0.0], dtype=torch.float64, device=device)
    out = torch.zeros(1, dtype=torch.int32, device=device)
    _first[1,](out, weights, torch.tensor([before, target], dtype=torch.float64, device=device), SIZE=8)
    assert out.item() == first


def assert_the_samplers(wanted: Sequence[Asked], logits: Tensor, device: torch.device) -> None:
    draws = DeviceDraws(wanted, device)
    draws.step(logits.to(device))
    for (token, logprob, status), (id_, theirs, nothing_left) in zip(draws.told(), Drawing(wanted).draw(logits), strict=True):
        assert status is (Status.NOTHING_LEFT if nothing_left else Status.DRAWN if math.isfinite(theirs) else Status.NOT_FINITE)
        if status is Status.DRAWN:
            assert token == id_
            assert logprob == pytest.approx(theirs, rel=1e-6, abs=2e-6)
        else:
            assert (token, logprob) == (0, 0.0)


@pytest.mark.parametrize("size", [1, 301, 1025])
def test_the_sampler_draws_the_same_tokens_from_many_seeds(device: torch.device, size: int) -> None:
    wanted = [asked(SamplingParams(temperature=t, seed=2**64 - 1 - seed), position=seed) for seed in range(25) for t in (0.6, 1.0)]
    assert_the_samplers(wanted, gaussian(2, 1, size).expand(len(wanted), -1).contiguous(), device)


def test_all_at_once_draws_the_samplers_tokens(device: torch.device) -> None:
    rng, size, num_rows = random.Random(8), 1100, 12
    wanted = []
    for one in penalising(4, size, [rng.choice(PENALTIES) for _ in range(num_rows)]):
        p = one.draw.params
        penalties = (p.repetition_penalty, p.frequency_penalty, p.presence_penalty)
        names = ("repetition_penalty", "frequency_penalty", "presence_penalty")
        params = replace(some_params(rng), **dict(zip(names, penalties, strict=True)))
        params = replace(params, temperature=rng.choice([0.0, params.temperature]))
        wanted.append(one._replace(draw=one.draw._replace(params=params), position=rng.randrange(10**6)))
    assert_the_samplers(wanted, torch.cat([gaussian(6, num_rows // 2, size), quantised(6, num_rows // 2, size)]), device)


def test_a_penalised_tokens_log_probability_is_that_before_the_penalty(device: torch.device) -> None:
    logits = gaussian(1, 1, 301)
    logits[0, 9] = 30.0
    for params in (SamplingParams(presence_penalty=2.0), SamplingParams(temperature=1.0, frequency_penalty=0.1)):
        assert_the_samplers([asked(params, prompt=(4, 9), generated=(9, 9, 1))], logits, device)


def test_the_first_of_the_largest_is_greedys(device: torch.device) -> None:
    logits = torch.full((3, 2500), -1.0)
    logits[0, 2400], logits[1, [700, 1500]], logits[2] = 1.0, 2.0, 0.0
    draws = DeviceDraws([asked(SamplingParams())] * 3, device)
    draws.step(logits.to(device))
    assert [token for token, *_ in draws.told()] == [2400, 700, 0]


def test_a_token_of_no_weight_is_never_drawn(device: torch.device) -> None:
    logits = torch.full((40, 2100), -1e5)
    logits[:, 1023], logits[:, 1500] = 3.0, 3.0
    draws = DeviceDraws([asked(SamplingParams(temperature=1.0, seed=seed)) for seed in range(40)], device)
    draws.step(logits.to(device))
    assert {token for token, *_ in draws.told()} == {1023, 1500}


def test_a_row_of_which_nothing_is_left_or_no_number_says_so(device: torch.device) -> None:
    size = MAX_IDS
    logits = gaussian(1, 8, size)
    logits[1, 3] = logits[3, 0] = logits[4, 1] = torch.nan
    logits[5, 2] = torch.inf
    some = partial(asked, max_new=3)
    bans = {"banned_ids": tuple(range(size))}
    wanted = [some(PLAIN, **bans), some(PLAIN), some(SamplingParams(), **bans), some(SamplingParams(), banned_ids=(0,))]
    wanted += [some(replace(PLAIN, top_k=1)), some(SamplingParams(repetition_penalty=2.0), prompt=(2,))]
    # The raw logit of a token that is penalised and banned is a number all the same.
    wanted += [some(replace(params, repetition_penalty=2.0), prompt=(0, 2), **bans) for params in (PLAIN, SamplingParams())]
    draws = DeviceDraws(wanted, device)
    draws.step(logits.to(device))
    nothing, no_number = (0, 0.0, Status.NOTHING_LEFT), (0, 0.0, Status.NOT_FINITE)
    assert draws.told() == [nothing, no_number, nothing, no_number, no_number, no_number, nothing, nothing]
    assert draws.draws[:, Field.NUM_LEFT].tolist() == [0] * 8


def test_a_row_has_the_same_bits_alone_and_in_any_crowd(device: torch.device) -> None:
    rng, size = random.Random(3), 1100
    wanted = [asked(some_params(rng), position=i) for i in range(4)] + penalising(2, size, PENALTIES[:2])
    logits = gaussian(9, len(wanted), size).to(device)
    crowd = DeviceDraws(wanted, device)
    crowd_logits = crowd.step(logits)
    for row, one in enumerate(wanted):
        alone = DeviceDraws([one], device)
        alone_logits = alone.step(logits[row : row + 1])
        assert torch.equal(alone_logits[0], crowd_logits[row])
        assert torch.equal(alone.output[:, :, 0], crowd.output[:, :, row])


# The step that follows


def test_draws_carry_on_until_they_end(device: torch.device) -> None:
    """Token 5 is always drawn: by a draw of three tokens, one that it ends, one of a single token, and none."""
    greedy = SamplingParams()
    wanted = [
        asked(greedy, prompt=(1, 2), generated=(3,), position=3, max_new=3, end_ids=(4,)),
        asked(greedy, position=8, max_new=9, end_ids=(7, 5)),
        asked(greedy, position=2),
        asked(greedy, position=6, max_new=0),
    ]
    draws, twin = (DeviceDraws(wanted, place, launches) for place, launches in ((device, KERNELS), (torch.device("cpu"), TWINS)))
    logits = torch.zeros(4, 301)
    logits[:, 5] = 1.0
    scratch, ended = 4, (0, 0, 4)
    for step, first_row in enumerate([(5, 3, 0), (5, 4, 0), ended, ended]):
        draws.step(logits.to(device))
        twin.step(logits)
        rows = list(zip(*(draws.rows[name].tolist() for name in ("token_ids", "positions", "slots")), strict=True))
        assert rows == [first_row, *[ended] * 3, (-7, -7, -7)]
        assert draws.rows["tile_rows"].tolist() == [0, 1, 2, 3, -7]
        assert draws.rows["tile_sizes"].tolist() == [1, 1, 1, 1, -7]
        assert draws.draws[:, Field.ROW].tolist() == [0, 1, 2, 3]
        assert draws.state() == twin.state()
        drawn = [status is Status.DRAWN for *_, status in draws.told(step)]
        assert drawn == [step < 3, step < 1, step < 1, False]
    assert draws.draws[:, Field.LENGTH].tolist() == [6, 9, 3, 6]
    assert draws.history.shape[0] - 1 == scratch
    assert torch.equal(draws.output.cpu()[:, [0, 2]], twin.output[:, [0, 2]])


def test_steps_in_a_row_draw_as_steps_one_by_one(device: torch.device) -> None:
    """Each step's random number is that of its position, its penalties those of the tokens until there."""
    params = SamplingParams(temperature=1.0, seed=7, frequency_penalty=0.5)
    prompt, generated, size = (3, 4), (5,), 301
    draws = DeviceDraws([asked(params, prompt=prompt, generated=generated, max_new=4)], device)
    for step in range(4):
        logits = gaussian(step, 1, size, spread=1.0)
        ((token, *_),) = Drawing([asked(params, prompt=prompt, generated=generated)]).draw(logits)
        draws.step(logits.to(device))
        assert draws.told(step)[0][0] == token
        draws.history[0, len(prompt + generated)] = int(token)  # what the next pass does with its rows
        generated += (int(token),)
    assert len(prompt + generated) < N_POSITIONS
