"""The native runner's border: what a step may not ask for is refused before anything is computed, and harms no later step."""

import numpy as np
import pytest
import torch

from model.batch import Chunk, Draw, ForwardBatch, SamplingParams, Scores, TokenMask
from model.config import GPT2Config
from model.gpt2 import GPT2
from model.native.library import Precision
from model.native.runner import NativeRunner
from model.network_files import weights_of
from tests.model.native.running import drawing, drawn, execute, scored

CONFIG = GPT2Config(vocab_size=500, n_positions=100, n_embd=64, n_layer=1, n_head=1, eos_token_ids=(0,))
NUM_SLOTS = 3
GREEDY, SAMPLED = SamplingParams(), SamplingParams(temperature=1.0, top_k=5)
EVERYTHING = SamplingParams(temperature=1.0, top_k=50, repetition_penalty=2.0, frequency_penalty=0.5)
OUTSIDE = {"below": -1, "next": 500, "far": 2**31 - 1, "far_below": -(2**31)}

pytestmark = pytest.mark.usefixtures("available")


@pytest.fixture(scope="module")
def runner(available) -> NativeRunner:
    model = GPT2(CONFIG).init_weights(torch.Generator().manual_seed(0))
    return NativeRunner(model.config, weights_of(model), NUM_SLOTS, Precision.FLOAT32, 2)


def refuse(runner: NativeRunner, *chunks: Chunk, match: str) -> None:
    """The step is refused, and sequences in slots 0 and 1 go on as if nothing had been, by their tokens too."""
    execute(runner, Chunk(0, 0, (7, 8, 9)), Chunk(1, 0, (7, 8, 9)))
    going_on = drawing(0, 3, (10, 11), EVERYTHING, num_prompt=2), drawing(1, 3, (10, 11), EVERYTHING, num_prompt=2)
    expected = execute(runner, *going_on)
    with pytest.raises(IndexError, match=match):
        execute(runner, *chunks)
    assert execute(runner, *going_on) == expected


@pytest.mark.parametrize("token_id", OUTSIDE.values(), ids=OUTSIDE)
@pytest.mark.parametrize("place", [0, 1, 20])
def test_a_token_outside_the_vocabulary_is_refused(runner, token_id, place):
    token_ids = [1] * 21
    token_ids[place] = token_id
    refuse(runner, Chunk(1, 0, tuple(token_ids)), match=f"token {token_id} is out of range")


@pytest.mark.parametrize(("start", "position"), [(100, 100), (98, 100), (-1, -1), (2**31 - 3, 2**31 - 3), (-(2**31), -(2**31))])
def test_a_position_outside_the_context_is_refused(runner, start, position):
    refuse(runner, Chunk(1, start, (1, 2, 3)), match=f"position {position} is out of range")


@pytest.mark.parametrize("slot", [-1, NUM_SLOTS, 2**31 - 1, -(2**31)])
def test_a_slot_that_is_not_there_is_refused(runner, slot):
    refuse(runner, Chunk(0, 3, (10,)), drawing(slot, 0, (1,)), match=f"slot {slot} is out of range")


def test_a_chunk_of_no_tokens_is_refused(runner):
    refuse(runner, Chunk(1, 0, ()), match="number of tokens 0 is out of range")
    refuse(runner, Chunk(1, 0, (1,)), Chunk(2, 0, (), (Draw(0, GREEDY),)), match="number of tokens 0 is out of range")


@pytest.mark.parametrize("row", [-1, 2, 3, 2**31 - 1, -(2**31)])
@pytest.mark.parametrize("params", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_a_draw_after_a_row_that_its_chunk_does_not_have_is_refused(runner, params, row):
    """Though another chunk's rows follow."""
    chunk = Chunk(1, 0, (1, 2), (Draw(1, GREEDY), Draw(row, params)))
    refuse(runner, chunk, drawing(2, 0, (1, 2, 3)), match=f"row {row} is out of range")


@pytest.mark.parametrize(("first_row", "num", "row"), [(-1, 2, -1), (3, 1, 3), (2**31 - 1, 1, 2**31 - 1), (0, 4, 3), (2, 2, 3)])
def test_scores_after_rows_that_their_chunk_does_not_have_are_refused(runner, first_row, num, row):
    chunk = Chunk(1, 0, (1, 2, 3), scores=Scores(first_row, (5,) * num))
    refuse(runner, chunk, Chunk(2, 0, (1, 2, 3)), match=f"row {row} is out of range")


@pytest.mark.parametrize("token_id", OUTSIDE.values(), ids=OUTSIDE)
@pytest.mark.parametrize("place", [0, 2])
def test_a_scored_token_outside_the_vocabulary_is_refused(runner, token_id, place):
    next_ids = [4, 5, 499]
    next_ids[place] = token_id
    refuse(runner, scored(1, 0, (1, 2, 3), next_ids), match=f"token {token_id} is out of range")


@pytest.mark.parametrize("num", [-1, -(2**31)])
def test_a_number_that_counts_less_than_nothing_is_refused(runner, num):
    refuse(runner, drawing(1, 0, (1,), top_n=num), match=f"a number of likeliest tokens {num} is out of range")
    refuse(runner, scored(1, 0, (1,), (2,), num), match=f"a number of likeliest tokens {num} is out of range")
    refuse(runner, drawing(1, 0, (1,), SAMPLED, num_prompt=num), match=f"a number of the prompt's tokens {num} is out of range")


@pytest.mark.parametrize("num_bytes", [0, 1, 62, 64])
def test_a_mask_of_another_vocabulary_is_refused(runner, num_bytes):
    chunk = drawing(1, 0, (1,), mask=TokenMask(b"\xff" * num_bytes))
    refuse(runner, chunk, match=f"a mask of {num_bytes} bytes is out of range: 500 tokens need 63")


@pytest.mark.parametrize(
    "chunk",
    [
        Chunk(2**31, 0, (1,)),
        Chunk(1, -(2**31) - 1, (1,)),
        Chunk(1, 0, (2**63,)),
        drawing(1, 0, (1,), SAMPLED, num_prompt=2**31),
        drawing(1, 0, (1,), banned_ids=(2**31,)),
        scored(1, 0, (1,), (2**40,)),
    ],
    ids=["slot", "position", "token", "prompt", "banned", "scored"],
)
def test_a_number_that_no_integer_of_the_step_holds_is_refused(runner, chunk):
    refuse(runner, chunk, match="a number in the batch is out of range")


@pytest.mark.parametrize("row", [-1, 3, 2**31 - 1])
def test_logits_of_a_row_outside_the_step_are_refused(runner, row):
    batch = ForwardBatch((Chunk(1, 0, (1, 2, 3)),))
    expected = runner.logits(batch, range(3))
    with pytest.raises(IndexError, match=f"row {row} is out of range"):
        runner.logits(batch, [0, row])
    assert np.array_equal(runner.logits(batch, range(3)), expected)


def test_logits_of_a_step_without_rows_are_refused(runner):
    with pytest.raises(IndexError, match="row 0 is out of range"):
        runner.logits(ForwardBatch(()), [0])
    assert runner.logits(ForwardBatch(()), []).shape == (0, 500)


@pytest.mark.parametrize("token_id", OUTSIDE.values(), ids=OUTSIDE)
@pytest.mark.parametrize(
    "draw_with",
    [
        lambda i: Draw(0, SamplingParams(logit_bias=((3, 1.0), (i, 1.0)))),
        lambda i: Draw(0, SamplingParams(temperature=1.0, logit_bias=((i, -100.0), (3, 1.0)))),
        lambda i: Draw(0, GREEDY, banned_ids=(i,)),
        lambda i: Draw(0, SAMPLED, banned_ids=(3, i)),
    ],
    ids=["bias", "bias_sampled", "banned", "banned_sampled"],
)
def test_a_draw_that_names_a_token_outside_the_vocabulary_is_refused(runner, draw_with, token_id):
    plain, wrong = drawing(0, 3, (10,)), Chunk(1, 0, (1,), (Draw(0, GREEDY), draw_with(token_id)))
    refuse(runner, wrong, match=f"token {token_id} is out of range")
    refuse(runner, plain, wrong, match=f"token {token_id} is out of range")
    (token,) = drawn(execute(runner, Chunk(1, 0, (1,), (draw_with(499),))))  # the last one is inside
    assert 0 <= token.token_id < 500


@pytest.mark.parametrize("start", [2, 0, 1, 3, 50], ids=["going_on", "again", "overlapping", "a_gap", "elsewhere"])
def test_two_chunks_of_one_slot_are_refused(runner, start):
    """Their attention would be computed at the same time, and which of them sees the other's keys would be chance."""
    first, second = Chunk(1, 0, (1, 2)), drawing(1, start, (4,))
    refuse(runner, first, second, match="slot 1 has more than one chunk")
    refuse(runner, first, Chunk(2, 0, (3,)), second, match="slot 1 has more than one chunk")


@pytest.mark.parametrize(
    ("source", "target", "length"),
    [
        (-1, 1, 3),
        (NUM_SLOTS, 1, 3),
        (0, -1, 3),
        (0, NUM_SLOTS, 3),
        (2**31 - 1, 0, 3),
        (0, 1, -1),
        (0, 1, 101),
        (1, 0, 2**31 - 1),
        (NUM_SLOTS, NUM_SLOTS, 0),
    ],
)
def test_a_copy_from_to_or_beyond_what_is_not_there_is_refused(runner, source, target, length):
    chunk = ForwardBatch((Chunk(0, 0, (7, 8, 9)), Chunk(1, 0, (5, 6))))
    going_on = ForwardBatch((Chunk(0, 3, (10,)), Chunk(1, 2, (11,))))
    runner.logits(chunk, [])
    expected = runner.logits(going_on, [0, 1])
    with pytest.raises(IndexError, match=r"-?\d+ is out of range"):
        runner.copy_prefix(source, target, length)
    assert np.array_equal(runner.logits(going_on, [0, 1]), expected)


def test_what_lies_at_the_borders_is_allowed(runner):
    """The last token, position, slot and the whole context."""
    token_ids = tuple(range(400, 500))
    (row,) = runner.logits(ForwardBatch((Chunk(NUM_SLOTS - 1, 0, token_ids),)), [99])
    (token,) = drawn(execute(runner, drawing(NUM_SLOTS - 1, 0, token_ids)))
    assert token.token_id == row.argmax()
    runner.copy_prefix(NUM_SLOTS - 1, 0, 100)
    assert np.array_equal(runner.logits(ForwardBatch((Chunk(0, 99, (499,)),)), [0]), [row])
    runner.copy_prefix(1, 0, 0)
    runner.copy_prefix(2, 2, 100)
    assert np.array_equal(runner.logits(ForwardBatch((Chunk(0, 99, (499,)), Chunk(2, 99, (499,)))), [0, 1]), [row, row])
