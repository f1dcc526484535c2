"""A step's small inputs in one copy: what is staged is what arrives."""

import math

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from model.upload import Upload

INTS = st.lists(st.integers(-(2**63), 2**63 - 1), max_size=5)
FLOATS = st.lists(st.floats(allow_nan=False), max_size=5)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(staged=st.lists(st.tuples(st.just("ints"), INTS) | st.tuples(st.just("floats"), FLOATS), max_size=6))
def test_every_list_comes_back_under_its_own_handle_in_any_order_of_staging(device, staged):
    upload = Upload(device)
    handles = [getattr(upload, kind)(values) for kind, values in staged]
    upload.send()
    for (kind, values), handle in zip(staged, handles, strict=True):
        arrived = upload[handle]
        assert arrived.dtype == (torch.int64 if kind == "ints" else torch.float64)
        assert arrived.device.type == device.type
        assert arrived.tolist() == values


def test_values_that_are_no_numbers_keep_their_meaning(device):
    upload = Upload(device)
    handle = upload.floats([math.nan, math.inf, -math.inf, -0.0])
    upload.send()
    nan, *others = upload[handle].tolist()
    assert math.isnan(nan)
    assert others == [math.inf, -math.inf, 0.0]
    assert math.copysign(1, others[-1]) == -1


def test_a_handle_is_true_only_if_it_holds_values():
    upload = Upload(torch.device("cpu"))
    assert not upload.ints([])
    assert upload.ints([0])
    assert not upload.floats(())
    assert upload.floats(x for x in (0.0,))


def test_an_integer_beyond_64_bits_is_refused():
    with pytest.raises(OverflowError):
        Upload(torch.device("cpu")).ints([2**63])


def test_reading_before_sending_is_an_error():
    upload = Upload(torch.device("cpu"))
    handle = upload.ints([1])
    with pytest.raises(AssertionError, match="only after send"):
        upload[handle]
