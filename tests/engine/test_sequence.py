"""The state of one request: where its chunks are cut, what its draws look at, and why it ends."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.engine.sequence import EngineRequest, FinishReason, Sequence
from model.batch import SamplingParams


def sequence(prompt_ids=(1, 2, 3), sampling=SamplingParams(), max_new_tokens=4, **options) -> Sequence:  # noqa: B008
    started = Sequence(EngineRequest(0, tuple(prompt_ids), sampling, max_new_tokens, **options), arrived_at=0.0)
    started.slot = 0
    return started


def chunks_of(running: Sequence, chunk_size: int, num_new: int):
    while running.num_generated < num_new:
        chunk = running.next_chunk(chunk_size, chunk_size)
        yield chunk
        running.num_cached = chunk.end
        if chunk.draw is not None:
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
    drawn = [chunk for chunk in chunks if chunk.draw is not None]
    assert drawn == chunks[-num_new:]
    assert [chunk.draw.position for chunk in drawn] == list(range(num_prompt, num_prompt + num_new))


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
    assert sequence(max_new_tokens=1, eos_token_id=9).append(9) is FinishReason.EOS


def test_a_stop_token_ends_a_sequence():
    assert sequence(stop_token_ids=frozenset({8})).append(8) is FinishReason.STOP


def test_an_end_token_that_is_to_be_ignored_is_a_token_like_others():
    assert sequence(eos_token_id=None).append(50256) is None


def test_neither_the_end_token_nor_stop_tokens_can_be_drawn_before_the_minimum_of_new_tokens():
    running = sequence(min_new_tokens=2, eos_token_id=9, stop_token_ids=frozenset({3, 11}))
    banned = []
    for chunk in chunks_of(running, 4, 4):
        banned.append(chunk.draw.banned_ids)
    assert [sorted(ids) for ids in banned] == [[3, 9, 11], [3, 9, 11], [], []]


@pytest.mark.parametrize(
    "sampling",
    [SamplingParams(repetition_penalty=1.1), SamplingParams(frequency_penalty=0.1), SamplingParams(presence_penalty=-0.1)],
)
def test_penalties_see_prompt_and_generated_tokens_apart(sampling):
    draws = [chunk.draw for chunk in chunks_of(sequence((1, 2, 3), sampling), 4, 3)]
    assert [draw.prompt_ids for draw in draws] == [(1, 2, 3)] * 3
    assert [draw.generated_ids for draw in draws] == [(), (7,), (7, 7)]


def test_without_penalties_a_draw_carries_no_past():
    draws = [chunk.draw for chunk in chunks_of(sequence(sampling=SamplingParams(temperature=1.0)), 4, 3)]
    assert {(draw.prompt_ids, draw.generated_ids) for draw in draws} == {((), ())}


def test_time_in_the_queue_is_from_arrival_to_start():
    waiting = Sequence(EngineRequest(0, (1,), SamplingParams(), 1), arrived_at=2.5)
    waiting.started_at = 4.0
    assert waiting.queue_seconds == 1.5
