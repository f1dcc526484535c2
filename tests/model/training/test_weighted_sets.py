"""What weights make of sets of text, as it is told before a run."""

import numpy as np
import pytest

from model.training.data.batches import window_sampler
from model.training.data.shards import TokenShards
from model.training.data.weighted_sets import most_repeated, weighted_sets, weights_line

NAMES = ["large.txt", "small.txt"]


def ids(size):
    return np.zeros(size, dtype=np.uint16)


@pytest.fixture
def shards():
    """9,000 tokens in two shards, and 1,000."""
    return TokenShards([ids(4_000), ids(5_000), ids(1_000)], [], 1, set_sizes=[2, 1], weights=[3, 1])


def test_each_set_is_told_with_its_share_and_how_often_it_is_gone_through(shards):
    assert weights_line(weighted_sets(shards, NAMES), 12000, "tokens") == (
        "weights: large.txt 75 % of the tokens, 1.0 times through it; small.txt 25 % of the tokens, 3.0 times through it"
    )


def test_a_share_that_is_no_whole_percentage_is_told_to_three_figures():
    thirds = TokenShards([ids(100), ids(100)], [], 1, set_sizes=[1, 1], weights=[1, 2])
    told = weights_line(weighted_sets(thirds, NAMES), 160, "tokens")
    assert told.startswith("weights: large.txt 33.3 % of the tokens, 0.5 times through it; ")


def test_the_most_repeated_set_is_the_one_that_is_smallest_for_its_weight(shards):
    assert most_repeated(shards, NAMES).name == "small.txt"
    assert most_repeated(shards).name == "path 2"
    assert most_repeated(shards, NAMES).until_repeated == 4_000


def test_without_weights_all_is_one_text():
    (text,) = weighted_sets(TokenShards([ids(300), ids(50)], [], 1))
    assert (text.name, text.share, text.until_repeated) == ("the text", 1.0, 350)


def test_the_shares_that_are_told_are_those_of_the_windows(shards):
    sampler = window_sampler(shards, 16, seed=0)
    of_small = sum(sampler.place(number)[0] for number in range(1000))
    assert of_small / 1000 == pytest.approx(weighted_sets(shards)[1].share, abs=0.002)
