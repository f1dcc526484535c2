"""The native runner: the network's own numbers in each precision, and nothing that passes from one sequence to another."""

import copy
import functools
import math
import random
import subprocess
import sys
from collections.abc import Sequence

import numpy as np
import pytest
import torch

from model.batch import NOT_FINITE, Chunk, ChunkOutput, Draw, ForwardBatch, SamplingParams, Scores, StepOutput
from model.checkpoint import TRANSPOSED
from model.config import GPT2Config
from model.gpt2 import GPT2
from model.native.library import NotFinite, Precision
from model.native.runner import NativeRunner
from model.network_files import weights_of
from model.weights import Weight
from tests.model.native.kinds import network
from tests.model.native.running import bits, drawing, drawn, execute, scored

GREEDY = SamplingParams()
# Widths, heads, vocabularies and contexts that neither 64 nor 16 divides, and some that they do.
SHAPES = {
    "width_100_heads_of_25": GPT2Config(vocab_size=500, n_positions=192, n_embd=100, n_layer=2, n_head=4, eos_token_ids=(0,)),
    "width_384": GPT2Config(vocab_size=1000, n_positions=40, n_embd=384, n_layer=2, n_head=6, eos_token_ids=(0,)),
    "width_64_one_head": GPT2Config(vocab_size=257, n_positions=1024, n_embd=64, n_layer=1, n_head=1, eos_token_ids=(0,)),
    "inner_200": GPT2Config(
        vocab_size=257, n_positions=100, n_embd=96, n_layer=3, n_head=3, n_inner=200, layer_norm_epsilon=1e-3, eos_token_ids=(0,)
    ),
    "smallest": GPT2Config(vocab_size=2, n_positions=3, n_embd=2, n_layer=1, n_head=2, n_inner=1, eos_token_ids=(0,)),
}
WIDTH_100 = SHAPES["width_100_heads_of_25"]
# Errors of logits in their standard deviations: root mean square and largest. Measured over these shapes: bfloat16 0.010 and 0.056,
# int8 0.034 and 0.19. float32 is held to what PyTorch's float32 reaches.
LIMITS = {Precision.BFLOAT16: (0.02, 0.15), Precision.INT8: (0.07, 0.5)}


def runner_of(kind, config: GPT2Config = WIDTH_100, num_slots: int = 3, num_threads: int = 2) -> NativeRunner:
    return kind.runner(config, weights_of(network(config)), num_slots, num_threads)


def network_to_change() -> GPT2:
    return copy.deepcopy(network(WIDTH_100))


def random_ids(seed: int, length: int, vocab_size: int = 500) -> tuple[int, ...]:
    chance = random.Random(seed)
    return tuple(chance.randrange(vocab_size) for _ in range(length))


def logits_of(runner: NativeRunner, slot: int, token_ids: Sequence[int], start: int = 0) -> np.ndarray:
    """All rows' logits (T, V) of one chunk."""
    return runner.logits(ForwardBatch((Chunk(slot, start, tuple(token_ids)),)), range(len(token_ids)))


@functools.cache
def exact_logits(shape: str, token_ids: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """The network's logits in float64, and those of PyTorch's float32."""
    ids = torch.tensor([token_ids])
    return copy.deepcopy(network(SHAPES[shape])).double()(ids)[0].numpy(), network(SHAPES[shape])(ids)[0].numpy()


@pytest.mark.parametrize("shape", SHAPES)
def test_logits_are_the_networks_own(kind, shape):
    config = SHAPES[shape]
    token_ids = random_ids(1, config.n_positions, config.vocab_size)
    exact, float32 = exact_logits(shape, token_ids)
    logits = logits_of(runner_of(kind, config), 1, token_ids)
    assert logits.shape == exact.shape
    error, torch_error = (np.abs(x - exact) / exact.std() for x in (logits, float32))
    if kind.precision is Precision.FLOAT32:
        assert error.max() <= max(2e-6, 4 * torch_error.max())
        assert error.max() <= 2e-5
    elif shape != "smallest":  # two inputs a product: rounding does not average out
        rms_limit, limit = LIMITS[kind.precision]
        assert np.sqrt(np.mean(error**2)) <= rms_limit
        assert error.max() <= limit


@pytest.mark.parametrize("shape", ["width_100_heads_of_25", "inner_200", "width_384"])
def test_a_greedy_token_is_the_likeliest_with_the_log_probability_of_its_logits(kind, shape):
    config = SHAPES[shape]
    runner = runner_of(kind, config)
    for seed, length in enumerate((1, 2, 17, 40)):
        token_ids = random_ids(seed, length, config.vocab_size)
        (row,) = runner.logits(ForwardBatch((Chunk(0, 0, token_ids),)), [length - 1])
        (token,) = drawn(execute(runner, drawing(2, 0, token_ids)))
        assert token.token_id == row.argmax()
        logprobs = torch.from_numpy(row).double().log_softmax(dim=-1)
        assert token.logprob == pytest.approx(logprobs[token.token_id].item(), abs=1e-5)


def test_a_sampled_tokens_log_probability_is_that_of_its_logits_too(kind):
    runner, token_ids = runner_of(kind), random_ids(2, 20)
    (row,) = runner.logits(ForwardBatch((Chunk(0, 0, token_ids),)), [19])
    logprobs = torch.from_numpy(row).double().log_softmax(dim=-1)
    seen = set()
    for seed in range(20):
        params = SamplingParams(temperature=1.5, top_k=50, frequency_penalty=0.3, seed=seed)
        (token,) = drawn(execute(runner, drawing(0, 0, token_ids, params, num_prompt=20)))
        assert token.logprob == pytest.approx(logprobs[token.token_id].item(), abs=1e-5)
        seen.add(token.token_id)
    assert len(seen) > 5


def test_rows_can_be_asked_for_in_any_order_and_twice(kind):
    runner, token_ids = runner_of(kind), random_ids(3, 40)
    batch = ForwardBatch((Chunk(1, 0, token_ids[:33]), Chunk(0, 0, token_ids[33:])))
    everything = runner.logits(batch, range(40))
    order = [39, 0, 7, 7, 32, 33, 5]
    assert np.array_equal(runner.logits(batch, order), everything[order])
    assert np.array_equal(runner.logits(batch, list(range(40)) * 3), np.concatenate([everything] * 3))  # more draws than rows


def test_tokens_come_in_the_order_of_their_chunks_and_a_step_may_draw_none(kind):
    runner = runner_of(kind, num_slots=4)
    prompts = [random_ids(seed, length) for seed, length in enumerate((3, 16, 1, 40))]
    alone = [drawn(execute(runner, drawing(0, 0, prompt)))[0] for prompt in prompts]
    for order in ([0, 1, 2, 3], [3, 1, 2, 0]):
        output = execute(runner, *(Chunk(i, 0, prompts[i]) if i == 1 else drawing(i, 0, prompts[i]) for i in order))
        assert [len(out.tokens) for out in output.chunks] == [int(i != 1) for i in order]
        assert bits(drawn(output)) == bits([alone[i] for i in order if i != 1])
    assert execute(runner, Chunk(0, 0, prompts[0])) == StepOutput((ChunkOutput(),))


@pytest.mark.parametrize("length", [1, 37, 63, 64, 65, 100, 128, 149])
def test_a_copied_prefix_gives_the_bits_of_a_computed_one(kind, length):
    if kind.is_slow and length not in (1, 65):
        pytest.skip("a copy is the same whatever computes")
    runner = runner_of(kind)
    shared, tail = random_ids(4, 150), random_ids(5, 30)
    expected = logits_of(runner_of(kind, num_slots=1), 0, shared[:length] + tail)[length:]
    logits_of(runner, 2, random_ids(6, 190))  # the target was another's
    logits_of(runner, 0, shared)  # the source goes on beyond the prefix
    runner.copy_prefix(0, 2, length)
    logits_of(runner, 0, random_ids(7, 190))  # the source may be written over
    assert np.array_equal(logits_of(runner, 2, tail, start=length), expected)


def test_a_slot_may_go_on_from_its_own_prefix(kind):
    runner = runner_of(kind)
    shared, tail = random_ids(4, 100), random_ids(5, 30)
    expected = logits_of(runner_of(kind, num_slots=1), 0, shared[:41] + tail)[41:]
    logits_of(runner, 1, shared)
    assert np.array_equal(logits_of(runner, 1, tail, start=41), expected)
    logits_of(runner, 1, shared)
    runner.copy_prefix(1, 1, 41)
    assert np.array_equal(logits_of(runner, 1, tail, start=41), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_weights_may_come_as_checkpoints_hold_them(kind, dtype):
    """Two bytes each, linear layers as (in, out)."""
    model, token_ids = network_to_change().to(dtype), random_ids(15, 30)
    names = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
    stored = {}
    for name, parameter in model.named_parameters():
        is_transposed = name.endswith(TRANSPOSED)
        values = (parameter.t() if is_transposed else parameter).contiguous()
        values = values.view(torch.uint16) if dtype is torch.bfloat16 else values
        stored[name] = Weight(values.numpy(), names[dtype], is_transposed)
    ours = kind.runner(WIDTH_100, stored, 1, 2)
    plain = kind.runner(WIDTH_100, weights_of(model.float()), 1, 2)
    assert np.array_equal(logits_of(ours, 0, token_ids), logits_of(plain, 0, token_ids))


def test_log_probabilities_are_those_of_the_logits(kind):
    runner, token_ids = runner_of(kind), random_ids(16, 70)
    batch = ForwardBatch((Chunk(0, 0, token_ids[:40]), Chunk(2, 0, token_ids[40:])))
    next_ids = random_ids(17, 70)
    expected = torch.from_numpy(runner.logits(batch, range(70))).double().log_softmax(dim=-1)[range(70), next_ids]
    output = execute(runner, scored(0, 0, token_ids[:40], next_ids[:40]), scored(2, 0, token_ids[40:], next_ids[40:]))
    assert [len(out.scores) for out in output.chunks] == [40, 30]
    assert [score.logprob for out in output.chunks for score in out.scores] == pytest.approx(expected.numpy(), abs=1e-5)


# Finite weights that no sum survives: +3e38 and -3e38 in turn are NaN in the first LayerNorm.
SPOILING = torch.tensor([3e38, -3e38]).repeat(50)


@pytest.mark.parametrize("value", [SPOILING, torch.full((100,), 3e38)], ids=["nan", "overflow"])
def test_a_sequence_that_computed_no_numbers_leaves_nothing_in_its_slot(kind, value):
    model = network_to_change()
    model.wpe.weight[20] = value
    runner = kind.runner(model.config, weights_of(model), 3, 2)
    fresh = kind.runner(model.config, weights_of(model), 3, 2)
    short, long = random_ids(9, 19), random_ids(10, 90)
    expected = execute(fresh, drawing(0, 0, short)).chunks[0]
    chunks = (drawing(1, 0, long), Chunk(0, 0, long), drawing(2, 0, short))
    for order in (chunks, chunks[::-1]):
        outputs = execute(runner, *order).chunks
        *spoilt, other = outputs if order is chunks else outputs[::-1]
        assert other == expected
        assert spoilt == [ChunkOutput(error=NOT_FINITE)] * 2  # whether they draw or not
    for length in range(1, 20):
        once, again = (logits_of(r, 1, short[:length]) for r in (fresh, runner))
        assert np.array_equal(once, again)
        assert np.isfinite(again).all()


def test_a_chunk_that_computes_no_number_says_so_whatever_it_asks_for(kind):
    model = network_to_change()
    model.wpe.weight[5] = SPOILING
    runner = kind.runner(model.config, weights_of(model), 1, 1)
    for params in (
        GREEDY,
        SamplingParams(temperature=1.0),
        SamplingParams(repetition_penalty=1.3),
        SamplingParams(1.0, top_k=5, top_p=0.9, min_p=0.1, typical_p=0.9),
    ):
        for row in (4, 5):  # that before it is a number
            chunk = Chunk(0, 0, (1, 2, 3, 4, 5, 6), (Draw(4, GREEDY), Draw(row, params, num_prompt=2)))
            assert execute(runner, chunk).chunks == (ChunkOutput(error=NOT_FINITE),)
    for scores in (Scores(0, (1, 2), 3), Scores(3, (1, 2, 3)), Scores(5, (1,), 2)):
        assert execute(runner, Chunk(0, 0, (1, 2, 3, 4, 5, 6), scores=scores)).chunks == (ChunkOutput(error=NOT_FINITE),)
    assert execute(runner, Chunk(0, 0, (1, 2, 3, 4, 5))).chunks == (ChunkOutput(),)


def test_positions_before_a_nan_keep_their_bits(kind):
    """Other requests may take them over as their prefix."""
    model = network_to_change()
    prefix, tail = random_ids(11, 22), random_ids(12, 5)
    expected = logits_of(kind.runner(model.config, weights_of(model), 1, 1), 0, prefix + tail)
    model.wte.weight[7] = SPOILING  # of a token that is neither in the prefix nor in the tail
    assert 7 not in prefix + tail
    runner = kind.runner(model.config, weights_of(model), 2, 1)
    others = np.arange(500) != 7  # the output head has the same weights
    logits = logits_of(runner, 0, (*prefix, 7, 1))
    assert np.array_equal(logits[:22, others], expected[:22, others])
    runner.copy_prefix(0, 1, 22)
    assert np.array_equal(logits_of(runner, 1, tail, start=22)[:, others], expected[22:, others])


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", ["h.1.mlp.c_fc.weight", "h.0.attn.c_attn.bias", "ln_f.weight", "wpe.weight", "wte.weight"])
def test_a_weight_that_is_no_number_is_refused_by_name(kind, name, value):
    model = network_to_change()
    parameter = dict(model.named_parameters())[name]
    parameter[(-1,) * parameter.ndim] = value
    with pytest.raises(NotFinite, match=name) as refusal:
        kind.runner(WIDTH_100, weights_of(model), 1, 1)
    assert refusal.value.name == name


def test_the_models_weights_are_copied(kind):
    model, token_ids = network_to_change(), random_ids(13, 20)
    runner = kind.runner(model.config, weights_of(model), 1, 1)
    before = logits_of(runner, 0, token_ids)
    for parameter in model.parameters():
        parameter.fill_(math.nan)
    del model
    assert np.array_equal(logits_of(runner, 0, token_ids), before)


def test_warming_up_changes_no_answer(kind):
    runner, token_ids = runner_of(kind), random_ids(14, 50)
    before = logits_of(runner, 0, token_ids)
    runner.warm_up()
    assert np.array_equal(logits_of(runner, 0, token_ids), before)


def test_a_runner_says_what_it_holds(kind):
    runner = runner_of(kind)
    assert (runner.num_slots, runner.max_positions, runner.vocab_size) == (3, 192, 500)
    assert runner.capabilities.exact_at_any_cut
    assert runner.capabilities.num_steps == 1


def test_a_step_of_nothing_gives_nothing(available):
    # A process of its own: with AMX, a tile of no rows ended it.
    program = """
from model.batch import ForwardBatch, StepOutput
from model.config import GPT2Config
from model.gpt2 import GPT2
from model.native.library import Precision
from model.native.runner import NativeRunner
from model.network_files import weights_of

model = GPT2(GPT2Config(vocab_size=9, n_positions=9, n_embd=8, n_layer=1, n_head=1, eos_token_ids=(0,)))
for precision in Precision:
    assert NativeRunner(model.config, weights_of(model), 1, precision, 2).launch(ForwardBatch(())).collect() == StepOutput(())
"""
    assert subprocess.run([sys.executable, "-c", program], timeout=120).returncode == 0
