"""Each filter against a plain reference in Python floats, written from the papers' definitions."""

import math
import random
from functools import partial

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from model.filters import min_p, top_k, top_p, typical_p

MARGIN = 1e-9  # sums in another order differ by far less; a token within it of the border may go either way

Row = list[float]
quick = partial(settings, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def softmax(logits: Row) -> Row:
    largest = max(logits)
    weights = [math.exp(x - largest) for x in logits]
    total = math.fsum(weights)
    return [weight / total for weight in weights]


def until_mass(order: list[int], probabilities: Row, p: float) -> set[int]:
    kept: set[int] = set()
    for i in order:
        if kept and math.fsum(probabilities[j] for j in kept) >= p:
            break
        kept.add(i)
    return kept


def expected_top_k(logits: Row, k: int) -> set[int]:
    smallest = sorted(logits, reverse=True)[min(k, len(logits)) - 1]
    return {i for i, x in enumerate(logits) if x >= smallest}


def expected_top_p(logits: Row, p: float) -> set[int]:
    probabilities = softmax(logits)
    return until_mass(sorted(range(len(logits)), key=lambda i: -probabilities[i]), probabilities, p)


def expected_min_p(logits: Row, p: float) -> set[int]:
    probabilities = softmax(logits)
    return {i for i, x in enumerate(probabilities) if x >= p * max(probabilities)}


def expected_typical_p(logits: Row, p: float) -> set[int]:
    probabilities = softmax(logits)
    entropy = -math.fsum(x * math.log(x) for x in probabilities if x > 0)
    surprise = [-math.log(x) if x > 0 else math.inf for x in probabilities]
    return until_mass(sorted(range(len(logits)), key=lambda i: abs(surprise[i] - entropy)), probabilities, p)


def kept_by(apply, device: torch.device, rows: list[Row], values: list[float]) -> list[set[int]]:
    logits = torch.tensor(rows, dtype=torch.float64, device=device)
    filtered = apply(logits, torch.tensor(values, dtype=torch.float64, device=device)[:, None])
    kept = filtered > -torch.inf
    assert torch.equal(filtered[kept], logits[kept]), "what stays keeps its bits"
    return [set(row.nonzero()[:, 0].tolist()) for row in kept]


@st.composite
def batches(draw, values):
    """Rows of distinct logits, some with tokens that an earlier filter has cut off, and a parameter a row."""
    num_rows, size, spread = draw(st.integers(1, 5)), draw(st.integers(1, 60)), draw(st.sampled_from([0.1, 1.0, 5.0, 40.0]))
    generator = random.Random(draw(st.integers(0, 2**32)))
    rows = [[generator.gauss(0, spread) for _ in range(size)] for _ in range(num_rows)]
    for row in rows:
        for i in generator.sample(range(size), draw(st.integers(0, size - 1))):
            row[i] = -math.inf
    return rows, [draw(values) for _ in range(num_rows)]


@quick()
@given(batches(st.integers(1, 80)))
def test_top_k_keeps_the_k_likeliest_tokens(device, batch):
    rows, ks = batch
    kept = kept_by(partial(top_k, largest=max(ks)), device, rows, [float(k) for k in ks])
    possible = [{i for i, x in enumerate(row) if x > -math.inf} for row in rows]
    assert kept == [expected_top_k(row, k) & all_of for row, k, all_of in zip(rows, ks, possible, strict=True)]


@quick()
@given(batches(st.floats(0.001, 0.999)))
@pytest.mark.parametrize(("apply", "expected"), [(top_p, expected_top_p), (typical_p, expected_typical_p)])
def test_a_nucleus_is_the_smallest_set_of_tokens_that_reaches_the_mass(device, apply, expected, batch):
    rows, ps = batch
    for kept, row, p in zip(kept_by(apply, device, rows, ps), rows, ps, strict=True):
        possible = {i for i, x in enumerate(row) if x > -math.inf}
        assert expected(row, p - MARGIN) & possible <= kept <= expected(row, p + MARGIN) & possible


@quick()
@given(batches(st.floats(0.001, 1.0)))
@example(([[0.0, 0.0, -1.0]], [1.0]))
def test_min_p_keeps_tokens_that_are_not_much_less_likely_than_the_likeliest(device, batch):
    rows, ps = batch
    for kept, row, p in zip(kept_by(min_p, device, rows, ps), rows, ps, strict=True):
        possible = {i for i, x in enumerate(row) if x > -math.inf}
        assert row.index(max(row)) in kept
        assert expected_min_p(row, p * (1 + MARGIN)) <= kept <= expected_min_p(row, p * (1 - MARGIN)) & possible


@quick()
@given(batches(st.floats(1e-300, 1e-12)))
@pytest.mark.parametrize("apply", [top_p, typical_p])
def test_a_nucleus_is_never_empty(device, apply, batch):
    rows, ps = batch
    assert [len(kept) for kept in kept_by(apply, device, rows, ps)] == [1] * len(rows)


@quick()
@given(batches(st.floats(0.01, 0.99)))
@pytest.mark.parametrize("apply", [top_p, min_p, typical_p, partial(top_k, largest=60)])
def test_a_row_is_filtered_as_it_would_be_with_other_rows_beside_it(device, apply, batch):
    rows, ps = batch
    values = [math.ceil(60 * p) for p in ps] if isinstance(apply, partial) else ps
    together = kept_by(apply, device, rows, values)
    for row, value, kept in zip(rows, values, together, strict=True):
        assert kept_by(apply, device, [row, row], [value, value]) == [kept, kept]


def test_top_k_keeps_all_tokens_that_are_as_likely_as_the_last(device):
    assert kept_by(partial(top_k, largest=2), device, [[3.0, 1.0, 2.0, 2.0, 0.0]], [2.0]) == [{0, 2, 3}]


def test_top_p_takes_the_token_that_crosses_the_border(device):
    rows = [[math.log(x) for x in (0.1, 0.5, 0.15, 0.25)]]
    assert kept_by(top_p, device, rows, [0.6]) == [{1, 3}]
    assert kept_by(top_p, device, rows, [0.49]) == [{1}]


def test_typical_p_drops_the_likeliest_token_where_it_is_the_less_typical_one(device):
    # One token of 0.4 against sixty of 0.01: the entropy of 3.1 is nearer to the surprise of the sixty than to that of the one.
    rows = [[math.log(0.4), *(math.log(0.01) + i * 1e-6 for i in range(60))]]
    (kept,) = kept_by(typical_p, device, rows, [0.3])
    assert 0 not in kept
    assert len(kept) in (30, 31)
