"""The memory of the native step: taken once, level however many steps run, and given back with the runner."""

import gc
import random

import psutil
import pytest
import torch

from model.batch import Chunk, Draw, ForwardBatch, SamplingParams, Scores, TokenMask
from model.config import GPT2Config
from model.gpt2 import GPT2
from model.native.library import Precision
from model.native.runner import NativeRunner
from model.network_files import weights_of

CONFIG = GPT2Config(vocab_size=257, n_positions=1024, n_embd=64, n_layer=1, n_head=1, eos_token_ids=(0,))
NUM_SLOTS = 24
PARAMS = [
    SamplingParams(),
    SamplingParams(temperature=1.0),
    SamplingParams(temperature=0.8, top_k=50, top_p=0.9, min_p=0.01, typical_p=0.95),
    SamplingParams(temperature=1.2, repetition_penalty=1.2, frequency_penalty=0.5, logit_bias=((7, 3.0),)),
]
MASKS = [None, None, TokenMask.of((1, 5, 256), 257)]


def model() -> GPT2:
    return GPT2(CONFIG).init_weights(torch.Generator().manual_seed(0))


def resident_bytes() -> int:
    gc.collect()
    return psutil.Process().memory_info().rss


def random_batch(chance: random.Random) -> ForwardBatch:
    """Some of the slots decode, others are in their prompt; most draw, each in its own way."""
    chunks = []
    for slot in chance.sample(range(NUM_SLOTS), chance.randint(1, NUM_SLOTS)):
        start, length = chance.randint(0, 60), chance.choice([1, 1, 1, 1, 1, 2, 20])
        ids = tuple(chance.randrange(257) for _ in range(length))
        banned = (0,) if chance.random() < 0.3 else ()
        scores = Scores(0, ids, top_n=chance.choice([0, 5])) if chance.random() < 0.2 else None
        draws = tuple(
            Draw(
                chance.randrange(length),
                chance.choice(PARAMS),
                start,
                banned,
                mask=chance.choice(MASKS),
                top_n=chance.choice([0, 3]),
            )
            for _ in range(chance.choice([0, 1, 1, 1, 1, 4]))
        )
        chunks.append(Chunk(slot, start, ids, draws, scores))
    return ForwardBatch(tuple(chunks))


def test_a_thousand_steps_of_every_kind_take_no_more_memory_than_hundreds(kind):
    # One thread for most, as two of them wait long where a core is another's.
    runners, chance = [kind.runner(CONFIG, weights_of(model()), NUM_SLOTS, num_threads) for num_threads in (1, 2)], random.Random(0)
    batches = [random_batch(chance) for _ in range(20 if kind.is_slow else 100)]

    def run(num_rounds: int) -> int:
        for _ in range(num_rounds):
            for i, batch in enumerate(batches):
                runner = runners[i % 10 == 0]
                runner.launch(batch).collect()
                runner.copy_prefix(0, 1, 40)
        return resident_bytes()

    before = run(3)
    assert run(10) - before < 2**20  # 1 kB a step


def test_memory_goes_with_the_runner(available):
    network = model()

    def use() -> None:
        runner = NativeRunner(network.config, weights_of(network), 2, Precision.FLOAT32, 2)
        runner.logits(ForwardBatch((Chunk(1, 0, (5,) * 200),)), range(200))

    for _ in range(3):
        use()
    before = resident_bytes()
    for _ in range(20):
        use()
    assert resident_bytes() - before < 8 * 2**20  # of the 2 MB and more that each takes


def test_more_slots_than_there_are_addresses_are_refused_as_a_lack_of_memory(available):
    with pytest.raises(MemoryError, match="out of memory"):
        NativeRunner(CONFIG, weights_of(model()), 2**31 - 1, Precision.FLOAT32, 1)
