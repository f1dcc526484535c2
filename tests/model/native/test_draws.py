"""What a chunk may ask for: any number of draws after any of its rows, masks, alternatives, several steps; what they look at."""

import itertools
import random

import numpy as np
import pytest

from model.batch import (
    NOT_FINITE,
    NOTHING_TO_DRAW,
    Chunk,
    ChunkOutput,
    Draw,
    ForwardBatch,
    SampledToken,
    SamplingParams,
    Scores,
    TokenMask,
)
from model.config import GPT2Config
from model.native.runner import NativeRunner
from model.network_files import weights_of
from model.philox import uniform
from tests.model.native.kinds import Kind, network
from tests.model.native.running import bits, drawing, drawn, execute, sample, top_bits

CONFIG = GPT2Config(vocab_size=300, n_positions=160, n_embd=48, n_layer=2, n_head=3, eos_token_ids=(0,))
GREEDY = SamplingParams()
WAYS = [
    GREEDY,
    SamplingParams(temperature=1.0, seed=1),
    SamplingParams(temperature=1.3, top_k=40, top_p=0.9, seed=2),
    SamplingParams(repetition_penalty=1.5, frequency_penalty=0.4),
    SamplingParams(1.0, typical_p=0.9, presence_penalty=0.7, repetition_penalty=0.8, logit_bias=((5, 3.0),), seed=2**64 - 1),
]


def runner_of(kind: Kind, num_threads: int = 2, num_slots: int = 3) -> NativeRunner:
    return kind.runner(CONFIG, weights_of(network(CONFIG)), num_slots, num_threads)


def random_ids(seed: int, length: int, vocab_size: int = CONFIG.vocab_size) -> tuple[int, ...]:
    chance = random.Random(seed)
    return tuple(chance.randrange(vocab_size) for _ in range(length))


def mask(*token_ids: int) -> TokenMask:
    return TokenMask.of(token_ids, CONFIG.vocab_size)


# ---- rows


@pytest.mark.parametrize("start", [0, 37])
def test_draws_after_any_rows_of_a_chunk_are_those_of_runs_that_end_there(kind, start):
    runner, token_ids = runner_of(kind), random_ids(1, start + 30)
    if start:
        execute(runner, Chunk(0, 0, token_ids[:start]))
    rows = [29, 0, 7, 7, 16, 28, 1]  # in any order, and twice
    draws = tuple(Draw(row, WAYS[i % len(WAYS)], 20, top_n=i % 3) for i, row in enumerate(rows))
    (out,) = execute(runner, Chunk(0, start, token_ids[start:], draws)).chunks
    for draw, (token,) in zip(draws, out.tokens, strict=True):
        alone = drawing(1, 0, token_ids[: start + draw.row + 1], draw.params, num_prompt=20, top_n=draw.top_n)
        assert [token] == drawn(execute(runner, alone)), draw


def test_several_draws_of_one_row_are_those_of_as_many_requests(kind):
    """Each with its own seed, as the samples of one prompt have."""
    runner, prompt = runner_of(kind), random_ids(2, 50)
    for seed in (0, 2**64 - 3):
        params = [SamplingParams(1.0, top_p=0.95, repetition_penalty=1.2, seed=(seed + i) % 2**64) for i in range(8)]
        (out,) = execute(runner, Chunk(0, 0, prompt, tuple(Draw(49, p, 50) for p in params))).chunks
        together = [token for (token,) in out.tokens]
        assert together == [token for p in params for token in drawn(execute(runner, drawing(1, 0, prompt, p, num_prompt=50)))]
        assert len({token.token_id for token in together}) > 3


@pytest.mark.parametrize("num_threads", [1, 2, 3])
def test_more_rows_than_are_kept_at_a_time_give_the_tokens_of_few(kind, num_threads):
    """150 rows with all their logits are three groups; greedy ones beside them are computed with the first."""
    length = 70 if kind.is_slow else 150
    runner, token_ids = runner_of(kind, num_threads), random_ids(3, length)
    draws = tuple(Draw(row, WAYS[row % len(WAYS)], 3, top_n=4 * (row % 2)) for row in range(length))
    (together,) = execute(runner, Chunk(0, 0, token_ids, draws)).chunks
    one_by_one = []
    for draw, token_id in zip(draws, token_ids, strict=True):
        single = Draw(0, draw.params, draw.num_prompt, top_n=draw.top_n)
        one_by_one += execute(runner, Chunk(1, draw.row, (token_id,), (single,))).chunks[0].tokens
    assert together.tokens == tuple(one_by_one)


# ---- what came before


def test_penalties_look_at_the_slots_tokens_up_to_the_row_and_at_no_others(kind):
    """Also where another sequence held the slot, and where the prompt ends after the row."""
    runner, token_ids = runner_of(kind), random_ids(4, 60, vocab_size=12)
    execute(runner, Chunk(0, 0, random_ids(5, 90)))
    logits = runner.logits(ForwardBatch((Chunk(1, 0, token_ids),)), range(60))
    seen = set()
    for start, end in itertools.pairwise([0, 5, 6, 7, 30, 60]):
        draws = tuple(
            Draw(row, params, num_prompt) for row in {0, end - start - 1} for params in WAYS for num_prompt in (0, 4, 20, 1000)
        )
        (out,) = execute(runner, Chunk(0, start, token_ids[start:end], draws)).chunks
        for draw, (token,) in zip(draws, out.tokens, strict=True):
            position = start + draw.row
            told, chance = Draw(0, draw.params, draw.num_prompt), uniform(draw.params.seed, position + 1)
            ((expected,),) = sample(logits[position], token_ids[: position + 1], told, kind.kernels, chance).tokens
            assert bits([token]) == bits([expected]), (position, draw)
            seen.add(token.token_id)
    assert len(seen) > 20


def test_a_copied_slot_has_the_tokens_of_its_source(kind):
    runner, shared, tail = runner_of(kind), random_ids(6, 40, vocab_size=9), random_ids(7, 5, vocab_size=9)
    execute(runner, Chunk(2, 0, random_ids(8, 100)))  # the target was another's
    (expected,) = execute(runner, drawing(0, 0, shared[:33] + tail, WAYS[4], num_prompt=30, top_n=5)).chunks
    execute(runner, Chunk(1, 0, shared))  # the source goes on beyond the prefix
    runner.copy_prefix(1, 2, 33)
    execute(runner, Chunk(1, 0, random_ids(9, 50)))  # and may be written over
    assert execute(runner, drawing(2, 33, tail, WAYS[4], num_prompt=30, top_n=5)).chunks == (expected,)


# ---- masks


@pytest.mark.parametrize("params", WAYS, ids=range(len(WAYS)))
def test_no_token_is_drawn_but_those_that_a_mask_allows(kind, params):
    runner, prompt, allowed = runner_of(kind), random_ids(10, 20), (3, 64, 299)
    seeds = range(30)
    draws = tuple(Draw(19, SamplingParams(**{**as_dict(params), "seed": seed}), 20, mask=mask(*allowed)) for seed in seeds)
    (out,) = execute(runner, Chunk(0, 0, prompt, draws)).chunks
    tokens = [token for (token,) in out.tokens]
    assert {token.token_id for token in tokens} <= set(allowed)
    (logits,) = runner.logits(ForwardBatch((Chunk(1, 0, prompt),)), [19])
    logprobs = logits - np.log(np.exp(logits.astype(np.float64)).sum())
    for token in tokens:
        assert token.logprob == pytest.approx(logprobs[token.token_id], abs=1e-5)  # the model's own


def as_dict(params: SamplingParams) -> dict[str, object]:
    return {name: getattr(params, name) for name in params.__slots__}


def test_each_draw_has_its_own_mask(kind):
    runner, prompt = runner_of(kind), random_ids(11, 20)
    draws = tuple(Draw(row, GREEDY, mask=mask(row, 100 + row)) for row in range(20))
    (out,) = execute(runner, Chunk(0, 0, prompt, (*draws, Draw(19, GREEDY)))).chunks
    assert all(token.token_id in (row, 100 + row) for row, (token,) in enumerate(out.tokens[:20]))
    assert out.tokens[20] == (drawn(execute(runner, drawing(1, 0, prompt)))[0],)


@pytest.mark.parametrize("params", WAYS, ids=range(len(WAYS)))
@pytest.mark.parametrize(
    "nothing", [{"mask": mask()}, {"banned_ids": tuple(range(300))}, {"mask": mask(7, 8), "banned_ids": (8, 7)}], ids=str
)
def test_where_nothing_may_be_drawn_that_chunk_says_so_and_the_others_go_on(kind, params, nothing):
    runner, prompt = runner_of(kind), random_ids(12, 20)
    other = drawing(1, 0, prompt, params, num_prompt=20)
    (expected,) = execute(runner, other).chunks
    wrong = Chunk(0, 0, prompt, (Draw(19, GREEDY), Draw(19, params, 20, **nothing), Draw(3, GREEDY)), Scores(0, (1, 2), 3))
    for order in ((wrong, other), (other, wrong)):
        outputs = execute(runner, *order).chunks
        assert outputs[order.index(wrong)] == ChunkOutput(error=NOTHING_TO_DRAW)
        assert outputs[order.index(other)] == expected
    assert execute(runner, drawing(0, 20, (5,), params)).chunks[0].error is None  # the slot is as good as any


def test_a_value_that_is_no_number_is_said_before_nothing_to_draw(kind):
    weights = weights_of(network(CONFIG))
    values = weights["wpe.weight"].values.copy()
    values[4, ::2], values[4, 1::2] = 3e38, -3e38
    runner = kind.runner(CONFIG, weights | {"wpe.weight": weights["wpe.weight"]._replace(values=values)}, 1, 1)
    nothing, spoilt = Draw(0, GREEDY, mask=mask()), Draw(4, GREEDY)
    for draws in ((nothing, spoilt), (spoilt, nothing), (nothing,)):
        assert execute(runner, Chunk(0, 0, (1, 2, 3, 4, 5, 6), draws)).chunks == (ChunkOutput(error=NOT_FINITE),)


# ---- alternatives


@pytest.mark.parametrize("top_n", [1, 5, 20, 300, 1000])
def test_the_likeliest_tokens_are_those_of_the_sorted_logits(kind, top_n):
    runner, prompt = runner_of(kind), random_ids(13, 12)
    logits = runner.logits(ForwardBatch((Chunk(1, 0, prompt),)), range(12))
    draws = tuple(Draw(row, params, 12, top_n=top_n) for row in (11, 3) for params in WAYS)
    (out,) = execute(runner, Chunk(0, 0, prompt, draws)).chunks
    for draw, (token,) in zip(draws, out.tokens, strict=True):
        row = logits[draw.row]
        order = sorted(range(300), key=lambda i, row=row: (-row[i], i))[:top_n]
        assert [token_id for token_id, _ in token.top] == order
        (alone,) = drawn(execute(runner, drawing(2, 0, prompt[: draw.row + 1], draw.params, num_prompt=12)))
        assert bits([token]) == bits([alone])  # alternatives change nothing
        assert dict(token.top).get(token.token_id, token.logprob) == token.logprob


# ---- several steps


@pytest.mark.parametrize("params", WAYS, ids=range(len(WAYS)))
def test_several_steps_in_one_call_are_those_one_by_one(kind, params):
    runner, prompts = runner_of(kind, num_slots=6), [random_ids(seed, length) for seed, length in enumerate((5, 20, 1))]
    ends = ({"max_new": 9}, {"max_new": 3}, {"max_new": 100, "banned_ids": (4,), "mask": mask(*range(100)), "top_n": 2})
    together = runner.launch(
        ForwardBatch(
            tuple(drawing(slot, 0, prompts[slot], params, num_prompt=len(prompts[slot]), **ends[slot]) for slot in range(3)),
            num_steps=9,
        )
    ).collect()
    for slot, out in enumerate(together.chunks):
        ids, expected = list(prompts[slot]), []
        for _ in range(min(9, ends[slot]["max_new"])):
            start = len(ids) - 1 if expected else 0
            chunk = drawing(3 + slot, start, ids[start:], params, num_prompt=len(prompts[slot]), **ends[slot])
            expected += drawn(execute(runner, chunk))
            ids.append(expected[-1].token_id)
        assert out.tokens == (tuple(expected),)


def test_several_steps_end_with_an_end_token_or_an_error(kind):
    runner, prompt = runner_of(kind), random_ids(14, 20)

    def steps(**more: object) -> ChunkOutput:
        chunk = drawing(0, 0, prompt, WAYS[1], **{"max_new": 9, **more})
        return runner.launch(ForwardBatch((chunk,), num_steps=9)).collect().chunks[0]

    whole: tuple[SampledToken, ...] = steps().tokens[0]
    ids = [token.token_id for token in whole]
    assert len(ids) == 9
    first = ids.index(ids[4])
    assert steps(end_ids=(ids[4],)).tokens == (whole[: first + 1],)
    assert steps(mask=mask()) == ChunkOutput(error=NOTHING_TO_DRAW)


def test_alternatives_do_not_depend_on_neighbours_or_threads(kind):
    prompts = [random_ids(seed, length) for seed, length in enumerate((17, 3, 40))]
    alone = [execute(runner_of(kind, 1), drawing(0, 0, prompt, WAYS[1], top_n=7)).chunks[0] for prompt in prompts]
    for num_threads in (1, 2, 3):
        chunks = (drawing(slot, 0, prompt, WAYS[1], top_n=7) for slot, prompt in enumerate(prompts))
        together = execute(runner_of(kind, num_threads), *chunks).chunks
        assert [top_bits(out.tokens[0][0]) for out in together] == [top_bits(out.tokens[0][0]) for out in alone]
