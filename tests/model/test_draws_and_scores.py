"""What a chunk may be asked for: draws after any of its rows, the log-probabilities of given tokens, the likeliest beside both."""

import math
import random
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from model.batch import (
    NOT_FINITE,
    NOTHING_TO_DRAW,
    Chunk,
    ChunkOutput,
    Draw,
    ForwardBatch,
    Runner,
    SampledToken,
    SamplingParams,
    Scores,
    TokenMask,
)
from model.config import GPT2Config
from model.gpt2 import GPT2, CausalAttention
from model.layout import Grids
from model.runner import MAX_HEAD_ROWS, TorchRunner
from tests.model.execute import execute

V, CHUNK, NUM_SLOTS = 501, 16, 8
CONFIG = GPT2Config(vocab_size=V, n_positions=100, n_embd=75, n_layer=2, n_head=3, eos_token_ids=(0,))
BROKEN = 90  # the position at which nothing computed is a number
PARAMS = [
    SamplingParams(),
    SamplingParams(temperature=1.0, seed=5),
    SamplingParams(temperature=0.8, top_k=20, top_p=0.9, repetition_penalty=1.3, seed=2**64 - 1),
    SamplingParams(temperature=1.5, min_p=0.01, typical_p=0.9, frequency_penalty=0.4, presence_penalty=-0.3, seed=7),
    SamplingParams(repetition_penalty=1.5, logit_bias=((3, 2.0),)),
]
PROMPT = tuple(11 * i * i % V for i in range(3 * CHUNK))


def network() -> GPT2:
    model = GPT2(CONFIG).init_weights(torch.Generator().manual_seed(0)).eval().requires_grad_(False)
    for parameter in model.parameters():
        parameter.data.mul_(4 if parameter.ndim == 2 else 1)
    model.wpe.weight.data[BROKEN] = math.nan
    return model


@pytest.fixture(params=["own", "grids"])
def torch_runner(request: pytest.FixtureRequest, device: torch.device) -> TorchRunner:
    runner = TorchRunner(network(), NUM_SLOTS, CHUNK, device, torch.float32)
    if request.param == "grids":
        runner.layout = Grids(runner.cache, CHUNK)
    return runner


@pytest.fixture(params=["own", "grids", "kernels"])
def runner(request: pytest.FixtureRequest, device: torch.device) -> Runner:
    """PyTorch's runner in its two layouts, and CUDA's with its kernels, or on a CPU with their twins."""
    if request.param == "kernels":
        return kernels_runner(network(), NUM_SLOTS, device)
    runner = TorchRunner(network(), NUM_SLOTS, CHUNK, device, torch.float32)
    if request.param == "grids":
        runner.layout = Grids(runner.cache, CHUNK)
    return runner


def kernels_runner(model: GPT2, num_slots: int, device: torch.device) -> Runner:
    pytest.importorskip("triton", reason="Triton is not installed")
    from tests.model.cuda.running import cuda_runner

    return cuda_runner(device, num_slots, model)


def run(runner: Runner, *chunks: Chunk) -> tuple[ChunkOutput, ...]:
    return execute(runner, ForwardBatch(chunks)).chunks


def chunk_with(*draws: Draw, slot: int = 0, scores: Scores | None = None) -> Chunk:
    """The first tokens of the prompt."""
    return Chunk(slot, 0, PROMPT[:CHUNK], draws, scores)


def draw_of(runner: Runner, draw: Draw) -> SampledToken:
    """What comes of it alone."""
    (output,) = run(runner, chunk_with(draw))
    return output.tokens[0][0]


def bits(token: SampledToken) -> tuple[object, ...]:
    return token.token_id, token.logprob.hex(), [(token_id, logprob.hex()) for token_id, logprob in token.top]


def exact_logprobs() -> torch.Tensor:
    """Of the plain network in float64 after each token of the prompt: (T, V)."""
    return network().double()(torch.tensor([PROMPT]))[0].log_softmax(dim=-1)


# ---- draws


def test_draws_after_any_rows_are_those_of_runs_with_one_draw_each(runner):
    draws = [Draw(row, params, num_prompt=9) for row in (0, 3, 8, 9, CHUNK - 1) for params in PARAMS]
    alone = [bits(draw_of(runner, draw)) for draw in draws]
    neighbour = Chunk(3, 0, PROMPT[5:12], (Draw(6, PARAMS[2], 7),))
    output, beside = run(runner, chunk_with(*draws), neighbour)
    assert [bits(token) for (token,) in output.tokens] == alone
    assert run(runner, neighbour) == (beside,)


@pytest.mark.parametrize("params", PARAMS[1:4])
def test_draws_of_one_row_are_those_of_as_many_runs_with_their_seeds(runner, params):
    draws = [Draw(CHUNK - 1, replace(params, seed=(params.seed + i) % 2**64), num_prompt=CHUNK) for i in range(16)]
    (output,) = run(runner, chunk_with(*draws))
    assert [bits(token) for (token,) in output.tokens] == [bits(draw_of(runner, draw)) for draw in draws]
    assert len({token.token_id for (token,) in output.tokens}) > 1


def test_as_many_draws_as_a_runner_takes_of_one_chunk_are_all_there(runner):
    draws = [Draw(i % CHUNK, PARAMS[i % len(PARAMS)], 4) for i in range(runner.capabilities.max_draws)]
    (output,) = run(runner, chunk_with(*draws))
    for i in (0, 17, len(draws) - 1):
        assert bits(output.tokens[i][0]) == bits(draw_of(runner, draws[i]))


def test_a_draws_number_is_that_of_its_seed_and_position_however_the_prompt_was_cut(runner):
    params = SamplingParams(temperature=1.0, seed=3)
    (whole,) = run(runner, Chunk(0, 0, PROMPT[:12], (Draw(4, params), Draw(11, params))))
    (first,) = run(runner, Chunk(1, 0, PROMPT[:5], (Draw(4, params),)))
    (second,) = run(runner, Chunk(1, 5, PROMPT[5:12], (Draw(6, params),)))
    assert [token.token_id for (token,) in whole.tokens] == [first.tokens[0][0].token_id, second.tokens[0][0].token_id]


# ---- masks


@pytest.mark.parametrize("params", PARAMS)
def test_a_mask_of_three_tokens_lets_only_these_be_drawn(runner, params):
    allowed = (PROMPT[2], 7, 500)
    draws = [Draw(row, params, 9, mask=TokenMask.of(allowed, V)) for row in range(CHUNK)]
    (output,) = run(runner, chunk_with(*draws))
    drawn = [token for (token,) in output.tokens]
    assert {token.token_id for token in drawn} <= set(allowed)
    assert len({token.token_id for token in drawn}) > 1
    expected = exact_logprobs()
    for row, token in enumerate(drawn):
        assert token.logprob == pytest.approx(expected[row, token.token_id].item(), abs=1e-4)
        if params.greedy and not params.penalises:
            assert token.token_id == max(allowed, key=expected[row].tolist().__getitem__)


@pytest.mark.parametrize("params", [PARAMS[0], PARAMS[2]], ids=["greedy", "sampled"])
@pytest.mark.parametrize(
    "fields",
    [{"mask": TokenMask.of((), V)}, {"mask": TokenMask.of((4, 5), V), "banned_ids": (5, 4)}, {"banned_ids": tuple(range(V))}],
    ids=["empty_mask", "mask_of_what_is_banned", "all_banned"],
)
def test_a_draw_to_which_nothing_is_left_is_its_chunks_error_and_nobody_elses(runner, params, fields):
    whole, last = chunk_with(Draw(3, params, 2), slot=1), Chunk(2, 0, PROMPT[:3], (Draw(2, PARAMS[3], 3),))
    expected = run(runner, whole, last)
    sentenced = chunk_with(Draw(0, params), Draw(5, params, **fields), scores=Scores(0, PROMPT[1:4]))
    first, second, third = run(runner, whole, sentenced, last)
    assert second == ChunkOutput(error=NOTHING_TO_DRAW)
    assert (first, third) == expected


# ---- scores


def test_scores_are_the_log_probabilities_of_the_plain_network(runner):
    expected, scored = exact_logprobs(), []
    for start in range(0, len(PROMPT), CHUNK):
        token_ids = PROMPT[start + 1 : start + CHUNK + 1]
        (output,) = run(runner, Chunk(2, start, PROMPT[start : start + CHUNK], scores=Scores(0, token_ids)))
        scored += [score.logprob for score in output.scores]
    wanted = [expected[i, token_id].item() for i, token_id in enumerate(PROMPT[1:])]
    assert scored == pytest.approx(wanted, abs=1e-4)


def test_a_score_is_what_a_draw_of_that_token_reports_to_the_bit(runner):
    token_ids = PROMPT[1 : CHUNK + 1]
    draws = [Draw(row, PARAMS[row % 2], mask=TokenMask.of((token_id,), V), top_n=5) for row, token_id in enumerate(token_ids)]
    (apart,) = run(runner, chunk_with(scores=Scores(0, token_ids, top_n=5)))
    (drawn,) = run(runner, chunk_with(*draws))
    (both,) = run(runner, chunk_with(*draws, scores=Scores(0, token_ids, top_n=5)))
    assert [token.token_id for (token,) in drawn.tokens] == list(token_ids)
    assert [(token.logprob, token.top) for (token,) in drawn.tokens] == [(score.logprob, score.top) for score in apart.scores]
    assert both == ChunkOutput(drawn.tokens, apart.scores)


def test_scores_may_begin_at_any_row_and_be_of_other_tokens_than_those_that_follow(runner):
    (whole,) = run(runner, chunk_with(scores=Scores(0, (9,) * CHUNK)))
    (part,) = run(runner, chunk_with(scores=Scores(5, (9, 9, 9))))
    (last,) = run(runner, chunk_with(scores=Scores(CHUNK - 1, (9,))))
    assert part.scores == whole.scores[5:8]
    assert last.scores == whole.scores[-1:]
    assert run(runner, chunk_with(scores=Scores(0, ()))) == (ChunkOutput(),)


def test_the_likeliest_are_told_where_they_are_asked_for_and_in_their_order(runner):
    draws = [Draw(4, PARAMS[3], 2, top_n=n) for n in (0, 1, 7)]
    other = Chunk(1, 0, PROMPT[:3], (Draw(2, PARAMS[0], top_n=3),), Scores(0, (1, 2), top_n=2))
    output, beside = run(runner, chunk_with(*draws, scores=Scores(3, (1, 2), top_n=0)), other)
    tops = [token.top for (token,) in output.tokens]
    assert [len(top) for top in tops] == [0, 1, 7]
    assert tops[1] == tops[2][:1]
    assert [score.top for score in output.scores] == [(), ()]
    assert [len(score.top) for score in beside.scores] == [2, 2]
    expected = exact_logprobs()[4].topk(7)
    assert [token_id for token_id, _ in tops[2]] == expected.indices.tolist()
    assert [logprob for _, logprob in tops[2]] == pytest.approx(expected.values.tolist(), abs=1e-4)
    (greedy,) = beside.tokens[0]
    assert greedy.top[0] == (greedy.token_id, greedy.logprob)


def test_more_of_the_likeliest_than_there_are_tokens_are_all_of_them(runner):
    (token,) = run(runner, chunk_with(Draw(0, PARAMS[0], top_n=10_000)))[0].tokens[0]
    assert sorted(token_id for token_id, _ in token.top) == list(range(V))
    assert list(token.top) == sorted(token.top, key=lambda pair: (-pair[1], pair[0]))
    assert math.fsum(math.exp(logprob) for _, logprob in token.top) == pytest.approx(1, abs=1e-5)


@pytest.fixture
def rows_of_the_head(torch_runner) -> Iterator[list[int]]:
    """How many rows the output head is given, call by call."""
    nums: list[int] = []
    hook = torch_runner.model.lm_head.register_forward_pre_hook(lambda _, inputs: nums.append(len(inputs[0])))
    yield nums
    hook.remove()


def test_logits_are_never_there_for_more_rows_than_a_bound(torch_runner, rows_of_the_head):
    """Scoring a step's whole prompts would take 200 KB a token of GPT-2's logits, and more for what is made of them."""
    chunks = [Chunk(slot, 0, PROMPT[:CHUNK], scores=Scores(0, PROMPT[1 : CHUNK + 1], top_n=2)) for slot in range(NUM_SLOTS)]
    chunks[3] = chunks[3]._replace(draws=tuple(Draw(row, PARAMS[1]) for row in range(CHUNK)))
    outputs = run(torch_runner, *chunks)
    assert sum(rows_of_the_head) >= NUM_SLOTS * CHUNK + CHUNK
    assert max(rows_of_the_head) <= (MAX_HEAD_ROWS if torch_runner.device.type == "cpu" else NUM_SLOTS)
    (alone,) = run(torch_runner, chunks[0])
    assert all(output.scores == alone.scores for output in outputs)


# ---- whatever else is asked for in the step


def random_chunk(chance: random.Random, slot: int) -> Chunk:
    """A prompt's first chunk, with what may be asked of one."""
    length = chance.choice([1, 2, CHUNK - 1, CHUNK])
    token_ids = tuple(chance.randrange(V) for _ in range(length))
    draws = tuple(
        Draw(
            chance.randrange(length),
            chance.choice(PARAMS),
            num_prompt=chance.randint(1, length),
            banned_ids=chance.choice([(), (3, 4)]),
            mask=chance.choice([None, None, TokenMask.of(tuple(range(chance.randint(5, V))), V)]),
            top_n=chance.choice([0, 0, 3, 5]),
        )
        for _ in range(chance.choice([0, 0, 1, 1, 2, 20]))
    )
    first = chance.randrange(length)
    scores = Scores(first, tuple(chance.randrange(V) for _ in range(length - first)), chance.choice([0, 2]))
    return Chunk(slot, 0, token_ids, draws, chance.choice([None, scores]))


@pytest.mark.parametrize("num_threads", [1, 2, 3])
def test_a_chunks_output_has_the_same_bits_alone_and_among_others(runner, num_threads):
    before, chance = torch.get_num_threads(), random.Random(num_threads)
    torch.set_num_threads(num_threads)
    try:
        for _ in range(6):
            chunks = [random_chunk(chance, slot) for slot in chance.sample(range(NUM_SLOTS), chance.randint(2, NUM_SLOTS))]
            alone = [run(runner, chunk)[0] for chunk in chunks]
            assert [*run(runner, *chunks)] == alone
    finally:
        torch.set_num_threads(before)


# ---- the slot's tokens


@pytest.mark.parametrize("params", PARAMS[2:])
def test_penalties_look_at_what_the_slot_has_run_and_at_what_was_copied_into_it(runner, params):
    def run_on(slot: int, start: int) -> list[object]:
        drawn, token_ids = [], list(PROMPT[: 2 * CHUNK + 3])
        while len(drawn) < 6:
            end = min(start + CHUNK, len(token_ids))
            draws = (Draw(end - start - 1, params, 2 * CHUNK + 3),) if end == len(token_ids) else ()
            (output,) = run(runner, Chunk(slot, start, tuple(token_ids[start:end]), draws))
            for (token,) in output.tokens:
                drawn.append(bits(token))
                token_ids.append(token.token_id)
            start = end
        return drawn

    expected = run_on(0, 0)
    runner.copy_prefix(0, 5, 2 * CHUNK)
    for start in (0, CHUNK):
        run(runner, Chunk(0, start, PROMPT[::-1][:CHUNK]))  # the source may be written over
    runner.copy_prefix(5, 0, 2 * CHUNK)  # and back, since on a CPU a slot's place in a grid may change last bits
    assert run_on(0, 2 * CHUNK) == expected


def test_the_prompts_tokens_are_repeated_ones_but_not_frequent_ones(runner):
    """A token that the prompt alone has is not penalised for its presence; one that was generated is."""
    params = SamplingParams(presence_penalty=1000.0)
    likeliest = draw_of(runner, Draw(CHUNK - 1, SamplingParams())).token_id
    token_ids = (*PROMPT[: CHUNK - 2], likeliest, PROMPT[CHUNK - 1])
    plain, of_prompt, of_generated = (
        run(runner, Chunk(0, 0, token_ids, (Draw(CHUNK - 1, p, num_prompt),)))[0].tokens[0][0].token_id
        for p, num_prompt in ((SamplingParams(), 0), (params, CHUNK), (params, 0))
    )
    assert of_prompt == plain
    assert of_generated not in token_ids


# ---- errors


@pytest.mark.parametrize("asked", ["draw", "scores", "nothing"])
def test_a_chunk_that_computed_no_numbers_says_so_whatever_it_was_asked_for(runner, asked):
    draws = (Draw(3, PARAMS[1]), Draw(1, PARAMS[0])) if asked == "draw" else ()
    scores = Scores(2, (1, 2), top_n=3) if asked == "scores" else None
    broken = Chunk(1, BROKEN - 1, (1, 2, 3, 4), draws, scores)
    others = chunk_with(Draw(5, PARAMS[2], 3), scores=Scores(0, (1, 2))), Chunk(2, 0, (5,), (Draw(0, PARAMS[1]),))
    expected = run(runner, *others)
    first, second, third = run(runner, others[0], broken, others[1])
    assert second == ChunkOutput(error=NOT_FINITE)
    assert (first, third) == expected


@pytest.mark.parametrize(
    "make", [lambda *of: TorchRunner(*of[:2], CHUNK, of[2], torch.float32), kernels_runner], ids=["torch", "kernels"]
)
def test_an_output_head_that_overflows_is_an_error_too(device, make):
    """With one sign no probability is a number, with the other that of the token is infinitely small."""
    model = network()
    model.ln_f.weight.data *= 1000
    hidden = model.hidden_states(torch.tensor([[1, 2]]), torch.arange(2), CausalAttention())[0]  # (2, C)
    place = int(hidden.prod(dim=0).argmin())  # where the two rows have unlike signs
    model.wte.weight.data[7] = 0
    model.wte.weight.data[7, place] = 3e38
    above, below = hidden[:, place].argsort(descending=True).tolist()
    runner = make(model, 2, device)
    for draw in (Draw(above, PARAMS[0]), Draw(above, PARAMS[1])):
        assert run(runner, Chunk(0, 0, (1, 2), (draw,))) == (ChunkOutput(error=NOT_FINITE),)
    for scores in (Scores(above, (3,)), Scores(above, (7,)), Scores(below, (7,))):
        assert run(runner, Chunk(0, 0, (1, 2), scores=scores)) == (ChunkOutput(error=NOT_FINITE),)
    (others,) = run(runner, Chunk(0, 0, (1, 2), (Draw(below, PARAMS[0]),), Scores(below, (3,))))
    assert others.error is None
