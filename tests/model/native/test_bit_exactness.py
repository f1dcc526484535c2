"""The native runner gives a sequence the same bits alone and among others, however its prompt is cut, on any number of threads.

The reference is each sequence by itself, one token a step, on one thread. Schedules are made to meet the kernels' borders: 4 rows
of one sequence whose attention is computed together, 6, 10, 16, 20, 32, 48 and 96 rows of a product and its panels of up to 768
inputs, 16 rows of a piece of attention, 64 positions of a group in the cache.
"""

import functools
import random
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from model.batch import Chunk, Draw, ForwardBatch, SampledToken, SamplingParams
from model.config import GPT2Config
from model.native.runner import NativeRunner
from model.network_files import weights_of
from tests.model.native.kinds import network
from tests.model.native.running import bits, drawn, execute

NUM_SLOTS = 40
MAX_ROWS = 100
SHAPES = {
    "tails_everywhere": GPT2Config(vocab_size=500, n_positions=200, n_embd=100, n_layer=2, n_head=4, eos_token_ids=(0,)),
    "heads_of_64": GPT2Config(vocab_size=257, n_positions=200, n_embd=128, n_layer=1, n_head=2, n_inner=200, eos_token_ids=(0,)),
    # Its last product goes over 1,728 inputs: three panels in int8, five in bfloat16, nine in float32.
    "deep": GPT2Config(vocab_size=257, n_positions=200, n_embd=64, n_layer=1, n_head=1, n_inner=1700, eos_token_ids=(0,)),
}
LENGTHS = [1, 2, 3, 4, 5, 7, 15, 16, 17, 31, 32, 33, 63, 64, 65, 66, 97, 129, 150]
CUTS = [1, 2, 3, 4, 5, 6, 7, 8, 13, 16, 17, 20, 31, 33, 64, 65, 100, 150]


@functools.lru_cache(maxsize=8)  # each holds megabytes
def runner_of(kind, shape: str, num_slots: int, num_threads: int = 1) -> NativeRunner:
    return kind.runner(SHAPES[shape], weights_of(network(SHAPES[shape])), num_slots, num_threads)


def shortened(kind, lengths: list[int]) -> list[int]:
    """Sequences that slow kernels are done with soon; they meet the borders up to 33 positions."""
    return [1 + (length - 1) % 33 for length in lengths[:6]] if kind.is_slow else lengths


@dataclass
class Running:
    """A sequence: its tokens, how many of them are in the cache, and what came out."""

    token_ids: list[int]
    num_prompt: int
    params: SamplingParams = field(default_factory=SamplingParams)
    num_cached: int = 0
    slot: int = 0
    drawn: list[SampledToken] = field(default_factory=list)

    def chunk(self, length: int) -> Chunk:
        """The next tokens, with a draw if they are the last known."""
        start, end = self.num_cached, min(self.num_cached + length, len(self.token_ids))
        draws = (Draw(end - start - 1, self.params, self.num_prompt),) if end == len(self.token_ids) else ()
        return Chunk(self.slot, start, tuple(self.token_ids[start:end]), draws)


class Schedule:
    """Sequences that come and go in the slots of one runner; slots keep what they held, and a prefix may be taken from any."""

    def __init__(self, runner: NativeRunner, chance: random.Random, max_running: int) -> None:
        self.runner, self.chance, self.max_running = runner, chance, max_running
        self.held: dict[int, list[int]] = {}

    def steps(self, waiting: list[Running], num_new: int) -> Iterator[list[tuple[Running, Chunk]]]:
        """Each step's chunks; whoever iterates runs them. A sequence is done with `num_new` draws."""
        waiting, running = list(waiting), []
        while waiting or running:
            while waiting and len(running) < self.max_running and (not running or self.chance.random() < 0.7):
                running.append(self._start(waiting.pop(), {sequence.slot for sequence in running}))
            chosen = [sequence for sequence in running if self.chance.random() < 0.8] or running[:1]
            self.chance.shuffle(chosen)
            chunks = [(sequence, sequence.chunk(self.chance.choice(CUTS))) for sequence in chosen]
            yield chunks
            for sequence, chunk in chunks:
                sequence.num_cached = chunk.end
                self.held[sequence.slot][chunk.start :] = chunk.token_ids
            running = [s for s in running if len(s.drawn) < num_new if s.num_cached < len(s.token_ids)]

    def _start(self, sequence: Running, busy: set[int]) -> Running:
        sequence.slot = self.chance.choice([slot for slot in range(NUM_SLOTS) if slot not in busy])
        shared = {slot: common_prefix(held, sequence.token_ids[:-1]) for slot, held in self.held.items()}
        sources = [slot for slot, length in shared.items() if length]
        if sources and self.chance.random() < 0.8:
            source = self.chance.choice(sources)
            sequence.num_cached = self.chance.choice([shared[source], self.chance.randint(1, shared[source])])
            if source != sequence.slot:
                self.runner.copy_prefix(source, sequence.slot, sequence.num_cached)
        self.held[sequence.slot] = list(sequence.token_ids[: sequence.num_cached])
        return sequence


def common_prefix(one: list[int], other: list[int]) -> int:
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def random_sequences(chance: random.Random, lengths: list[int], vocab_size: int) -> list[Running]:
    """Tokens of these lengths, most of them with a beginning in common."""
    base = [chance.randrange(vocab_size) for _ in range(max(lengths))]
    sequences = []
    for length in lengths:
        shared = chance.choice([0, chance.randint(0, length), length])
        ids = base[:shared] + [chance.randrange(vocab_size) for _ in range(length - shared)]
        sequences.append(Running(ids, length, random_params(chance)))
    return sequences


def random_params(chance: random.Random) -> SamplingParams:
    return SamplingParams(
        temperature=chance.choice([0.0, 0.8, 1.5]),
        top_k=chance.choice([0, 20]),
        top_p=chance.choice([1.0, 0.9]),
        min_p=chance.choice([0.0, 0.01]),
        typical_p=chance.choice([1.0, 0.9]),
        repetition_penalty=chance.choice([1.0, 1.2]),
        frequency_penalty=chance.choice([0.0, 0.5]),
        logit_bias=chance.choice([(), ((3, 2.0), (9, -100.0))]),
        seed=chance.getrandbits(64),
    )


def generate_alone(runner: NativeRunner, prompt: list[int], params: SamplingParams, num_new: int) -> list[tuple[int, str]]:
    sequence = Running(list(prompt), len(prompt), params)
    while len(sequence.drawn) < num_new:
        chunk = sequence.chunk(1)
        tokens = drawn(execute(runner, chunk))
        sequence.num_cached = chunk.end
        sequence.drawn.extend(tokens)
        sequence.token_ids.extend(token.token_id for token in tokens)
    return bits(sequence.drawn)


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
    schedule = Schedule(runner, chance, max_running=chance.choice([1, 2, 5, NUM_SLOTS - 1]))
    for step in schedule.steps(sequences, num_new):
        tokens = iter(drawn(execute(runner, *(chunk for _, chunk in step))))
        for sequence, chunk in step:
            if chunk.draws:
                sequence.drawn.append(next(tokens))
                sequence.token_ids.append(sequence.drawn[-1].token_id)
        assert next(tokens, None) is None
    for sequence in sequences:
        prompt = sequence.token_ids[: sequence.num_prompt]
        assert bits(sequence.drawn) == generate_alone(alone, prompt, sequence.params, num_new), f"prompt of {len(prompt)} tokens"


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
