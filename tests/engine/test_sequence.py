"""The state of one sample: where its chunks are cut, what they draw and score, and why it ends."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.engine.sequence import EngineRequest, FinishReason, PromptScores, Sequence
from model.batch import Draw, SamplingParams, Scores, TokenMask


def sequence(prompt_ids=(1, 2, 3), sampling=SamplingParams(), max_new_tokens=4, sample=0, **options) -> Sequence:  # noqa: B008
    started = Sequence(0, sample, EngineRequest(tuple(prompt_ids), sampling, max_new_tokens, **options), arrived_at=0.0)
    started.slot = 0
    return started


def chunks_of(running: Sequence, chunk_size: int, num_new: int):
    while running.num_generated < num_new:
        chunk = running.next_chunk(chunk_size, chunk_size)
        yield chunk
        running.num_cached = chunk.end
        if chunk.draws:
            running.append(7)


@given(st.integers(1, 40), st.integers(1, 9), st.integers(1, 5))
def test_a_prompt_is_cut_at_multiples_of_the_chunk_size_alone_and_decoding_goes_token_by_token(num_prompt, chunk_size, num_new):
    chunks = list(chunks_of(sequence(range(num_prompt), max_new_tokens=num_new), chunk_size, num_new))
    prefill = [chunk for chunk in chunks if chunk.start < num_prompt]
    assert [chunk.start for chunk in prefill] == list(range(0, num_prompt, chunk_size))
    assert [chunk.end for chunk in prefill] == [*range(chunk_size, num_prompt, chunk_size), num_prompt]
    assert [chunk.token_ids for chunk in chunks[len(prefill) :]] == [(7,)] * (num_new - 1)
    assert sum((chunk.token_ids for chunk in prefill), ()) == tuple(range(num_prompt))


@given(st.integers(1, 40), st.integers(1, 9), st.integers(1, 5))
def test_a_token_is_drawn_after_the_prompts_last_chunk_and_after_each_decoded_token(num_prompt, chunk_size, num_new):
    chunks = list(chunks_of(sequence(range(num_prompt), max_new_tokens=num_new), chunk_size, num_new))
    drawn = [chunk for chunk in chunks if chunk.draws]
    assert drawn == chunks[-num_new:]
    assert [chunk.draws[0].row for chunk in drawn] == [len(chunk.token_ids) - 1 for chunk in drawn]


def test_a_reused_prefix_is_not_run_again():
    running = sequence(range(10))
    running.num_cached = 8
    chunk = running.next_chunk(4, 4)
    assert (chunk.start, chunk.token_ids) == (8, (8, 9))


def test_the_last_of_the_new_tokens_ends_a_sequence_by_length():
    running = sequence(max_new_tokens=2)
    assert running.append(9) is None
    assert running.append(9) is FinishReason.LENGTH


def test_the_end_token_ends_a_sequence_and_counts_more_than_the_length():
    assert sequence(max_new_tokens=1, eos_token_ids=frozenset({9})).append(9) is FinishReason.EOS


def test_a_stop_token_ends_a_sequence():
    assert sequence(stop_token_ids=frozenset({8})).append(8) is FinishReason.STOP


def test_an_end_token_that_is_to_be_ignored_is_a_token_like_others():
    assert sequence(eos_token_ids=frozenset()).append(50256) is None


def test_neither_the_end_token_nor_stop_tokens_can_be_drawn_before_the_minimum_of_new_tokens():
    running = sequence(min_new_tokens=2, eos_token_ids=frozenset({9}), stop_token_ids=frozenset({3, 11}))
    banned = []
    for chunk in chunks_of(running, 4, 4):
        banned.append(chunk.draws[0].banned_ids)
    assert [sorted(ids) for ids in banned] == [[3, 9, 11], [3, 9, 11], [], []]


def test_a_draw_carries_no_past_but_how_much_of_it_is_the_prompt():
    draws = [chunk.draws for chunk in chunks_of(sequence((1, 2, 3), SamplingParams(repetition_penalty=1.1)), 4, 3)]
    assert [(draw.num_prompt, draw.row) for (draw,) in draws] == [(3, 2), (3, 0), (3, 0)]


def test_a_draw_says_when_it_ends_for_a_runner_that_goes_on_by_itself():
    running = sequence(max_new_tokens=5, min_new_tokens=2, eos_token_ids=frozenset({9}), stop_token_ids=frozenset({3}))
    draws = [chunk.draws[0] for chunk in chunks_of(running, 4, 5)]
    assert {draw.end_ids for draw in draws} == {(3, 9)}
    assert [draw.max_new for draw in draws] == [2, 1, 3, 2, 1], "as long as something is banned no further than that"


@pytest.mark.parametrize(("seed", "sample", "drawn_with"), [(5, 0, 5), (5, 3, 8), (2**64 - 1, 1, 0)])
def test_each_sample_draws_with_a_seed_of_its_own(seed, sample, drawn_with):
    (draw,) = sequence(sampling=SamplingParams(1.0, seed=seed), sample=sample, num_samples=4).next_chunk(8, 8).draws
    assert draw.params == SamplingParams(1.0, seed=drawn_with)


def test_what_a_request_allows_and_wants_to_know_goes_with_every_draw():
    mask = TokenMask.of((3, 4), 50)
    draws = [chunk.draws[0] for chunk in chunks_of(sequence(mask=mask, top_n=2), 8, 3)]
    assert {(draw.mask, draw.top_n) for draw in draws} == {(mask, 2)}


def test_followers_draw_from_the_leaders_last_row_each_for_itself():
    leader = sequence(range(6), SamplingParams(1.0, seed=1))
    leader.followers = [
        sequence(range(6), SamplingParams(0.5, seed=7)),
        sequence(range(6), min_new_tokens=1, stop_token_ids=frozenset({2})),
    ]
    first, last = leader.next_chunk(4, 4), None
    leader.num_cached = 4
    last = leader.next_chunk(4, 4)
    assert first.draws == ()
    assert last.draws == (
        Draw(1, SamplingParams(1.0, seed=1), 6, max_new=4),
        Draw(1, SamplingParams(0.5, seed=7), 6, max_new=4),
        Draw(1, SamplingParams(), 6, (2,), (2,), max_new=1),
    )


# Scores.


@given(st.integers(1, 30), st.integers(1, 30), st.integers(1, 9))
def test_every_token_of_the_prompt_from_the_first_on_is_scored_once_after_the_row_before_it(num_prompt, first, chunk_size):
    running = sequence(range(100, 100 + num_prompt), max_new_tokens=1, scores=PromptScores(first, top_n=2))
    running.num_cached = (running.max_reused // chunk_size) * chunk_size
    scored = []
    for chunk in chunks_of(running, chunk_size, 1):
        if chunk.scores:
            scored += [(chunk.start + chunk.scores.first_row + i, token_id) for i, token_id in enumerate(chunk.scores.token_ids)]
            assert chunk.scores.top_n == 2
    assert scored == [(position - 1, 100 + position) for position in range(first, num_prompt)]


def test_only_the_first_sample_scores_the_prompt():
    options = {"num_samples": 2, "scores": PromptScores()}
    assert [sequence(sample=i, **options).next_chunk(4, 4).scores for i in (0, 1)] == [Scores(0, (2, 3)), None]


def test_a_request_without_new_tokens_draws_nothing():
    chunk = sequence(max_new_tokens=0, scores=PromptScores()).next_chunk(4, 4)
    assert (chunk.draws, chunk.scores) == ((), Scores(0, (2, 3)))


def test_time_in_the_queue_is_from_arrival_to_start():
    waiting = Sequence(0, 0, EngineRequest((1,), SamplingParams(), 1), arrived_at=2.5)
    waiting.started_at = 4.0
    assert waiting.queue_seconds == 1.5
