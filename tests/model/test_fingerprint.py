"""The digest of a checkpoint's weights: the same for the same weights, another for any others."""

import numpy as np
import pytest

from model.checkpoint import open_checkpoint
from model.fingerprint import CHUNK_WORDS, ROW_WORDS, weights_digest
from model.weights import Weight

SIZE = 2 * CHUNK_WORDS + 3 * ROW_WORDS + 5  # words: two chunks, three rows of another, and five words


def weights(values, dtype="F32", is_transposed=False, name="wte.weight"):
    return {name: Weight(values, dtype, is_transposed)}


@pytest.fixture
def values():
    """Float32, two a word, and one more."""
    return np.random.default_rng(0).standard_normal(2 * SIZE + 1, dtype=np.float32)


def test_a_checkpoint_that_is_opened_twice_has_one_digest(tiny_checkpoint):
    first, second = (weights_digest(open_checkpoint(tiny_checkpoint).weights) for _ in range(2))
    assert first == second
    assert len(first) == 32


@pytest.mark.parametrize("place", [0, 1, 2 * CHUNK_WORDS - 1, 2 * CHUNK_WORDS, 4 * CHUNK_WORDS + 7, 2 * SIZE - 1, 2 * SIZE])
def test_the_last_bit_of_one_value_makes_another_digest(values, place):
    before = weights_digest(weights(values))
    values.view(np.uint32)[place] ^= 1
    assert weights_digest(weights(values)) != before


@pytest.mark.parametrize("distance", [1, 2, 2 * ROW_WORDS, 2 * ROW_WORDS + 2, 2 * CHUNK_WORDS, 2 * SIZE])
def test_two_values_that_are_exchanged_make_another_digest(values, distance):
    before = weights_digest(weights(values))
    values[[0, distance]] = values[[distance, 0]]
    assert weights_digest(weights(values)) != before


def test_the_order_of_the_tensors_makes_no_difference(values):
    both = weights(values) | weights(-values, name="wpe.weight")
    assert weights_digest(both) == weights_digest(dict(reversed(both.items())))


def test_name_type_shape_and_direction_count(values):
    even = values[:-1].reshape(2, -1)
    others = [
        weights(even),
        weights(even.reshape(-1, 2)),
        weights(even, name="wpe.weight"),
        weights(even, is_transposed=True),
        weights(even.view(np.uint16), dtype="BF16"),
        weights(even.view(np.float16), dtype="F16"),
    ]
    assert len({weights_digest(other) for other in others}) == len(others)
