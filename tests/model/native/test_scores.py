"""Log-probabilities of given tokens: to the bit those of drawing the same tokens, whatever the cuts, however many at a time."""

import itertools
import random

import pytest

from model.batch import Chunk, Draw, ForwardBatch, SamplingParams, Scores
from model.config import GPT2Config
from model.native.library import Precision
from model.native.runner import NativeRunner
from model.network_files import weights_of
from tests.model.native.kinds import Kind, network
from tests.model.native.running import drawing, drawn, execute, logprobs, scored
from tests.model.native.test_memory import resident_bytes

CONFIG = GPT2Config(vocab_size=300, n_positions=160, n_embd=48, n_layer=2, n_head=3, eos_token_ids=(0,))
SAMPLED = SamplingParams(temperature=1.5, top_k=200, repetition_penalty=1.3, seed=9)


def runner_of(kind: Kind, num_threads: int = 2) -> NativeRunner:
    return kind.runner(CONFIG, weights_of(network(CONFIG)), 3, num_threads)


def random_ids(seed: int, length: int) -> tuple[int, ...]:
    chance = random.Random(seed)
    return tuple(chance.randrange(CONFIG.vocab_size) for _ in range(length))


@pytest.mark.parametrize("params", [SamplingParams(), SAMPLED], ids=["greedy", "sampled"])
@pytest.mark.parametrize("cut", [1, 3, 16, 50])
def test_scores_are_the_log_probabilities_of_drawing_the_same_tokens(kind, params, cut):
    runner, ids, generated = runner_of(kind), list(random_ids(1, 17)), []
    while len(generated) < 25:
        start = len(ids) - 1 if generated else 0
        generated += drawn(execute(runner, drawing(0, start, ids[start:], params, num_prompt=17)))
        ids.append(generated[-1].token_id)
    found = []
    for start in range(0, len(ids) - 1, cut):
        end = min(start + cut, len(ids) - 1)
        neighbour = drawing(2, 0, random_ids(start, 5), params)
        found += logprobs(execute(runner, scored(1, start, ids[start:end], ids[start + 1 : end + 1]), neighbour))
    assert found[16:] == [token.logprob.hex() for token in generated]


def test_scores_may_begin_at_any_row_and_end_before_the_last(kind):
    runner, token_ids, next_ids = runner_of(kind), random_ids(2, 40), random_ids(3, 40)
    whole = logprobs(execute(runner, scored(0, 0, token_ids, next_ids)))
    for first, end in ((0, 1), (39, 40), (13, 30), (5, 5)):
        part = Chunk(1, 0, token_ids, scores=Scores(first, next_ids[first:end]))
        assert logprobs(execute(runner, part)) == whole[first:end]


@pytest.mark.parametrize("num_threads", [1, 2, 3])
def test_alternatives_of_scored_tokens_are_those_of_draws_there(kind, num_threads):
    """Beside draws at some of the same rows; 150 rows whose logits are kept are three groups."""
    length = 70 if kind.is_slow else 150
    runner, token_ids, next_ids = runner_of(kind, num_threads), random_ids(4, length), random_ids(5, length)
    draws = tuple(Draw(row, SAMPLED, top_n=3) for row in range(0, length, 7))
    plain = execute(runner, scored(2, 0, token_ids, next_ids))
    (out,) = execute(runner, Chunk(0, 0, token_ids, draws, Scores(0, next_ids, top_n=5))).chunks
    assert [score.logprob.hex() for score in out.scores] == logprobs(plain)
    (greedy,) = execute(runner, Chunk(1, 0, token_ids, tuple(Draw(row, SamplingParams(), top_n=5) for row in range(length)))).chunks
    assert [score.top for score in out.scores] == [token.top for (token,) in greedy.tokens]
    for draw, (token,) in zip(draws, out.tokens, strict=True):
        assert token.top == out.scores[draw.row].top[:3]
    for score, next_id in zip(out.scores, next_ids, strict=True):
        assert dict(score.top).get(next_id, score.logprob) == score.logprob


def test_answers_come_to_the_chunks_that_asked(kind):
    runner, prompts = runner_of(kind), [random_ids(seed, length) for seed, length in enumerate((9, 30, 2))]
    chunks = (
        Chunk(0, 0, prompts[0], (Draw(8, SAMPLED, top_n=2), Draw(2, SamplingParams(), top_n=1)), Scores(2, prompts[0][3:], 4)),
        Chunk(1, 0, prompts[1], (), Scores(0, prompts[1][1:], 1)),
        Chunk(2, 0, prompts[2], (Draw(0, SamplingParams()), Draw(1, SAMPLED, top_n=3)), Scores(0, (5, 6))),
    )
    alone = [execute(runner, chunk).chunks[0] for chunk in chunks]
    for order in itertools.permutations(range(3)):
        assert list(execute(runner, *(chunks[i] for i in order)).chunks) == [alone[i] for i in order]


def test_a_long_prompt_scored_with_alternatives_keeps_few_rows_of_logits_at_a_time(available):
    """All 1,000 rows of GPT-2's vocabulary would be 201 MB."""
    config = GPT2Config(vocab_size=50_257, n_positions=1024, n_embd=16, n_layer=1, n_head=1, eos_token_ids=(0,))
    runner = NativeRunner(config, weights_of(network.__wrapped__(config)), 1, Precision.FLOAT32, 1)
    runner.warm_up()
    before = resident_bytes()
    token_ids = tuple(range(1000))
    (out,) = execute(runner, scored(0, 0, token_ids, token_ids, top_n=5)).chunks
    assert len(out.scores) == 1000
    assert resident_bytes() - before < 60 * 2**20
    logits = runner.logits(ForwardBatch((Chunk(0, 0, token_ids),)), [999])
    assert [token_id for token_id, _ in out.scores[999].top] == sorted(range(50_257), key=lambda i: (-logits[0, i], i))[:5]
