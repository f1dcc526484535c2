"""Cache slots: who gets which, and which prefixes may start a new prompt."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.engine.slots import Acquired, PrefixCopy, SlotPool, num_common

A, B, C = (1,) * 4, (2,) * 4, (3,) * 4  # whole chunks
END = (9,)


@pytest.fixture
def pool() -> SlotPool:
    return SlotPool(num_slots=3, multiple=4)


def acquire(pool: SlotPool, prompt: tuple[int, ...]) -> Acquired:
    """For a new prompt, whose last token has to be run."""
    return pool.acquire(prompt, len(prompt) - 1)


def run(pool: SlotPool, prompt: tuple[int, ...], keep: bool = False) -> Acquired:
    """Prefill a prompt to its end, and let go of its slot unless it is to be kept."""
    acquired = acquire(pool, prompt)
    for end in range(acquired.num_reused + 4, len(prompt) + 4, 4):
        pool.record(acquired.slot, prompt, min(end, len(prompt)))
    if not keep:
        pool.release(acquired.slot)
    return acquired


def test_slots_are_handed_out_once_until_they_are_released(pool):
    slots = [acquire(pool, END).slot for _ in range(3)]
    assert sorted(slots) == [0, 1, 2]
    assert (pool.num_free, pool.num_used) == (0, 3)
    pool.release(slots[1])
    assert acquire(pool, END).slot == slots[1]


def test_the_slot_that_was_free_longest_goes_first(pool):
    slots = [acquire(pool, END).slot for _ in range(3)]
    for slot in (slots[2], slots[0], slots[1]):
        pool.release(slot)
    assert [acquire(pool, END).slot for _ in range(3)] == [slots[2], slots[0], slots[1]]


def test_releasing_a_free_slot_is_an_error(pool):
    with pytest.raises(AssertionError, match="slot 0 is free already"):
        pool.release(0)


def test_a_free_slot_with_the_prefix_is_taken_over_in_place(pool):
    first = run(pool, A + B + END)
    assert run(pool, A + B + C) == Acquired(first.slot, 8, None)


def test_a_prefix_in_use_is_copied(pool):
    first = run(pool, A + B + END, keep=True)
    second = acquire(pool, A + B + C)
    assert second.slot != first.slot
    assert second.copy == PrefixCopy(first.slot, second.slot, 8)


def test_a_copied_prefix_may_be_shared_at_once(pool):
    first = run(pool, A + B + END, keep=True)
    second = acquire(pool, A + END)
    third = acquire(pool, A + B + END)
    assert second.num_reused == 4
    assert third.copy == PrefixCopy(first.slot, third.slot, 8)


def test_the_longest_shared_prefix_wins_and_a_free_slot_of_two_equals(pool):
    in_use = run(pool, A + B + END, keep=True)
    free = run(pool, A + B + END)
    assert free.slot != in_use.slot
    assert acquire(pool, A + B + END) == Acquired(free.slot, 8, None)


@pytest.mark.parametrize(("num_common", "num_reused"), [(3, 0), (4, 4), (7, 4), (8, 8), (11, 8)])
def test_only_whole_chunks_are_reused(pool, num_common, num_reused):
    run(pool, A + B + C + END)
    assert acquire(pool, (A + B + C)[:num_common] + (7,) * 9).num_reused == num_reused


@pytest.mark.parametrize(("prompt", "num_reused"), [(A, 0), (A + END, 4), (A + B, 4), (A + B + END, 8)])
def test_the_chunk_with_the_last_token_of_a_prompt_is_always_run_again(pool, prompt, num_reused):
    run(pool, A + B + C)
    assert acquire(pool, prompt).num_reused == num_reused


def test_a_prompts_unfinished_last_chunk_is_never_shared(pool):
    run(pool, A + B[:2])
    assert acquire(pool, A + B[:2] + C).num_reused == 4


def test_a_prompt_that_did_not_get_far_shares_what_was_run(pool):
    slot = acquire(pool, A + B + C).slot
    pool.record(slot, A + B + C, 4)
    pool.release(slot)
    assert acquire(pool, A + B + C) == Acquired(slot, 4, None)


def test_taking_a_slot_over_forgets_what_lies_beyond_the_shared_prefix(pool):
    first = run(pool, A + B + C + END)
    second = acquire(pool, A + C + END)
    assert (second.slot, second.num_reused) == (first.slot, 4)
    assert acquire(pool, A + B + END).num_reused == 4


def test_a_slot_that_was_given_to_another_prompt_shares_its_old_contents_no_more(pool):
    slots = {run(pool, prefix + END, keep=True).slot: prefix for prefix in (A, B, C)}
    for slot in slots:
        pool.release(slot)
    acquire(pool, (5,) * 9)
    oldest = next(iter(slots.values()))
    assert acquire(pool, oldest + END).num_reused == 0


def test_nothing_is_shared_from_a_slot_that_is_not_to_be_trusted(pool):
    acquired = run(pool, A + B + END, keep=True)
    pool.forget(acquired.slot)
    pool.release(acquired.slot)
    assert acquire(pool, A + B + END).num_reused == 0


# Where any prefix will do: a multiple of 1.


@pytest.fixture
def free_pool() -> SlotPool:
    return SlotPool(num_slots=3, multiple=1)


@pytest.mark.parametrize(("num_common", "num_reused"), [(15, 0), (16, 16), (17, 17), (39, 39), (40, 39)])
def test_any_prefix_long_enough_to_pay_is_reused_but_for_the_last_token(free_pool, num_common, num_reused):
    prompt = tuple(range(40))
    slot = acquire(free_pool, prompt).slot
    free_pool.record(slot, prompt, 40)
    free_pool.release(slot)
    assert acquire(free_pool, prompt[:num_common] + (99,) * (40 - num_common)).num_reused == num_reused


def test_what_was_generated_is_shared_as_far_as_it_has_been_run(free_pool):
    token_ids = list(range(20))
    slot = acquire(free_pool, tuple(token_ids)).slot
    free_pool.record(slot, token_ids, 20)
    token_ids += [50, 51, 52]  # 52 has been drawn, not run
    free_pool.record(slot, token_ids, 22)
    assert acquire(free_pool, (*token_ids, 60)).copy == PrefixCopy(slot, 1, 22)


# Forks: samples of a prompt that somebody has run to its end.


@pytest.mark.parametrize("kind", ["pool", "free_pool"])
@pytest.mark.parametrize("length", [1, 3, 4, 6, 12])
def test_a_fork_takes_over_the_whole_prompt_however_short(kind, length, request):
    pool, prompt = request.getfixturevalue(kind), (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12)[:length]
    first = run(pool, prompt, keep=True)
    fork = pool.acquire((*prompt, 50), length, is_fork=True)
    assert fork.copy == PrefixCopy(first.slot, fork.slot, length)


def test_a_fork_takes_over_what_a_free_slot_holds_in_place(pool):
    first = run(pool, A + END)
    assert pool.acquire((*A, *END, 50), 5, is_fork=True) == Acquired(first.slot, 5, None)


@pytest.mark.parametrize("other", [A + END + END, A + B, (*A, 8)], ids=["longer", "another chunk", "another token"])
def test_where_cuts_matter_a_fork_shares_whole_chunks_alone_of_another_prompt(pool, other):
    run(pool, other)
    assert pool.acquire((*A, *END, 50), 5, is_fork=True).num_reused == 4


def test_where_they_do_not_a_fork_may_come_from_a_slot_that_went_on(free_pool):
    slot = acquire(free_pool, (1, 2, 3)).slot
    free_pool.record(slot, [1, 2, 3, 40, 41], 5)
    fork = free_pool.acquire((1, 2, 3, 50), 3, is_fork=True)
    assert fork.copy == PrefixCopy(slot, fork.slot, 3)


# The search for the longest prefix, which passes over most slots after one look.

TOKENS = st.lists(st.integers(0, 1), max_size=12)


@given(TOKENS, TOKENS)
def test_the_number_of_common_tokens_is_that_of_a_comparison_one_by_one(a, b):
    limit = min(len(a), len(b))
    assert num_common(a, b, limit) == next((i for i in range(limit) if a[i] != b[i]), limit)


@given(st.data(), st.sampled_from([1, 4]), st.lists(TOKENS, min_size=1, max_size=6), TOKENS, st.booleans())
def test_the_slot_found_is_one_that_shares_most_and_free_if_one_of_these_is(data, multiple, contents, prompt, is_fork):
    in_use = data.draw(st.sets(st.sampled_from(range(len(contents)))))
    max_reused = data.draw(st.integers(0, len(prompt)))
    pool = holding(contents, multiple, in_use)
    lengths = [holding([held], multiple, set()).longest_shared(prompt, max_reused, is_fork)[1] for held in contents]
    best, length = pool.longest_shared(prompt, max_reused, is_fork)
    assert length == lengths[best] == max(lengths)
    assert not length or best not in in_use or all(lengths[slot] < length or slot in in_use for slot in range(len(contents)))


def holding(contents: list[list[int]], multiple: int, in_use: set[int]) -> SlotPool:
    pool = SlotPool(len(contents), multiple)
    pool.min_shared = 2 if multiple == 1 else multiple  # prompts are short here
    for _ in contents:
        pool.acquire([], 0)
    for slot, held in enumerate(contents):
        pool.record(slot, held, len(held))
        if slot not in in_use:
            pool.release(slot)
    return pool


@given(st.data(), st.sampled_from([1, 4]), TOKENS, TOKENS)
def test_what_may_be_shared_is_whole_multiples_of_what_is_common_if_enough(data, multiple, held, prompt):
    pool = SlotPool(1, multiple)
    pool.min_shared = 3 if multiple == 1 else multiple
    limit = data.draw(st.integers(0, min(len(held), len(prompt))))
    common = num_common(held, prompt, limit) // multiple * multiple
    assert pool.shareable(held, prompt, limit) == (common if common >= pool.min_shared else 0)
