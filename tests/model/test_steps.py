"""Several steps in one call: those of as many calls, each draw to its own end."""

import math
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
    SampledToken,
    SamplingParams,
    ScoredToken,
    Scores,
    StepOutput,
    TokenMask,
)
from model.config import GPT2Config
from model.gpt2 import GPT2
from model.runner import TorchRunner
from model.steps import run_steps
from tests.model.execute import execute

V = 500
CONFIG = GPT2Config(vocab_size=V, n_positions=64, n_embd=64, n_layer=2, n_head=4, eos_token_ids=(0,))
BROKEN = 12  # the position at which nothing computed is a number
SAMPLED = SamplingParams(temperature=1.2, top_p=0.9, repetition_penalty=1.2, seed=4)
LONG = Draw(2, SAMPLED, num_prompt=3, max_new=20, top_n=2)


@pytest.fixture
def runner(device: torch.device) -> TorchRunner:
    model = GPT2(CONFIG).init_weights(torch.Generator().manual_seed(0)).eval().requires_grad_(False)
    for parameter in model.parameters():
        parameter.data.mul_(4 if parameter.ndim == 2 else 1)
    model.wpe.weight.data[BROKEN] = math.nan
    return TorchRunner(model, 4, 16, device, torch.float32)


def one_by_one(runner: TorchRunner, chunk: Chunk, num_steps: int) -> tuple[SampledToken, ...]:
    """What a chunk's draw gives in so many calls."""
    (draw,), tokens = chunk.draws, []
    for _ in range(num_steps):
        (output,) = execute(runner, ForwardBatch((chunk,))).chunks
        ((token,),) = output.tokens
        tokens.append(token)
        chunk = Chunk(chunk.slot, chunk.end, (token.token_id,), (draw._replace(row=0),))
    return tuple(tokens)


def test_they_give_the_tokens_of_as_many_calls(runner):
    prompts = [(1, 2, 3), (4,), (5, 6)]
    params = [SAMPLED, SamplingParams(), replace(SAMPLED, frequency_penalty=0.5, seed=9)]
    chunks = tuple(
        Chunk(slot, 0, prompt, (Draw(len(prompt) - 1, p, len(prompt), max_new=20, top_n=slot),))
        for slot, (prompt, p) in enumerate(zip(prompts, params, strict=True))
    )
    expected = [one_by_one(runner, chunk, 6) for chunk in chunks]
    output = execute(runner, ForwardBatch(chunks, num_steps=6))
    assert [chunk.tokens[0] for chunk in output.chunks] == expected


def test_a_draw_ends_at_its_last_token_or_at_an_end_token_and_the_others_go_on(runner):
    chunks = [Chunk(slot, 0, (1, 2, 3), (LONG,)) for slot in range(3)]
    tokens = one_by_one(runner, chunks[0], 7)
    end_id = tokens[3].token_id
    assert end_id not in [token.token_id for token in tokens[:3]]
    draws = [LONG._replace(max_new=2), LONG._replace(end_ids=(0, end_id)), LONG]
    batch = ForwardBatch(tuple(chunk._replace(draws=(draw,)) for chunk, draw in zip(chunks, draws, strict=True)), num_steps=7)
    assert [chunk.tokens[0] for chunk in execute(runner, batch).chunks] == [tokens[:2], tokens[:4], tokens]


def test_masks_and_bans_hold_in_every_step(runner):
    allowed = (7, 8, 9)
    draw = LONG._replace(mask=TokenMask.of(allowed, V), banned_ids=(8,))
    (output,) = execute(runner, ForwardBatch((Chunk(0, 0, (1, 2, 3), (draw,)),), num_steps=8)).chunks
    assert {token.token_id for token in output.tokens[0]} == {7, 9}


def test_scores_are_those_of_the_chunks_own_tokens(runner):
    chunk = Chunk(0, 0, (1, 2, 3), (LONG,), Scores(0, (2, 3), top_n=1))
    (single,) = execute(runner, ForwardBatch((chunk,))).chunks
    (several,) = execute(runner, ForwardBatch((chunk,), num_steps=3)).chunks
    assert several.scores == single.scores
    assert len(several.tokens[0]) == 3


def test_an_error_in_a_later_step_is_its_chunks_alone(runner):
    expected = one_by_one(runner, Chunk(1, 0, (1, 2, 3), (LONG,)), 6)
    near = Chunk(0, 0, tuple(range(BROKEN - 2)), (Draw(BROKEN - 3, SAMPLED, max_new=9),))
    batch = ForwardBatch((near, Chunk(1, 0, (1, 2, 3), (LONG,))), num_steps=6)
    first, second = execute(runner, batch).chunks
    assert first == ChunkOutput(error=NOT_FINITE)
    assert second.tokens == (expected,)


def test_an_error_in_the_first_step_ends_its_chunk_and_is_run_no_further():
    asked: list[list[int]] = []

    def run_one(batch: ForwardBatch) -> StepOutput:
        asked.append([chunk.slot for chunk in batch.chunks])
        tokens = ChunkOutput(((SampledToken(5, -1.0),),))
        return StepOutput(tuple(ChunkOutput(error=NOTHING_TO_DRAW) if chunk.slot == 3 else tokens for chunk in batch.chunks))

    chunks = tuple(Chunk(slot, 0, (1, 2, 3), (LONG,)) for slot in (2, 3))
    output = run_steps(run_one, ForwardBatch(chunks, num_steps=3))
    assert asked == [[2, 3], [2], [2]]
    assert output.chunks == (ChunkOutput(((SampledToken(5, -1.0),) * 3,)), ChunkOutput(error=NOTHING_TO_DRAW))


def test_no_step_is_run_once_all_draws_have_ended():
    batches = []

    def run_one(batch: ForwardBatch) -> StepOutput:
        batches.append(batch)
        return StepOutput((ChunkOutput(((SampledToken(5, -1.0),),), (ScoredToken(-2.0),) * (len(batches) == 1)),))

    chunk = Chunk(1, 4, (1, 2, 3), (LONG._replace(max_new=2),), Scores(0, (1,)))
    assert len(run_steps(run_one, ForwardBatch((chunk,), num_steps=50)).chunks[0].tokens[0]) == 2
    assert [(one.num_steps, one.chunks[0].start, one.chunks[0].token_ids) for one in batches] == [(1, 4, (1, 2, 3)), (1, 7, (5,))]
    assert batches[1].chunks[0].scores is None


@pytest.mark.parametrize("draws", [(), (Draw(1, SAMPLED, max_new=9),), (LONG, LONG)], ids=["none", "not_after_the_last_row", "two"])
def test_a_chunk_that_has_not_one_draw_after_its_last_row_takes_part_in_the_first_step_alone(runner, draws):
    """So a launch has several steps though a prompt is in it, of which more is to come or that several draw from."""
    other = Chunk(0, 0, (1, 2, 3), draws)
    (expected,) = execute(runner, ForwardBatch((other,))).chunks
    output, going = execute(runner, ForwardBatch((other, Chunk(1, 0, (4, 5, 6), (LONG,))), num_steps=4)).chunks
    assert output == expected
    assert going.tokens == (one_by_one(runner, Chunk(2, 0, (4, 5, 6), (LONG,)), 4),)
