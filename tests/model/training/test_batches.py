"""Batches: each epoch covers the text once, in an order that follows from the seed alone, and processes share it out."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.training.data.batches import WeightedSampler, WindowSampler, validation_batches, window_sampler
from model.training.data.shards import TokenShards
from model.training.data.windows import WindowData
from model.training.distributed import Processes
from model.training.errors import TrainingError
from model.training.recipe import Recipe


def numbered_shards(sizes):
    """Shards whose tokens are all different: 0, 1, 2, ... over all of them."""
    starts = np.cumsum([0, *sizes])
    return [np.arange(start, start + size, dtype=np.uint32) for start, size in zip(starts, sizes, strict=False)]


shard_sizes = st.lists(st.integers(1, 200), min_size=1, max_size=4).filter(lambda sizes: max(sizes) >= 40)
contexts = st.sampled_from([4, 8, 12, 16])


@settings(deadline=None)
@given(sizes=shard_sizes, context=contexts, seed=st.integers(0, 2**31 - 1), epoch=st.integers(0, 3))
def test_an_epoch_covers_each_window_once(sizes, context, seed, epoch):
    shards = numbered_shards(sizes)
    sampler = WindowSampler(shards, context, seed)
    num = sampler.windows_per_epoch
    inputs, targets = sampler.batch(epoch * num, num, context)
    assert torch.equal(inputs + 1, targets)
    seen = inputs.flatten().tolist()
    assert len(set(seen)) == len(seen)
    for shard in shards:  # what an epoch leaves out is less than two windows of a shard and its last token
        assert len(set(shard.tolist()) - set(seen)) <= 2 * context
        runs = sorted(row[0] for row in inputs.tolist() if row[0] in shard)
        assert all(b - a == context for a, b in pairwise(runs))


@settings(deadline=None)
@given(sizes=shard_sizes, context=contexts, seed=st.integers(0, 2**31 - 1), first=st.integers(0, 300), count=st.integers(1, 20))
def test_a_batch_is_a_function_of_seed_and_position(sizes, context, seed, first, count):
    shards = numbered_shards(sizes)
    fresh, used = WindowSampler(shards, context, seed), WindowSampler(shards, context, seed)
    used.batch(0, 50, context)
    inputs, targets = fresh.batch(first, count, context)
    for place in range(count):
        again = used.batch(first + place, 1, context)
        assert torch.equal(again[0][0], inputs[place])
        assert torch.equal(again[1][0], targets[place])


def test_each_epoch_and_each_seed_has_its_own_order_and_cuts():
    shards = numbered_shards([2000])
    sampler = WindowSampler(shards, 16, seed=1)
    num = sampler.windows_per_epoch
    epochs = [sampler.batch(epoch * num, num, 16)[0] for epoch in range(3)]
    other = WindowSampler(shards, 16, seed=2).batch(0, num, 16)[0]
    assert len({tuple(windows[:, 0].tolist()) for windows in (*epochs, other)}) == 4
    assert len({int(windows[0, 0]) % 16 for windows in (*epochs, other)}) > 1


@settings(deadline=None)
@given(context=contexts, divisor=st.sampled_from([1, 2, 4]), first=st.integers(0, 40))
def test_shorter_windows_cut_the_same_tokens(context, divisor, first):
    sampler = WindowSampler(numbered_shards([300, 90]), context, seed=0)
    whole, parts = sampler.batch(first, 3, context), sampler.batch(first, 3, context // divisor)
    assert parts[0].shape == (3 * divisor, context // divisor)
    assert all(torch.equal(a.flatten(), b.flatten()) for a, b in zip(whole, parts, strict=True))


def pretraining_data(rank, num, accumulation=1, validation=(100,)):
    shards = TokenShards(numbered_shards([3000, 500]), numbered_shards(validation), 1)
    recipe = Recipe(max_steps=100, batch_size=24, accumulation=accumulation, validation_windows=7)
    return WindowData(shards, 16, recipe, Processes(rank, num))


@pytest.mark.parametrize("num", [1, 2, 3])
@pytest.mark.parametrize("accumulation", [1, 2, 4])
@pytest.mark.parametrize("step", [0, 9, 50, 99])
def test_processes_and_parts_share_a_batch_without_overlap(num, accumulation, step):
    whole = pretraining_data(0, 1).batch(step)
    shares = [pretraining_data(rank, num, accumulation).batch(step) for rank in range(num)]
    assert all(share.num_targets == whole.num_targets == 24 * 16 for share in shares)
    assert all(len(share.parts) == accumulation for share in shares)
    for side in (0, 1):
        shared = torch.cat([part[side] for share in shares for part in share.parts])
        assert torch.equal(shared, whole.parts[0][side])


@pytest.mark.parametrize("num", [1, 2, 3])
def test_processes_share_the_validation_without_overlap(num):
    whole = torch.cat([tokens for tokens, _ in pretraining_data(0, 1, validation=(900,)).validation(step=10**6)])
    shares = [tokens for rank in range(num) for tokens, _ in pretraining_data(rank, num, validation=(900,)).validation(step=10**6)]
    assert sorted(torch.cat(shares)[:, 0].tolist()) == sorted(whole[:, 0].tolist())


def test_validation_uses_windows_of_the_length_that_the_step_trained_on():
    data = pretraining_data(0, 1, validation=(900,))
    early, late = (list(data.validation(step)) for step in (0, 10**6))
    assert {tokens.shape[1] for tokens, _ in late} == {16}
    assert {tokens.shape[1] for tokens, _ in early} == {data.batch(0).parts[0][0].shape[1]} != {16}
    assert sum(tokens.numel() for tokens, _ in early) >= sum(tokens.numel() for tokens, _ in late)


@pytest.mark.parametrize(
    ("size", "context", "remedy"),
    [(32, 16, "a context of at most 15"), (3, 16, "a context of at most 1"), (2, 1, "more text$"), (0, 1, "more text$")],
)
def test_too_little_text_is_refused_with_the_context_it_would_do_for(size, context, remedy):
    with pytest.raises(TrainingError, match=rf"{size} tokens to train on are too few for a context of {context}: .*{remedy}"):
        WindowSampler(numbered_shards([size]), context, seed=0)


def test_a_weighted_set_that_is_too_small_is_refused_by_its_name():
    shards = TokenShards(numbered_shards([300, 20]), [], 1, set_sizes=[1, 1], weights=[0.5, 0.5])
    reason = r"has 20 tokens to train on, too few for a context of 16: more of it, or a context of at most 9"
    with pytest.raises(TrainingError, match=rf"--weights: the text of b\.txt {reason}"):
        window_sampler(shards, 16, seed=0, names=["a.txt", "b.txt"])
    with pytest.raises(TrainingError, match=rf"--weights: the text of path 2 {reason}"):
        window_sampler(shards, 16, seed=0)


@pytest.mark.parametrize(("size", "context"), [(33, 16), (3, 1)])
def test_the_context_that_a_refusal_names_will_do(size, context):
    inputs, _ = WindowSampler(numbered_shards([size]), context, seed=0).batch(0, 2, context)
    assert inputs.shape == (2, context)


@settings(deadline=None)
@given(
    sizes=st.lists(st.integers(2, 200), min_size=1, max_size=3), context=contexts, num=st.integers(1, 30), rows=st.integers(1, 5)
)
def test_validation_windows_are_spread_over_the_shards_and_do_not_overlap(sizes, context, num, rows):
    shards = numbered_shards(sizes)
    batches = list(validation_batches(shards, context, num, rows))
    again = list(validation_batches(shards, context, num, rows))
    assert all(torch.equal(a, b) for one, two in zip(batches, again, strict=True) for a, b in zip(one, two, strict=True))
    inputs, targets = (torch.cat(side) for side in zip(*batches, strict=True))
    length = min(context, max(sizes) - 1)
    possible = sum(max(0, (size - 1) // length) for size in sizes)
    assert inputs.shape == (min(num, possible), length)
    assert torch.equal(inputs + 1, targets)
    assert len(set(inputs.flatten().tolist())) == inputs.numel()
    assert max(len(tokens) for tokens, _ in batches) <= rows
    if num > 1:
        assert inputs[0, 0] == next(shard[0] for shard in shards if len(shard) > length)


def test_held_out_text_shorter_than_the_context_is_validated_in_one_shorter_window():
    [(inputs, targets)] = validation_batches(numbered_shards([3, 9]), 16, 7, 4)
    assert inputs.tolist() == [[3, 4, 5, 6, 7, 8, 9, 10]]
    assert targets.tolist() == [[4, 5, 6, 7, 8, 9, 10, 11]]


@pytest.mark.parametrize("sizes", [[], [1], [1, 1]])
def test_no_held_out_text_is_refused(sizes):
    with pytest.raises(TrainingError, match="no text is held out for validation: more text, or a larger --validation-fraction"):
        list(validation_batches(numbered_shards(sizes), 16, 7, 4))


@settings(deadline=None)
@given(weights=st.lists(st.floats(0.01, 10), min_size=2, max_size=4), first=st.integers(0, 10**7), count=st.integers(1, 500))
def test_each_set_has_its_share_of_any_run_of_windows_and_its_windows_in_their_order(weights, first, count):
    sets = [numbered_shards([200])] * len(weights)
    sampler = WeightedSampler(sets, weights, 8, seed=0)
    places = [sampler.place(number) for number in range(first, first + count)]
    for number, weight in enumerate(weights):
        numbers = [place for of_set, place in places if of_set == number]
        assert abs(len(numbers) - count * weight / sum(weights)) <= len(weights)
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers))) if numbers else True


def test_a_weighted_batch_is_a_function_of_its_place_and_counts_as_its_weights_say():
    train = [*numbered_shards([300, 300]), *(shard + 1000 for shard in numbered_shards([2000]))]
    shards = TokenShards(train, [], 1, set_sizes=[2, 1], weights=[0.7, 0.3])
    tokens, _ = window_sampler(shards, 16, seed=3).batch(0, 1000, 16)
    assert int((tokens[:, 0] < 1000).sum()) in (699, 700)
    assert torch.equal(window_sampler(shards, 16, seed=3).batch(500, 20, 16)[0], tokens[500:520])
