"""Cache slots: who gets which, and which prefixes may start a new prompt."""

import pytest

from app.engine.slots import Acquired, PrefixCopy, SlotPool

A, B, C = (1,) * 4, (2,) * 4, (3,) * 4  # whole chunks
END = (9,)


@pytest.fixture
def pool() -> SlotPool:
    return SlotPool(num_slots=3, multiple=4)


def run(pool: SlotPool, prompt: tuple[int, ...], keep: bool = False) -> Acquired:
    """Prefill a prompt to its end, and let go of its slot unless it is to be kept."""
    acquired = pool.acquire(prompt)
    for end in range(acquired.num_reused + 4, len(prompt) + 4, 4):
        pool.record(acquired.slot, prompt, min(end, len(prompt)))
    if not keep:
        pool.release(acquired.slot)
    return acquired


def test_slots_are_handed_out_once_until_they_are_released(pool):
    slots = [pool.acquire(END).slot for _ in range(3)]
    assert sorted(slots) == [0, 1, 2]
    assert (pool.num_free, pool.num_used) == (0, 3)
    pool.release(slots[1])
    assert pool.acquire(END).slot == slots[1]


def test_the_slot_that_was_free_longest_goes_first(pool):
    slots = [pool.acquire(END).slot for _ in range(3)]
    for slot in (slots[2], slots[0], slots[1]):
        pool.release(slot)
    assert [pool.acquire(END).slot for _ in range(3)] == [slots[2], slots[0], slots[1]]


def test_releasing_a_free_slot_is_an_error(pool):
    with pytest.raises(AssertionError, match="slot 0 is free already"):
        pool.release(0)


def test_a_free_slot_with_the_prefix_is_taken_over_in_place(pool):
    first = run(pool, A + B + END)
    assert run(pool, A + B + C) == Acquired(first.slot, 8, None)


def test_a_prefix_in_use_is_copied(pool):
    first = run(pool, A + B + END, keep=True)
    second = pool.acquire(A + B + C)
    assert second.slot != first.slot
    assert second.copy == PrefixCopy(first.slot, second.slot, 8)


def test_a_copied_prefix_may_be_shared_at_once(pool):
    first = run(pool, A + B + END, keep=True)
    second = pool.acquire(A + END)
    third = pool.acquire(A + B + END)
    assert second.num_reused == 4
    assert third.copy == PrefixCopy(first.slot, third.slot, 8)


def test_the_longest_shared_prefix_wins_and_a_free_slot_of_two_equals(pool):
    in_use = run(pool, A + B + END, keep=True)
    free = run(pool, A + B + END)
    assert free.slot != in_use.slot
    assert pool.acquire(A + B + END) == Acquired(free.slot, 8, None)


@pytest.mark.parametrize(("num_common", "num_reused"), [(3, 0), (4, 4), (7, 4), (8, 8), (11, 8)])
def test_only_whole_chunks_are_reused(pool, num_common, num_reused):
    run(pool, A + B + C + END)
    assert pool.acquire((A + B + C)[:num_common] + (7,) * 9).num_reused == num_reused


@pytest.mark.parametrize(("prompt", "num_reused"), [(A, 0), (A + END, 4), (A + B, 4), (A + B + END, 8)])
def test_the_chunk_with_the_last_token_of_a_prompt_is_always_run_again(pool, prompt, num_reused):
    run(pool, A + B + C)
    assert pool.acquire(prompt).num_reused == num_reused


def test_a_prompts_unfinished_last_chunk_is_never_shared(pool):
    run(pool, A + B[:2])
    assert pool.acquire(A + B[:2] + C).num_reused == 4


def test_a_prompt_that_did_not_get_far_shares_what_was_run(pool):
    slot = pool.acquire(A + B + C).slot
    pool.record(slot, A + B + C, 4)
    pool.release(slot)
    assert pool.acquire(A + B + C) == Acquired(slot, 4, None)


def test_taking_a_slot_over_forgets_what_lies_beyond_the_shared_prefix(pool):
    first = run(pool, A + B + C + END)
    second = pool.acquire(A + C + END)
    assert (second.slot, second.num_reused) == (first.slot, 4)
    assert pool.acquire(A + B + END).num_reused == 4


def test_a_slot_that_was_given_to_another_prompt_shares_its_old_contents_no_more(pool):
    slots = {run(pool, prefix + END, keep=True).slot: prefix for prefix in (A, B, C)}
    for slot in slots:
        pool.release(slot)
    pool.acquire((5,) * 9)
    oldest = next(iter(slots.values()))
    assert pool.acquire(oldest + END).num_reused == 0


def test_nothing_is_shared_from_a_slot_that_is_not_to_be_trusted(pool):
    acquired = run(pool, A + B + END, keep=True)
    pool.forget(acquired.slot)
    pool.release(acquired.slot)
    assert pool.acquire(A + B + END).num_reused == 0


# Where any prefix will do: a multiple of 1.


@pytest.fixture
def free_pool() -> SlotPool:
    return SlotPool(num_slots=3, multiple=1)


@pytest.mark.parametrize(("num_common", "num_reused"), [(15, 0), (16, 16), (17, 17), (39, 39), (40, 39)])
def test_any_prefix_long_enough_to_pay_is_reused_but_for_the_last_token(free_pool, num_common, num_reused):
    prompt = tuple(range(40))
    slot = free_pool.acquire(prompt).slot
    free_pool.record(slot, prompt, 40)
    free_pool.release(slot)
    assert free_pool.acquire(prompt[:num_common] + (99,) * (40 - num_common)).num_reused == num_reused


def test_what_was_generated_is_shared_as_far_as_it_has_been_run(free_pool):
    token_ids = list(range(20))
    slot = free_pool.acquire(tuple(token_ids)).slot
    free_pool.record(slot, token_ids, 20)
    token_ids += [50, 51, 52]  # 52 has been drawn, not run
    free_pool.record(slot, token_ids, 22)
    assert free_pool.acquire((*token_ids, 60)).copy == PrefixCopy(slot, 1, 22)
