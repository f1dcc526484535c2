"""The native runner gives a sequence the same bits alone and among others, however its prompt is cut, on any number of threads.

The reference is each sequence by itself, one token a step, on one thread. Schedules are made to meet the kernels' borders: 4 rows
of one sequence whose attention is computed together, 6, 10, 16, 20, 32, 48 and 96 rows of a product and its panels of up to 768
inputs, 16 rows of a piece of attention, 64 positions of a group in the cache.
"""

import functools
import random

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from model.batch import Chunk, ForwardBatch
from model.config import GPT2Config
from model.native.runner import NativeRunner
from model.network_files import weights_of
from tests.model.native.kinds import network
from tests.model.schedules import Schedule, check_schedule, random_sequences

NUM_SLOTS = 40
MAX_ROWS = 100
SHAPES = {
    "tails_everywhere": GPT2Config(vocab_size=500, n_positions=200, n_embd=100, n_layer=2, n_head=4, eos_token_ids=(0,)),
    "heads_of_64": GPT2Config(vocab_size=257, n_positions=200, n_embd=128, n_layer=1, n_head=2, n_inner=200, eos_token_ids=(0,)),
    # Its last product goes over 1,728 inputs: three panels in int8, five in bfloat16, nine in float32.
    "deep": GPT2Config(vocab_size=257, n_positions=200, n_embd=64, n_layer=1, n_head=1, n_inner=1700, eos_token_ids=(0,)),
}
LENGTHS = [1, 2, 3, 4, 5, 7, 15, 16, 17, 31, 32, 33, 63, 64, 65, 66, 97, 129, 150]


@functools.lru_cache(maxsize=8)  # each holds megabytes
def runner_of(kind, shape: str, num_slots: int, num_threads: int = 1) -> NativeRunner:
    return kind.runner(SHAPES[shape], weights_of(network(SHAPES[shape])), num_slots, num_threads)


def shortened(kind, lengths: list[int]) -> list[int]:
    """Sequences that slow kernels are done with soon; they meet the borders up to 33 positions."""
    return [1 + (length - 1) % 33 for length in lengths[:6]] if kind.is_slow else lengths


def logits_alone(runner: NativeRunner, token_ids: list[int]) -> list[bytes]:
    batches = (ForwardBatch((Chunk(0, i, (token_id,)),)) for i, token_id in enumerate(token_ids))
    return [runner.logits(batch, [0]).tobytes() for batch in batches]


def check_logits(kind, shape: str, lengths: list[int], seed: int) -> None:
    """Every row of every sequence, given its tokens, against that sequence alone."""
    chance = random.Random(seed)
    runner, alone = runner_of(kind, shape, NUM_SLOTS, chance.choice([1, 2, 3])), runner_of(kind, shape, 1)
    sequences = random_sequences(chance, shortened(kind, lengths), runner.vocab_size)
    expected = {id(sequence): logits_alone(alone, sequence.token_ids) for sequence in sequences}
    schedule = Schedule(runner, chance, max_running=chance.choice([1, 2, 5, NUM_SLOTS - 1]))
    for step in schedule.steps(sequences, num_new=1):
        batch = ForwardBatch(tuple(chunk for _, chunk in step))
        rows = iter(runner.logits(batch, range(batch.num_tokens)))
        for sequence, chunk in step:
            for position in range(chunk.start, chunk.end):
                assert next(rows).tobytes() == expected[id(sequence)][position], f"position {position} of {chunk}"


def check_tokens(kind, shape: str, lengths: list[int], seed: int, num_new: int) -> None:
    """Token ids and log-probabilities of every sequence against that sequence alone."""
    chance = random.Random(seed)
    runner, alone = runner_of(kind, shape, NUM_SLOTS, chance.choice([1, 2, 3])), runner_of(kind, shape, 1)
    sequences = random_sequences(chance, shortened(kind, lengths), runner.vocab_size)
    check_schedule(Schedule(runner, chance, max_running=chance.choice([1, 2, 5, NUM_SLOTS - 1])), alone, sequences, num_new)


LENGTH = st.sampled_from(LENGTHS) | st.integers(1, 150)
FEW = st.lists(LENGTH, min_size=1, max_size=4)
SEEDS = st.integers(0, 2**32)
# More rows than the products' tiles hold, all of them decoding or many of them in prompts.
MANY = [1] * 20 + [2] * 18
LONG = [150, 149, 64, 65, 33]
property_of_schedules = settings(
    max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@pytest.mark.parametrize("shape", SHAPES)
@property_of_schedules
@given(lengths=FEW, seed=SEEDS)
@example(lengths=MANY, seed=1)
@example(lengths=LONG, seed=2)
def test_every_rows_logits_are_those_of_its_sequence_alone(kind, shape, lengths, seed):
    check_logits(kind, shape, lengths, seed)


@pytest.mark.parametrize("shape", SHAPES)
@property_of_schedules
@given(lengths=FEW, seed=SEEDS, num_new=st.integers(1, 12))
@example(lengths=MANY, seed=1, num_new=5)
@example(lengths=LONG, seed=2, num_new=20)
def test_tokens_and_log_probabilities_are_those_of_a_sequence_alone(kind, shape, lengths, seed, num_new):
    check_tokens(kind, shape, lengths, seed, num_new)


@functools.cache
def sequences_of_a_crowd(kind, shape: str) -> list[tuple[list[int], bytes]]:
    """A sequence for each slot of a large runner, and its logits after the last token."""
    chance, vocab_size = random.Random(4), SHAPES[shape].vocab_size
    sequences = [[chance.randrange(vocab_size) for _ in range(2 + slot % 6)] for slot in range(MAX_ROWS)]
    expected = [logits_alone(runner_of(kind, shape, 1), token_ids)[-1] for token_ids in sequences]
    assert len(set(expected)) == MAX_ROWS, "a row could not be told from another"
    return list(zip(sequences, expected, strict=True))


def enter_pasts(runner: NativeRunner, crowd: list[tuple[list[int], bytes]]) -> None:
    """All but the last token of each."""
    pasts = (Chunk(slot, 0, tuple(token_ids[:-1])) for slot, (token_ids, _) in enumerate(crowd))
    runner.logits(ForwardBatch(tuple(pasts)), [])


@pytest.mark.parametrize("shape", ["tails_everywhere", "deep"])
@pytest.mark.parametrize("num_threads", [1, 2, 3])
def test_any_number_of_rows_in_a_step_gives_each_the_bits_of_its_sequence_alone(kind, num_threads, shape):
    crowd, runner = sequences_of_a_crowd(kind, shape), runner_of(kind, shape, MAX_ROWS, num_threads)
    enter_pasts(runner, crowd)
    for num_rows in (3, 20, 49, MAX_ROWS) if kind.is_slow else (*range(1, 35), 47, 48, 49, 59, 60, 61, 95, 96, 97, MAX_ROWS):
        first = (num_rows * num_threads) % (MAX_ROWS - num_rows + 1)  # not always the same neighbours
        slots = range(first, first + num_rows)
        batch = ForwardBatch(tuple(Chunk(slot, len(crowd[slot][0]) - 1, (crowd[slot][0][-1],)) for slot in slots))
        for slot, logits in zip(slots, runner.logits(batch, range(num_rows)), strict=True):
            assert logits.tobytes() == crowd[slot][1], f"row {slot - first} of {num_rows}"


@pytest.mark.parametrize("cut", [*range(1, 25), 33, 63, 64, 65, 127, 128, 129])
def test_a_prompt_cut_at_any_place_gives_the_bits_of_one_token_at_a_time(kind, cut):
    chance, runner = random.Random(3), runner_of(kind, "tails_everywhere", NUM_SLOTS, 1 + cut % 2)
    token_ids = [chance.randrange(500) for _ in range(40 if kind.is_slow else 150)]
    rows: list[np.ndarray] = []
    for start in range(0, len(token_ids), cut):
        chunk = Chunk(9, start, tuple(token_ids[start : start + cut]))
        rows.extend(runner.logits(ForwardBatch((chunk,)), range(len(chunk.token_ids))))
    assert [row.tobytes() for row in rows] == whole_prompt(kind, tuple(token_ids))


@functools.cache
def whole_prompt(kind, token_ids: tuple[int, ...]) -> list[bytes]:
    return logits_alone(runner_of(kind, "tails_everywhere", 1), list(token_ids))
