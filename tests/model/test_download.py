"""A step's results in one copy: what is added is what arrives, and what comes later does not disturb it."""

import math

import pytest
import torch

from model.download import Download


def test_everything_comes_back_at_its_own_place_exactly(device):
    download = Download()
    ids = torch.tensor([[2**24 + 1, 50256]], device=device)
    floats = torch.tensor([[0.1], [-math.inf], [math.nan]], device=device)
    places = [download.add(values) for values in (ids, floats, torch.tensor([[True, False]], device=device))]
    download.send()
    assert download[places[2]] == [[1.0, 0.0]]
    assert download[places[0]] == [[2**24 + 1, 50256]]
    (first,), (second,), (third,) = download[places[1]]
    assert (first, second) == (torch.tensor(0.1).item(), -math.inf)
    assert math.isnan(third)


def test_what_was_sent_keeps_its_values_though_others_are_computed_in_their_place(device):
    values = torch.ones(2, 2, device=device)
    download = Download()
    place = download.add(values)
    download.send()
    values.zero_()
    assert download[place] == [[1.0, 1.0], [1.0, 1.0]]


def test_reading_before_sending_is_an_error():
    download = Download()
    place = download.add(torch.zeros(1, 1))
    with pytest.raises(AssertionError, match="only after send"):
        download[place]
