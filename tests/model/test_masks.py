"""Masks on the device: their bits as they are meant, made once while they are in use, and never more than so many."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from model.batch import TokenMask
from model.masks import MAX_MASKS, Masks


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(vocab_size=st.integers(1, 70), numbers=st.sets(st.integers(0, 69)))
def test_a_mask_forbids_what_it_does_not_allow(device, vocab_size, numbers):
    allowed = {i for i in numbers if i < vocab_size}
    forbidden = Masks(device).forbidden(TokenMask.of(tuple(allowed), vocab_size), vocab_size)
    assert forbidden.dtype == torch.bool
    assert forbidden.device.type == device.type
    assert {i for i, is_forbidden in enumerate(forbidden.tolist()) if not is_forbidden} == allowed
    assert len(forbidden) == vocab_size


def test_equal_masks_are_made_once_as_long_as_they_are_in_use_and_forgotten_behind_so_many_others(device):
    masks = Masks(device)
    first = masks.forbidden(TokenMask.of((0,), 100), 100)
    for i in range(1, MAX_MASKS):
        masks.forbidden(TokenMask.of((i,), 100), 100)
        assert masks.forbidden(TokenMask.of((0,), 100), 100) is first
    for i in range(1, MAX_MASKS + 1):
        masks.forbidden(TokenMask.of((0, i), 101), 101)
    again = masks.forbidden(TokenMask.of((0,), 100), 100)
    assert again is not first
    assert torch.equal(again, first)


def test_a_mask_of_another_vocabulary_is_no_mask():
    with pytest.raises(AssertionError, match="a bit for each token"):
        Masks(torch.device("cpu")).forbidden(TokenMask.of((0,), 8), 9)
