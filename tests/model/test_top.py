"""The likeliest tokens of a row: exactly those of a stable sort, whatever equals stand beside each other."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from model.top import TopPlan, likeliest, to_top, with_top
from model.upload import Upload

FEW = st.sampled_from([-3.5, -1.0, -1e-45, -0.0, 0.0, 1e-45, 2.0, -torch.inf])
ROWS = st.integers(1, 40).flatmap(lambda size: st.lists(st.lists(FEW, min_size=size, max_size=size), min_size=1, max_size=4))


def expected(row: list[float], n: int) -> list[int]:
    return sorted(range(len(row)), key=lambda i: (-row[i], i))[:n]


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=ROWS, n=st.integers(1, 40))
def test_they_come_in_the_order_of_their_values_and_equals_in_that_of_their_ids(device, rows, n):
    n = min(n, len(rows[0]))
    assert likeliest(torch.tensor(rows, device=device), n).tolist() == [expected(row, n) for row in rows]


@pytest.mark.parametrize("size", [5, 50257])
def test_so_they_do_in_large_vocabularies_of_few_values(device, size):
    logprobs = -torch.randint(7, (3, size), generator=torch.Generator().manual_seed(0)).float()
    assert likeliest(logprobs.to(device), 5).tolist() == [expected(row, 5) for row in logprobs.tolist()]


def test_only_rows_that_ask_are_told_and_each_as_many_as_it_asks_for(device):
    logprobs = torch.tensor([[-3.0, -1.0, -2.0], [-1.0, -1.0, -2.0], [-1.0, -2.0, -3.0]], device=device)
    upload = Upload(device)
    top_ns = [1, 0, 20]
    plan = TopPlan.of(top_ns, upload)
    upload.send()
    told = torch.arange(3, dtype=torch.float64, device=device)[:, None]
    rows = with_top(told, logprobs, plan, upload).tolist()
    assert [row[0] for row in rows] == [0, 1, 2]
    tops = [to_top(row[1:], n) for row, n in zip(rows, top_ns, strict=True)]
    assert tops == [((1, -1.0),), (), ((0, -1.0), (1, -2.0), (2, -3.0))]


def test_where_nobody_asks_nothing_is_added(device):
    upload = Upload(device)
    plan = TopPlan.of([0, 0], upload)
    upload.send()
    told = torch.zeros(2, 3, dtype=torch.float64, device=device)
    assert with_top(told, torch.zeros(2, 5, device=device), plan, upload) is told
