"""The arrays that cross into C with their lengths: what points out of them is refused, not read. No batch of Python's asks so."""

import ctypes
import struct

import numpy as np
import pytest
import torch

from model.batch import Chunk, Draw, ForwardBatch, SamplingParams, TokenMask
from model.config import GPT2Config
from model.gpt2 import GPT2
from model.native.library import CHUNK, DRAW, ErrorCode, NativeInput, Precision, load_library
from model.native.packing import PackedBatch
from model.native.runner import NativeRunner
from model.network_files import weights_of
from tests.model.native.running import scored

CONFIG = GPT2Config(vocab_size=500, n_positions=100, n_embd=64, n_layer=1, n_head=1, eos_token_ids=(0,))

pytestmark = pytest.mark.usefixtures("available")


@pytest.fixture(scope="module")
def runner(available) -> NativeRunner:
    model = GPT2(CONFIG).init_weights(torch.Generator().manual_seed(0))
    return NativeRunner(model.config, weights_of(model), 3, Precision.FLOAT32, 2)


class Raw:
    """A step of two chunks as the C interface takes it, to be spoilt. Draw 1 looks at 2 biases, 1 banned id and 1 mask."""

    def __init__(self) -> None:
        draws = (
            Draw(0, SamplingParams(), top_n=2),
            Draw(1, SamplingParams(1.0, logit_bias=((3, 1.0), (4, 2.0))), 1, (5,), mask=TokenMask.of((1, 2), 500)),
        )
        chunks = Chunk(1, 0, (1, 2), draws), scored(2, 0, (3, 4, 5), (6, 7, 8), top_n=1)
        self.packed = PackedBatch(ForwardBatch(chunks), 500)
        self.input, self.output = self.packed.input, self.packed.output
        self.chunks = bytearray(self._bytes(NativeInput.chunks.offset, 2 * CHUNK.size))
        self.draws = bytearray(self._bytes(NativeInput.draws.offset, 2 * DRAW.size))

    def _bytes(self, offset: int, size: int) -> bytes:
        return ctypes.string_at(ctypes.c_void_p.from_buffer(self.input, offset).value, size)

    def set(self, array: bytearray, integer: int, value: int) -> None:
        struct.pack_into("=i", array, 4 * integer, value)

    def run(self, runner: NativeRunner) -> int:
        self.input.chunks, self.input.draws = bytes(self.chunks), bytes(self.draws)
        return load_library().gpt2_step(runner._model, self.input, self.output)


def test_a_step_whose_arrays_are_as_long_as_they_should_be_runs(runner):
    raw = Raw()
    assert raw.run(runner) == 0
    first, second = raw.packed.answers().chunks
    assert [len(first.tokens), len(second.scores), first.error, second.error] == [2, 3, None, None]


@pytest.mark.parametrize("wrong", [-1, 1, -(10**6), 10**6])
@pytest.mark.parametrize("length", ["num_tokens", "num_draws", "num_scored"])
def test_chunks_that_add_up_to_more_or_less_than_the_arrays_are_refused(runner, length, wrong):
    raw = Raw()
    setattr(raw.input, length, getattr(raw.input, length) + wrong)
    assert raw.run(runner) == ErrorCode.OUT_OF_RANGE


@pytest.mark.parametrize("wrong", [-1, 1])
@pytest.mark.parametrize("length", ["num_errors", "num_tokens", "num_logprobs", "num_tops"])
def test_answers_that_have_too_little_room_or_too_much_are_refused(runner, length, wrong):
    raw = Raw()
    setattr(raw.output, length, getattr(raw.output, length) + wrong)
    assert raw.run(runner) == ErrorCode.OUT_OF_RANGE


FIRST_RANGE = (DRAW.size + DRAW.size - 16) // 4  # the bias of draw 1 among the draws' integers; the banned ids are next


@pytest.mark.parametrize(
    ("begin", "end"), [(-1, 1), (0, 3), (3, 3), (1, 0), (2**31 - 2, 2**31 - 1), (-(2**31), 2**31 - 1), (0, 2**31 - 1)]
)
@pytest.mark.parametrize("which", [0, 2], ids=["bias", "banned"])
def test_a_range_that_leaves_its_array_is_refused_and_not_read(runner, which, begin, end):
    raw = Raw()
    raw.set(raw.draws, FIRST_RANGE + which, begin)
    raw.set(raw.draws, FIRST_RANGE + which + 1, end)
    assert raw.run(runner) == ErrorCode.OUT_OF_RANGE
    assert f"a range from {begin} to {end} of ".encode() in load_library().gpt2_last_error()


@pytest.mark.parametrize("mask", [-2, 1, 2**31 - 1, -(2**31)])
def test_a_mask_that_is_not_among_the_steps_is_refused(runner, mask):
    raw = Raw()
    raw.set(raw.draws, DRAW.size // 4 + 5, mask)
    assert raw.run(runner) == ErrorCode.OUT_OF_RANGE
    assert load_library().gpt2_last_error() == f"mask {mask} is out of range".encode()


@pytest.mark.parametrize("num_bytes", [0, 62, -1])
def test_a_mask_that_is_cut_short_is_refused(runner, num_bytes):
    raw = Raw()
    raw.input.num_mask_bytes = num_bytes
    assert raw.run(runner) == ErrorCode.OUT_OF_RANGE
    assert load_library().gpt2_last_error() == b"mask 0 is out of range"


@pytest.mark.parametrize("value", [-1, 2**31 - 1, -(2**31)])
@pytest.mark.parametrize("integer", range(2, 7), ids=["tokens", "draws", "first_scored", "scored", "likeliest"])
def test_a_chunk_whose_numbers_are_beyond_all_bounds_is_refused(runner, integer, value):
    raw = Raw()
    raw.set(raw.chunks, CHUNK.size // 4 + integer, value)
    assert raw.run(runner) == ErrorCode.OUT_OF_RANGE


def test_logits_that_have_another_length_are_refused(runner):
    packed, logits = PackedBatch(ForwardBatch((Chunk(1, 0, (1, 2)),)), 500), np.empty(1000, np.float32)
    for num_logits in (999, 1001, 0, -1):
        code = load_library().gpt2_logits(runner._model, packed.input, b"\0" * 8, 2, logits.ctypes.data, num_logits)
        assert code == ErrorCode.OUT_OF_RANGE


def test_equal_masks_cross_once():
    draws = tuple(Draw(0, SamplingParams(), mask=TokenMask.of(allowed, 500)) for allowed in ((1, 2), (3,), (2, 1), (3,)))
    packed = PackedBatch(ForwardBatch((Chunk(0, 0, (1,), draws), Chunk(1, 0, (1,), draws))), 500)
    assert packed.input.num_mask_bytes == 2 * 63
