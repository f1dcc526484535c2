"""Sets of rows with weights: how many of each an epoch has, that none is left out, and that a batch follows from its step."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from model.training.data.example_batches import ShuffledBatches
from model.training.data.row_sets import RowSets
from model.training.distributed import Processes
from model.training.recipe import Recipe

sets_of_rows = st.lists(st.tuples(st.integers(1, 40), st.floats(0.1, 10)), min_size=1, max_size=4).map(
    lambda drawn: RowSets(tuple(size for size, _ in drawn), tuple(weight for _, weight in drawn))
)


def number_of_set(sets, rows):
    return np.searchsorted(np.cumsum(sets.sizes), rows, side="right")


@given(sets=sets_of_rows, num_epochs=st.integers(1, 6), seed=st.integers(0, 3))
def test_over_any_number_of_epochs_each_set_has_its_share_to_a_row(sets, num_epochs, seed):
    drawn = np.concatenate([sets.epoch(number, seed) for number in range(num_epochs)])
    counts = np.bincount(number_of_set(sets, drawn), minlength=len(sets.sizes))
    wanted = np.array(sets.weights) / sum(sets.weights) * sum(sets.sizes) * num_epochs
    assert (np.abs(counts - wanted) <= 1).all()


@given(sets=sets_of_rows, seed=st.integers(0, 3))
def test_no_row_comes_again_before_all_of_its_set_have_come(sets, seed):
    drawn = np.concatenate([sets.epoch(number, seed) for number in range(8)])
    for number in range(len(sets.sizes)):
        counts = np.bincount(drawn[number_of_set(sets, drawn) == number] - sum(sets.sizes[:number]), minlength=sets.sizes[number])
        assert counts.max() - counts.min() <= 1


def test_each_time_a_set_is_gone_through_its_order_is_new_and_no_other_sets():
    sets = RowSets((30, 30), (1.0, 1.0))
    first, second = sets.epoch(0, seed=0), sets.epoch(1, seed=0)
    assert first[:30].tolist() != second[:30].tolist()
    assert first[:30].tolist() != (first[30:] - 30).tolist()
    assert first.tolist() == sets.epoch(0, seed=0).tolist()


def test_a_small_set_of_large_weight_makes_up_its_share_of_the_batches():
    sets = RowSets((990, 10), (1.0, 1.0))
    batches = ShuffledBatches(np.ones(1000, dtype=np.int32), Recipe(max_steps=1, batch_size=50), Processes(), sets)
    rows = np.concatenate([batches.rows(step) for step in range(batches.batches_per_epoch)])
    assert (rows >= 990).sum() == 500


def test_sets_are_read_as_they_were_kept(tmp_path):
    sets = RowSets((3, 4), (0.25, 2.0))
    sets.save(tmp_path / "sets.json")
    assert RowSets.load(tmp_path / "sets.json") == sets
