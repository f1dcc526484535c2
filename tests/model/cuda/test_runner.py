"""CUDA's runner: the network's own numbers, the same bits for a sequence whatever runs beside it, and steps without the host.

On a CPU its kernels are replaced by their twins, and what is shown is the bookkeeping; on a card all of it.
"""

import copy
import math
import random

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import model.cuda.runner
from model.batch import (
    NOT_FINITE,
    Chunk,
    ChunkOutput,
    Draw,
    ForwardBatch,
    RunnerLost,
    SamplingParams,
    Scores,
    StepOutput,
    TokenMask,
)
from model.cuda.kernel_set import TRITON, TWINS
from model.cuda.results import DrawnBlock
from model.cuda.runner import CudaRunner
from model.cuda.step import MAX_STEPS
from model.runner import TorchRunner
from model.steps import run_steps
from tests.model.cuda.running import CONFIG, NUM_SLOTS, cuda_runner, network
from tests.model.execute import execute
from tests.model.schedules import Schedule, check_schedule, random_params, random_sequences

V = CONFIG.vocab_size
GREEDY = SamplingParams()
SAMPLED = SamplingParams(temperature=0.9, top_p=0.9, repetition_penalty=1.2, seed=5)
properties = settings(
    max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@pytest.fixture
def runner(device: torch.device) -> CudaRunner:
    return cuda_runner(device)


def run(runner: CudaRunner, *chunks: Chunk, num_steps: int = 1) -> tuple[ChunkOutput, ...]:
    return execute(runner, ForwardBatch(chunks, num_steps)).chunks


def random_ids(chance: random.Random, length: int) -> tuple[int, ...]:
    return tuple(chance.randrange(V) for _ in range(length))


def exact_logprobs(token_ids: tuple[int, ...]) -> torch.Tensor:
    """Of the plain network in float64, (T, V)."""
    return copy.deepcopy(network()).double()(torch.tensor([token_ids]))[0].log_softmax(dim=-1)


# ---- the network


@pytest.mark.parametrize(("dtype", "limit"), [(torch.float32, 2e-5), (torch.bfloat16, 0.15), (torch.float16, 0.02)])
def test_log_probabilities_are_the_networks_own(device, dtype, limit):
    token_ids = random_ids(random.Random(1), 90)
    (output,) = run(cuda_runner(device, dtype=dtype), Chunk(2, 0, token_ids, scores=Scores(0, token_ids[1:])))
    expected = exact_logprobs(token_ids)[:-1].gather(-1, torch.tensor(token_ids[1:])[:, None])[:, 0].tolist()
    assert [score.logprob for score in output.scores] == pytest.approx(expected, abs=limit)


def test_it_draws_what_pytorchs_runner_draws(device, runner):
    plain, chance = TorchRunner(network(), 8, 16, torch.device("cpu"), torch.float32), random.Random(2)
    chunks = [
        Chunk(slot, 0, random_ids(chance, 9), tuple(Draw(8, random_params(chance), num_prompt=5) for _ in range(8)))
        for slot in range(8)
    ]
    for ours, theirs in zip(run(runner, *chunks), run(plain, *chunks), strict=True):
        assert [token.token_id for (token,) in ours.tokens] == [token.token_id for (token,) in theirs.tokens]
        logprobs = [[token.logprob for (token,) in output.tokens] for output in (ours, theirs)]
        assert logprobs[0] == pytest.approx(logprobs[1], abs=2e-5)


def test_the_kernels_as_interpreted_or_compiled_compute_what_their_twins_do(device):
    chance = random.Random(3)
    chunks = [Chunk(0, 0, random_ids(chance, 19), (Draw(18, SAMPLED, 19, max_new=2),)), Chunk(1, 0, (5,), (Draw(0, GREEDY, 1),))]
    outputs = []
    for kernels in (TRITON, TWINS):
        runner = CudaRunner(network(), 2, device, torch.float32, kernels)
        outputs.append(run(runner, *chunks, num_steps=2))
    for ours, theirs in zip(*outputs, strict=True):
        for token, expected in zip(ours.tokens[0], theirs.tokens[0], strict=True):
            assert token.token_id == expected.token_id
            assert token.logprob == pytest.approx(expected.logprob, abs=1e-4)


# ---- the same bits


@properties
@given(lengths=st.lists(st.integers(1, 60), min_size=1, max_size=5), seed=st.integers(0, 2**32), num_new=st.integers(1, 8))
@example(lengths=[1] * 11, seed=1, num_new=3)
@example(lengths=[60, 49, 48, 17], seed=2, num_new=2)
def test_tokens_and_log_probabilities_are_those_of_a_sequence_alone(device, lengths, seed, num_new):
    """However prompts are cut, whichever slots they are in, with whatever prefix copied from another."""
    chance = random.Random(seed)
    sequences = random_sequences(chance, lengths, V)
    schedule = Schedule(cuda_runner(device), chance, max_running=chance.choice([1, 2, 5, NUM_SLOTS - 1]))
    check_schedule(schedule, cuda_runner(device, num_slots=1), sequences, num_new)


def random_draw(chance: random.Random, num_prompt: int) -> Draw:
    """One that the device can carry on with by itself, now and then one that it cannot."""
    draw = Draw(num_prompt - 1, random_params(chance), num_prompt, max_new=chance.randint(1, 10))
    draw = draw._replace(params=SamplingParams(seed=draw.params.seed, temperature=draw.params.temperature, top_k=5))
    ends = tuple(chance.sample(range(V), chance.choice([0, 8])))
    banned = tuple(chance.sample(range(V), chance.choice([0, 3])))
    return draw._replace(end_ids=ends, banned_ids=banned, top_n=chance.choice([0] * 20 + [2]))


@properties
@given(num=st.integers(1, NUM_SLOTS), num_steps=st.integers(1, MAX_STEPS + 2), seed=st.integers(0, 2**32))
def test_steps_in_one_launch_are_those_of_as_many_launches(device, num, num_steps, seed):
    chance = random.Random(seed)
    prompts = [random_ids(chance, chance.choice([1, 1, 2, 17, 40])) for _ in range(num)]
    slots = chance.sample(range(NUM_SLOTS), num)
    chunks = tuple(Chunk(slot, 0, ids, (random_draw(chance, len(ids)),)) for slot, ids in zip(slots, prompts, strict=True))
    one, other = cuda_runner(device), cuda_runner(device)
    expected = run_steps(lambda batch: execute(one, batch), ForwardBatch(chunks, num_steps))
    assert execute(other, ForwardBatch(chunks, num_steps)) == expected
    going = tuple(
        Chunk(chunk.slot, chunk.end + len(out.tokens[0]) - 1, (out.tokens[0][-1].token_id,), (Draw(0, SAMPLED, 1, max_new=9),))
        for chunk, out in zip(chunks, expected.chunks, strict=True)
    )
    assert run(other, *going, num_steps=3) == run(one, *going, num_steps=3)


def test_what_the_device_cannot_carry_on_with_alone_takes_its_further_steps_when_it_is_collected(runner, monkeypatch):
    """So that a launch keeps nobody waiting who is to be told of the last one's tokens."""
    forwards: list[int] = []
    forward = runner.step.forward
    monkeypatch.setattr(runner.step, "forward", lambda num_rows: (forwards.append(num_rows), forward(num_rows)))
    launched = runner.launch(ForwardBatch((Chunk(0, 0, (1, 2), (Draw(1, SAMPLED, 2, max_new=4, top_n=2),)),), 4))
    assert len(forwards) == 1
    (output,) = launched.collect().chunks
    assert (len(forwards), len(output.tokens[0])) == (4, 4)


def test_a_prompt_that_is_longer_than_a_pass_runs_in_several(device, monkeypatch, runner):
    chance = random.Random(4)
    long, short = random_ids(chance, 90), random_ids(chance, 20)
    draws = (Draw(89, SAMPLED, 90), Draw(3, GREEDY, 4), Draw(40, SAMPLED, 41), Draw(40, GREEDY, 41, top_n=3))
    chunks = [Chunk(0, 0, long, draws, Scores(0, long[1:])), Chunk(1, 0, short, (Draw(19, SAMPLED, 20),))]
    expected = run(runner, *chunks)
    for module in (model.cuda.runner, model.cuda.step):
        monkeypatch.setattr(module, "MAX_ROWS", 32)
    assert run(cuda_runner(device), *chunks) == expected
    continued = [Chunk(0, 0, long, (Draw(89, SAMPLED, 90, max_new=3),)), Chunk(1, 0, short, (Draw(19, SAMPLED, 20, max_new=3),))]
    assert run(cuda_runner(device), *continued, num_steps=3) == run(runner, *continued, num_steps=3)


def test_more_draws_than_there_is_room_for_are_all_there(runner):
    ids = random_ids(random.Random(5), 10)
    draws = tuple(Draw(i % 10, SAMPLED.of_sample(i), 3, top_n=int(i % 7 == 0)) for i in range(runner.step.max_draws + 70))
    (output,) = run(runner, Chunk(0, 0, ids, draws))
    for i in (0, 1, runner.step.max_draws - 1, runner.step.max_draws, len(draws) - 1):
        (alone,) = run(runner, Chunk(0, 0, ids, (draws[i],)))
        assert output.tokens[i] == alone.tokens[0]


def test_a_step_may_be_launched_before_the_last_one_is_collected(runner):
    ids = random_ids(random.Random(6), 30)
    batches = [
        ForwardBatch((Chunk(0, 0, ids, (Draw(29, GREEDY, 30),)),)),
        ForwardBatch((Chunk(1, 0, ids[:7], (Draw(6, SAMPLED, 7, max_new=4),), None), Chunk(0, 30, ids[:1])), 1),
        ForwardBatch((Chunk(0, 31, ids[:1], (Draw(0, SAMPLED, 30, max_new=5),)),), 5),
    ]
    expected = [execute(runner, batch) for batch in batches]
    launched = [runner.launch(batch) for batch in batches]
    assert [step.collect() for step in launched] == expected


# ---- what may lie in memory


def test_what_was_never_written_is_never_read(device):
    ids = random_ids(random.Random(7), 40)
    chunks = [Chunk(3, 0, ids, (Draw(39, SAMPLED, 40, max_new=6),)), Chunk(5, 0, ids[:1], (Draw(0, GREEDY, 1, max_new=6),))]
    clean, spoilt = cuda_runner(device), cuda_runner(device)
    with torch.inference_mode():
        spoilt.step.cache.data.fill_(math.nan)
        spoilt.step.history.tokens.fill_(V - 1)
        for buffer in vars(spoilt.step).values():
            if isinstance(buffer, torch.Tensor) and buffer.is_floating_point():
                buffer.fill_(math.nan)
    assert run(spoilt, *chunks, num_steps=6) == run(clean, *chunks, num_steps=6)


def test_a_sequence_that_computed_no_numbers_spoils_nobody_elses(device):
    model = copy.deepcopy(network())
    model.wpe.weight.data[20] = math.nan
    runner = cuda_runner(device, model=model)
    ids = random_ids(random.Random(8), 40)
    good = Chunk(1, 0, ids[:15], (Draw(14, SAMPLED, 15, max_new=4),))
    (expected,) = run(runner, good, num_steps=4)
    other, broken = run(runner, good, Chunk(0, 0, ids, (Draw(39, GREEDY, 40, max_new=4),)), num_steps=4)
    assert (other, broken) == (expected, ChunkOutput(error=NOT_FINITE))
    (unasked,) = run(runner, Chunk(0, 0, ids))
    assert unasked == ChunkOutput(error=NOT_FINITE)
    assert run(runner, good._replace(slot=0), num_steps=4) == (expected,)
    (reached,) = run(runner, Chunk(0, 0, ids[:17], (Draw(16, GREEDY, 17, max_new=8),)), num_steps=8)
    assert reached == ChunkOutput(error=NOT_FINITE)


def test_steps_that_leave_the_context_are_refused(runner):
    draw = Draw(0, GREEDY, 1, max_new=4)
    run(runner, Chunk(0, 0, tuple(range(96))), Chunk(1, 0, (1,)))
    with pytest.raises(IndexError, match="5 steps from position 98 on of 100"):
        runner.launch(ForwardBatch((Chunk(1, 1, (1,), (draw,)), Chunk(0, 97, (1,), (draw,))), 5))
    assert len(run(runner, Chunk(0, 96, (1,), (draw,)), num_steps=5)[0].tokens[0]) == 4


@pytest.mark.parametrize(
    "chunk",
    [
        Chunk(0, 0, (1, V)),
        Chunk(0, 0, (-1,)),
        Chunk(0, 0, ()),
        Chunk(0, 100, (1,)),
        Chunk(0, 98, (1, 2, 3)),
        Chunk(0, -1, (1,)),
        Chunk(NUM_SLOTS, 0, (1,)),
        Chunk(-1, 0, (1,)),
        Chunk(0, 0, (1,), (Draw(1, GREEDY),)),
        Chunk(0, 0, (1,), (Draw(0, GREEDY, banned_ids=(V,)),)),
        Chunk(0, 0, (1,), (Draw(0, SamplingParams(logit_bias=((V, 1.0),))),)),
        Chunk(0, 0, (1,), (Draw(0, GREEDY, mask=TokenMask(b"\1")),)),
        Chunk(0, 0, (1,), scores=Scores(0, (V,))),
        Chunk(0, 0, (1,), scores=Scores(0, (1, 2))),
    ],
)
def test_what_the_model_does_not_hold_is_refused_before_anything_is_changed(runner, chunk):
    ids = random_ids(random.Random(9), 20)
    run(runner, Chunk(3, 0, ids))
    going = Chunk(3, 20, ids[:1], (Draw(0, SAMPLED, 20),))
    expected = run(runner, going)
    with pytest.raises(IndexError):
        runner.launch(ForwardBatch((Chunk(3, 0, ids[::-1]), chunk)))
    assert run(runner, going) == expected


# ---- around steps


def test_an_empty_batch_is_answered(runner):
    assert execute(runner, ForwardBatch(())) == StepOutput(())


def test_warming_up_changes_no_answer(device):
    cold, warm = cuda_runner(device), cuda_runner(device)
    ids = random_ids(random.Random(10), 33)
    chunks = [Chunk(slot, 0, ids[slot:], (Draw(32 - slot, SAMPLED, 3, max_new=4),)) for slot in range(5)]
    before = run(warm, *chunks, num_steps=4)
    warm.warm_up()
    assert run(warm, *chunks, num_steps=4) == before == run(cold, *chunks, num_steps=4)


def test_a_runner_says_what_it_holds(runner):
    assert (runner.num_slots, runner.max_positions, runner.vocab_size) == (NUM_SLOTS, 100, V)
    assert runner.cache_bytes == 2 * 2 * (NUM_SLOTS + 1) * 72 * 128 * 4
    assert runner.capabilities.exact_at_any_cut
    assert runner.capabilities.is_asynchronous


def test_the_network_that_a_runner_is_given_stays_as_it_is(device):
    before = {name: parameter.clone() for name, parameter in network().named_parameters()}
    for dtype in (torch.float32, torch.bfloat16):
        run(cuda_runner(device, dtype=dtype), Chunk(0, 0, (1, 2, 3), (Draw(2, GREEDY),)))
    assert all(torch.equal(parameter, before[name]) for name, parameter in network().named_parameters())


@pytest.mark.parametrize(
    ("raised", "answers", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB"), True, MemoryError),
        (RuntimeError("Triton Error [CUDA]: out of memory"), True, MemoryError),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), False, RunnerLost),
        (RuntimeError("Triton Error [CUDA]: an illegal memory access was encountered"), False, RunnerLost),
        (RuntimeError("CUDA error: invalid argument"), True, RuntimeError),
        (RuntimeError("something else"), False, RuntimeError),
    ],
)
@pytest.mark.parametrize("when", ["launch", "collect"])
def test_torchs_errors_become_those_of_the_border(runner, monkeypatch, when, raised, answers, expected):
    def fail(*_: object) -> None:
        raise raised

    def synchronize() -> None:
        if not answers:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(torch.cuda, "synchronize", synchronize)
    monkeypatch.setattr(*((runner.step, "forward") if when == "launch" else (DrawnBlock, "gather")), fail)
    with pytest.raises(expected) as caught:
        runner.launch(ForwardBatch((Chunk(0, 0, (1,), (Draw(0, GREEDY),)),))).collect()
    assert type(caught.value) is expected


@pytest.mark.gpu
def test_a_launch_waits_for_nothing_on_a_gpu(device):
    if device.type != "cuda":
        pytest.skip("needs a CUDA GPU; none is here")
    runner = cuda_runner(device)
    runner.warm_up()
    mask = TokenMask.of(tuple(range(200)), V)
    batches = [
        ForwardBatch((Chunk(0, 0, (1, 2, 3), (Draw(2, SAMPLED, 3, mask=mask, top_n=3),), Scores(0, (2, 3), top_n=2)),)),
        ForwardBatch(
            (Chunk(0, 3, (4,), (Draw(0, SAMPLED, 3, max_new=8),)), Chunk(1, 0, (4,), (Draw(0, GREEDY, 1, max_new=8),))), 8
        ),
    ]
    expected = [execute(runner, batch) for batch in batches]  # which makes the mask
    torch.cuda.set_sync_debug_mode("error")
    try:
        launched = [runner.launch(batch) for batch in batches]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert [step.collect() for step in launched] == expected
