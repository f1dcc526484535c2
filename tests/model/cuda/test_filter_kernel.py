"""The filters without a sort: they keep the tokens that `model.filters` keeps, equals and all."""

import random
from collections.abc import Sequence
from functools import partial

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from model.batch import SamplingParams
from model.cuda.kernels.filters import filters, filters_twin
from tests.model.cuda.drawn_on_device import gaussian, quantised, records, some_params
from tests.model.drawing import Drawing, asked

quick = partial(settings, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def left(logits: Tensor) -> list[set[int]]:
    return [set((row > -torch.inf).nonzero()[:, 0].tolist()) for row in logits.cpu()]


def filtered(logits: Tensor, params: Sequence[SamplingParams], device: torch.device) -> list[set[int]]:
    """The ids that the kernel keeps of each row; what it keeps it leaves as it was."""
    wanted = records([asked(p) for p in params], device)
    out = logits.to(device, copy=True)
    filters(out, wanted)
    kept = out.cpu() > -torch.inf
    assert torch.equal(out.cpu()[kept], logits[kept])
    return left(out)


def kept_by_sampler(logits: Tensor, params: Sequence[SamplingParams]) -> list[set[int]]:
    probabilities = torch.cat([Drawing([asked(p)]).probabilities(row[None])[:1] for row, p in zip(logits, params, strict=True)])
    return [set(row.nonzero()[:, 0].tolist()) for row in probabilities]


@st.composite
def rows(draw: st.DrawFn) -> Tensor:
    size = draw(st.sampled_from([2, 40, 301, 1025]))
    make = draw(st.sampled_from([gaussian, quantised]))
    return make(draw(st.integers(0, 2**31)), 1, size) * draw(st.sampled_from([0.1, 1.0, 1.0, 30.0]))


TEMPERATURES = st.sampled_from([1e-5, 0.3, 1.0, 1.7, 1e4])
MARGIN = 1e-11  # sums in another order differ by far less; within it of the border a token may go either way


@quick(max_examples=40)
@given(rows(), TEMPERATURES, st.integers(1, 400))
def test_top_k_keeps_the_likeliest_and_any_as_likely_as_the_last(
    device: torch.device, logits: Tensor, temperature: float, k: int
) -> None:
    params = [SamplingParams(temperature=temperature, top_k=k)]
    expected = logits.clone()
    filters_twin(expected, records([asked(params[0])], torch.device("cpu")))
    assert filtered(logits, params, device) == left(expected)


@quick(max_examples=60)
@given(
    rows(), TEMPERATURES, st.sampled_from(["top_p", "typical_p"]), st.floats(1e-9, 1 - 1e-9) | st.sampled_from([1e-300, 0.5, 0.75])
)
def test_a_mass_is_reached_by_the_tokens_that_the_reference_keeps(
    device: torch.device, logits: Tensor, temperature: float, name: str, p: float
) -> None:
    least, params, most = (
        SamplingParams(temperature=temperature, **{name: value})
        for value in (p * (1 - MARGIN), p, min(p * (1 + MARGIN), 1 - 2**-53))
    )
    expected = []
    for one in (least, most):
        twin = logits.clone()
        filters_twin(twin, records([asked(one)], torch.device("cpu")))
        expected += left(twin)
    kept = filtered(logits, [params], device)[0]
    assert expected[0] <= kept <= expected[1]


@pytest.mark.parametrize("size", [256, 1024, 4096])
@pytest.mark.parametrize("p", [2**-8, 0.25, 0.5, 1 - 2**-8])
def test_equal_tokens_are_kept_in_order_of_their_ids(device: torch.device, size: int, p: float) -> None:
    params = [SamplingParams(temperature=0.7, top_p=p), SamplingParams(temperature=0.7, typical_p=p)]
    logits = torch.full((2, size), -3.25)
    assert filtered(logits, params, device) == [set(range(int(size * p)))] * 2


def test_a_border_amid_equals_of_several_blocks_keeps_the_first_of_them(device: torch.device) -> None:
    logits = torch.full((1, 5000), -2.0)
    logits[0, 4000:4010], logits[0, ::2] = 9.0, torch.where(logits[0, ::2] > 0, logits[0, ::2], -40.0)
    for p in (0.3, 0.9999, 0.99999):
        params = [SamplingParams(temperature=1.0, top_p=p)]
        assert filtered(logits, params, device) == kept_by_sampler(logits, params)


def test_nought_and_minus_nought_are_equally_likely(device: torch.device) -> None:
    logits = torch.tensor([[-0.0, 0.0, -1.0, 0.0]])
    assert filtered(logits, [SamplingParams(temperature=1.0, top_k=1)], device) == [{0, 1, 3}]
    assert filtered(logits, [SamplingParams(temperature=1.0, top_p=0.4)], device) == [{0, 1}]


@pytest.mark.parametrize(("size", "num_rows"), [(301, 16), (1025, 10), (5000, 3)])
def test_filters_together_keep_what_the_samplers_keep(device: torch.device, size: int, num_rows: int) -> None:
    rng = random.Random(size)
    params = [some_params(rng) for _ in range(num_rows)]
    logits = torch.cat([gaussian(size, num_rows // 2, size), quantised(size, num_rows - num_rows // 2, size)])
    logits[:, 5] = -torch.inf
    twin = logits.clone()
    filters_twin(twin, records([asked(p) for p in params], torch.device("cpu")))
    assert filtered(logits, params, device) == left(twin) == kept_by_sampler(logits, params)


def test_what_is_no_number_ends_the_search_too(device: torch.device) -> None:
    logits = gaussian(3, 4, 301)
    logits[0, 5], logits[1, 200:], logits[2, 3], logits[3] = torch.nan, torch.nan, torch.inf, -torch.inf
    filters(
        logits.to(device),
        records([asked(SamplingParams(temperature=1.0, top_k=7, top_p=0.5, min_p=0.1, typical_p=0.5))] * 4, device),
    )
