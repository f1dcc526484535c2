"""The native runner's border: what a step may not ask for is refused before anything is computed, and harms no later step."""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from model.batch import Chunk, Draw, ForwardBatch, SamplingParams
from model.config import GPT2Config
from model.gpt2 import GPT2
from model.native.library import ErrorCode, NativeUnavailable, NotFinite, Precision, load_library
from model.native.runner import NativeRunner
from model.network_files import weights_of
from model.weights import Weight

CONFIG = GPT2Config(vocab_size=500, n_positions=100, n_embd=64, n_layer=1, n_head=1, eos_token_id=0)
NUM_SLOTS = 3
GREEDY, SAMPLED = SamplingParams(), SamplingParams(temperature=1.0, top_k=5)
PENALISED = SamplingParams(repetition_penalty=1.2)
OUTSIDE = {"below": -1, "next": 500, "far": 2**31 - 1, "far_below": -(2**31)}

pytestmark = pytest.mark.usefixtures("available")


@pytest.fixture(scope="module")
def runner(available) -> NativeRunner:
    model = GPT2(CONFIG).init_weights(torch.Generator().manual_seed(0))
    return NativeRunner(model.config, weights_of(model), NUM_SLOTS, Precision.FLOAT32, 2)


def refuse(runner: NativeRunner, *chunks: Chunk, match: str) -> None:
    """The step is refused however it is asked for, and a sequence in slot 0 goes on as if nothing had been."""
    runner.logits(ForwardBatch((Chunk(0, 0, (7, 8, 9), None),)), [])
    going_on = ForwardBatch((Chunk(0, 3, (10, 11), Draw(SAMPLED, 5)),))
    expected = runner.execute(going_on)
    with pytest.raises(IndexError, match=match):
        runner.execute(ForwardBatch(chunks))
    assert runner.execute(going_on) == expected


@pytest.mark.parametrize("token_id", OUTSIDE.values(), ids=OUTSIDE)
@pytest.mark.parametrize("place", [0, 1, 20])
def test_a_token_outside_the_vocabulary_is_refused(runner, token_id, place):
    token_ids = [1] * 21
    token_ids[place] = token_id
    refuse(runner, Chunk(1, 0, tuple(token_ids), None), match=f"token {token_id} is out of range")


@pytest.mark.parametrize(("start", "position"), [(100, 100), (98, 100), (-1, -1), (2**31 - 3, 2**31 - 3), (-(2**31), -(2**31))])
def test_a_position_outside_the_context_is_refused(runner, start, position):
    refuse(runner, Chunk(1, start, (1, 2, 3), None), match=f"position {position} is out of range")


@pytest.mark.parametrize("slot", [-1, NUM_SLOTS, 2**31 - 1, -(2**31)])
def test_a_slot_that_is_not_there_is_refused(runner, slot):
    refuse(runner, Chunk(0, 3, (10,), None), Chunk(slot, 0, (1,), Draw(GREEDY, 1)), match=f"slot {slot} is out of range")


@pytest.mark.parametrize("params", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_a_draw_without_a_row_is_refused(runner, params):
    """A chunk of no tokens has no last one: were it the first, its draw would be of row -1."""
    draw = Draw(params, 0)
    refuse(runner, Chunk(1, 0, (), draw), Chunk(2, 0, (1,), None), match="row -1 is out of range")
    refuse(runner, Chunk(1, 0, (), draw), match="row -1 is out of range")


@pytest.mark.parametrize("row", [-1, 3, 2**31 - 1])
def test_logits_of_a_row_outside_the_step_are_refused(runner, row):
    batch = ForwardBatch((Chunk(1, 0, (1, 2, 3), None),))
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
        lambda i: Draw(SamplingParams(logit_bias=((3, 1.0), (i, 1.0))), 1),
        lambda i: Draw(SamplingParams(temperature=1.0, logit_bias=((i, -100.0), (3, 1.0))), 1),
        lambda i: Draw(GREEDY, 1, banned_ids=(i,)),
        lambda i: Draw(SAMPLED, 1, banned_ids=(3, i)),
        lambda i: Draw(PENALISED, 1, prompt_ids=(3, i), generated_ids=(4,)),
        lambda i: Draw(PENALISED, 1, prompt_ids=(3,), generated_ids=(i, 4)),
        lambda i: Draw(SamplingParams(temperature=1.0, frequency_penalty=0.5), 1, generated_ids=(i,)),
    ],
    ids=["bias", "bias_sampled", "banned", "banned_sampled", "prompt", "generated", "generated_sampled"],
)
def test_a_draw_that_names_a_token_outside_the_vocabulary_is_refused(runner, draw_with, token_id):
    plain, wrong = Chunk(0, 3, (10,), Draw(GREEDY, 4)), Chunk(1, 0, (1,), draw_with(token_id))
    refuse(runner, wrong, match=f"token {token_id} is out of range")
    refuse(runner, plain, wrong, match=f"token {token_id} is out of range")
    (token,) = runner.execute(ForwardBatch((Chunk(1, 0, (1,), draw_with(499)),))).tokens  # the last one is inside
    assert 0 <= token.token_id < 500


@pytest.mark.parametrize(
    "chunks",
    [
        (Chunk(1, 0, (1, 2), None), Chunk(1, 3, (3,), None)),
        (Chunk(1, 0, (1, 2), None), Chunk(1, 1, (3,), None)),
        (Chunk(1, 5, (1,), None), Chunk(1, 4, (2,), None)),
        (Chunk(1, 0, tuple(range(16)), None), Chunk(1, 17, (2,), None)),
        (Chunk(1, 0, tuple(range(16)), None), Chunk(1, 0, (2,), None)),
    ],
    ids=["a_gap", "the_same_position_twice", "backwards", "a_gap_after_16", "from_the_start_after_16"],
)
def test_rows_of_a_slot_that_do_not_follow_each_other_are_refused(runner, chunks):
    refuse(runner, *chunks, match="consecutive")


@pytest.mark.parametrize("start", [2, 0, 50], ids=["going_on", "again", "elsewhere"])
def test_two_runs_of_one_slot_in_a_step_are_refused(runner, start):
    """Their attention would be computed at the same time, and which of them sees the other's keys would be chance."""
    draw = Draw(GREEDY, start + 1)
    chunks = (Chunk(1, 0, (1, 2), None), Chunk(2, 0, (3,), None), Chunk(1, start, (4,), draw))
    refuse(runner, *chunks, match="consecutive")


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
    chunk = ForwardBatch((Chunk(0, 0, (7, 8, 9), None), Chunk(1, 0, (5, 6), None)))
    going_on = ForwardBatch((Chunk(0, 3, (10,), None), Chunk(1, 2, (11,), None)))
    runner.logits(chunk, [])
    expected = runner.logits(going_on, [0, 1])
    with pytest.raises(IndexError, match=r"-?\d+ is out of range"):
        runner.copy_prefix(source, target, length)
    assert np.array_equal(runner.logits(going_on, [0, 1]), expected)


@pytest.mark.parametrize("token_id", OUTSIDE.values(), ids=OUTSIDE)
@pytest.mark.parametrize("place", [0, 2])
def test_the_log_probability_of_a_token_outside_the_vocabulary_is_refused(runner, token_id, place):
    batch, next_ids = ForwardBatch((Chunk(1, 0, (1, 2, 3), None),)), [4, 5, 499]
    expected = runner.logprobs(batch, next_ids)
    with pytest.raises(IndexError, match=f"token {token_id} is out of range"):
        runner.logprobs(batch, [token_id if i == place else next_id for i, next_id in enumerate(next_ids)])
    assert np.array_equal(runner.logprobs(batch, next_ids), expected)


def test_log_probabilities_of_a_step_that_is_refused_or_of_no_rows(runner):
    with pytest.raises(IndexError, match="position 100 is out of range"):
        runner.logprobs(ForwardBatch((Chunk(1, 100, (1,), None),)), [1])
    assert runner.logprobs(ForwardBatch(()), []).shape == (0,)


def test_what_lies_at_the_borders_is_allowed(runner):
    """The last token, position, slot and the whole context."""
    token_ids = tuple(range(400, 500))
    batch = ForwardBatch((Chunk(NUM_SLOTS - 1, 0, token_ids, Draw(GREEDY, 100)),))
    (row,) = runner.logits(batch, [99])
    (token,) = runner.execute(batch).tokens
    assert token.token_id == row.argmax()
    runner.copy_prefix(NUM_SLOTS - 1, 0, 100)
    assert np.array_equal(runner.logits(ForwardBatch((Chunk(0, 99, (499,), None),)), [0]), [row])
    runner.copy_prefix(1, 0, 0)
    runner.copy_prefix(2, 2, 100)
    assert np.array_equal(runner.logits(ForwardBatch((Chunk(0, 99, (499,), None), Chunk(2, 99, (499,), None))), [0, 1]), [row, row])


# ---- weights


def weights_with(name: str, change: Callable[[Weight], Weight]) -> dict[str, Weight]:
    weights = weights_of(GPT2(CONFIG))
    return weights | {name: change(weights[name])}


@pytest.mark.parametrize(
    "name", ["wte.weight", "wpe.weight", "ln_f.bias", "h.0.ln_1.weight", "h.0.mlp.c_fc.weight", "h.0.mlp.c_fc.bias"]
)
@pytest.mark.parametrize("num_more", [-1, 1])
def test_a_weight_of_another_size_is_refused_with_both_sizes(kind, name, num_more):
    size = weights_of(GPT2(CONFIG))[name].values.size
    wrong = weights_with(name, lambda w: w._replace(values=np.zeros(size + num_more, np.float32)))
    with pytest.raises(NativeUnavailable, match=f"^{name}: it has {size + num_more} values, not {size}$"):
        kind.runner(CONFIG, wrong)


@pytest.mark.parametrize(
    "name",
    [
        *("", "h", "h.", "h.0", "h.0.", "h.1.ln_1.weight", "h.-1.ln_1.weight", "h.0.attn.c_other.weight", "lm_head.weight"),
        *("h.0.ln_1", "h.0.ln_1.gain", "ln_f.", "h.0.mlp.c_fc.scale"),
    ],
)
def test_a_weight_that_the_network_does_not_have_is_refused_by_name(kind, name):
    extra = {name: Weight(np.zeros(64, np.float32), "F32", False)}
    with pytest.raises(NativeUnavailable, match=f"^{name}: no such parameter$"):
        kind.runner(CONFIG, weights_of(GPT2(CONFIG)) | extra)


@pytest.mark.parametrize("dtype", [-1, 3, 2**31 - 1])
def test_a_type_that_no_weight_has_is_refused(runner, dtype):
    values = np.zeros(64, np.float32)
    code = load_library().gpt2_load(runner._model, b"ln_f.bias", values.ctypes.data, 64, dtype, False)
    assert code == ErrorCode.UNAVAILABLE
    assert load_library().gpt2_last_error() == b"ln_f.bias: its type is none of float32, float16 and bfloat16"


NO_NUMBERS = {"F32": [math.nan, math.inf, -math.inf], "F16": [0x7C00, 0xFC00, 0x7E01], "BF16": [0x7F80, 0xFF80, 0x7FC1]}


@pytest.mark.parametrize("is_transposed", [False, True], ids=["out_in", "in_out"])
@pytest.mark.parametrize("dtype", NO_NUMBERS)
@pytest.mark.parametrize("name", ["h.0.attn.c_attn.weight", "h.0.mlp.c_proj.weight", "wte.weight", "wpe.weight", "h.0.ln_2.bias"])
def test_a_weight_that_is_no_number_is_refused_by_name_in_every_type(kind, name, dtype, is_transposed):
    is_transposed = is_transposed and ".c_" in name
    shape = CONFIG.parameter_shapes[name]
    for value in NO_NUMBERS[dtype]:
        for place in (0, -1):
            values = np.zeros(shape[::-1] if is_transposed else shape, np.float32 if dtype == "F32" else np.uint16)
            values.flat[place] = value
            stored = values.view(np.float16) if dtype == "F16" else values
            with pytest.raises(NotFinite) as refusal:
                kind.runner(CONFIG, weights_with(name, lambda w, stored=stored: Weight(stored, dtype, is_transposed)))
            assert refusal.value.name == name


def test_a_precision_or_a_width_that_cannot_be_computed_is_refused():
    for precision in (-1, 3):
        with pytest.raises(NativeUnavailable, match="no such precision"):
            NativeRunner(CONFIG, {}, 1, precision, 1)
    wide = replace(CONFIG, n_embd=2048, n_head=1)
    with pytest.raises(NativeUnavailable, match="heads are larger than 1024"):
        NativeRunner(wide, {}, 1, Precision.FLOAT32, 1)
    deep = replace(CONFIG, n_inner=133_121)
    with pytest.raises(NativeUnavailable, match="int8 sums up at most 133120 inputs, not 133121"):
        NativeRunner(deep, {}, 1, Precision.INT8, 1)
    long = replace(CONFIG, n_positions=133_121)
    with pytest.raises(NativeUnavailable, match="int8 sums up at most 133120 positions, not 133121"):
        NativeRunner(long, {}, 1, Precision.INT8, 1)


@pytest.mark.parametrize("name", ["wte.weight", "wpe.weight"])
def test_a_table_that_is_said_to_be_transposed_is_refused(kind, name):
    turned = weights_with(name, lambda w: Weight(np.ascontiguousarray(w.values.T), "F32", True))
    with pytest.raises(NativeUnavailable, match=f"^{name}: a table's rows lie one after another, it is never transposed$"):
        kind.runner(CONFIG, turned)


def test_only_float32_runs_from_weights_as_they_lie(kind):
    if kind.precision is Precision.FLOAT32:
        pytest.skip("it does")
    with pytest.raises(NativeUnavailable, match="only float32 runs from weights as they lie"):
        kind.runner(CONFIG, weights_of(GPT2(CONFIG)), is_streamed=True)


@pytest.mark.parametrize("precision", Precision)
def test_an_arithmetic_that_the_kernels_lack_is_refused_with_those_that_they_have(available, precision):
    has = {Precision.FLOAT32: "float32", Precision.INT8: "int8", Precision.BFLOAT16: "bfloat16-fma"}[precision]
    with pytest.raises(NativeUnavailable, match=f"the kernels scalar have no arithmetic bfloat16-vdpbf16ps; they have {has}"):
        NativeRunner(CONFIG, {}, 1, precision, 1, "scalar", arithmetic="bfloat16-vdpbf16ps")
