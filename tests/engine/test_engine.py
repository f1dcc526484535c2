"""One step of the engine: schedule, execute, publish; and what it makes of failures."""

import itertools
import pickle

import pytest

from app.engine.engine import Engine
from app.engine.scheduler import Scheduler
from app.engine.sequence import EngineRequest, FailureOutput, FinishReason, PromptScores, ScoresOutput, TokenOutput
from app.engine.worker import Abort, Crashed, Stop, Submit, Warm
from model.batch import ChunkOutput, SampledToken, SamplingParams, ScoredToken, StepOutput, TokenMask

CHUNK = 4


@pytest.fixture
def runner(make_runner):
    return make_runner(num_slots=2)


@pytest.fixture
def engine(runner) -> Engine:
    seconds = itertools.count()
    scheduler = Scheduler(runner.num_slots, CHUNK, max_batch_tokens=8, capabilities=runner.capabilities)
    return Engine(runner, scheduler, clock=lambda: float(next(seconds)))


def request(prompt_ids=(1, 2, 3), max_new_tokens=3, seed=0, **options) -> EngineRequest:
    return EngineRequest(tuple(prompt_ids), SamplingParams(seed=seed), max_new_tokens, **options)


def submit(engine: Engine, request_id: int = 0, *prompt, **options) -> None:
    """A prompt of its own, unless one is given: equal ones would be computed together."""
    engine.submit(request_id, request(*prompt or ((1 + 3 * request_id, 2, 3),), **options))


def run(engine: Engine) -> list[TokenOutput | ScoresOutput | FailureOutput]:
    outputs = []
    while engine.has_work:
        outputs += engine.step().outputs
    return outputs


def test_a_sequence_gives_one_token_a_step_and_the_last_carries_the_reason(engine):
    submit(engine)
    outputs = run(engine)
    assert [output.finish_reason for output in outputs] == [None, None, FinishReason.LENGTH]
    assert not engine.has_work


def test_a_sequence_ends_at_its_end_token(engine):
    submit(engine, max_new_tokens=100)
    free = [output.token_id for output in run(engine)]
    submit(engine, 1, (1, 2, 3), max_new_tokens=100, eos_token_ids=frozenset({free[5]}))
    outputs = run(engine)
    assert [output.token_id for output in outputs] == free[: free.index(free[5]) + 1]
    assert outputs[-1].finish_reason is FinishReason.EOS


def test_a_sequence_that_stopped_leaves_its_slot_at_once(engine):
    for i in range(3):
        submit(engine, i, max_new_tokens=1)
    assert [output.request_id for output in engine.step().outputs] == [0, 1]
    assert [output.request_id for output in engine.step().outputs] == [2]


def test_a_runners_exception_ends_the_sequences_of_the_step_and_no_others(engine, runner):
    for i in range(3):
        submit(engine, i)
    runner.fail_next = "execute"
    outputs = engine.step().outputs
    assert outputs == tuple(FailureOutput(i, "the step failed: RuntimeError: out of memory") for i in (0, 1))
    assert [output.request_id for output in run(engine)] == [2, 2, 2]


def test_what_a_failed_step_has_spoilt_is_not_reused(engine, runner):
    submit(engine, 0, range(12))
    engine.step()
    runner.fail_next = "execute"
    engine.step()
    submit(engine, 1, range(12))
    assert [output.num_reused for output in run(engine)] == [0, 0, 0]


def test_a_prefix_copy_that_fails_ends_the_steps_sequences(engine, runner):
    submit(engine, 0, range(12), max_new_tokens=20)
    for _ in range(4):
        engine.step()
    submit(engine, 1, range(12))
    runner.fail_next = "copy_prefix"
    failures = engine.step().outputs
    assert [(output.request_id, output.message) for output in failures] == [
        (0, "the step failed: RuntimeError: the copy failed"),
        (1, "the step failed: RuntimeError: the copy failed"),
    ]
    assert not engine.has_work


def test_a_value_that_is_not_a_number_ends_its_own_sequence_alone(engine, runner):
    submit(engine, 0)
    submit(engine, 1)
    engine.step()
    runner.nan_slots = {0}
    second, first = engine.step().outputs
    assert first == FailureOutput(0, "the model computed a value that is not a number")
    assert isinstance(second, TokenOutput)
    assert [output.finish_reason for output in run(engine)] == [FinishReason.LENGTH]


def test_an_aborted_sequence_gives_nothing_more_and_its_slot_is_free_by_the_next_step(engine):
    for i in range(3):
        submit(engine, i, max_new_tokens=100)
    engine.step()
    engine.abort(0)
    result = engine.step()
    assert [output.request_id for output in result.outputs] == [1, 2]


def test_a_sequence_may_be_aborted_before_it_has_started(engine):
    for i in range(3):
        submit(engine, i)
    engine.abort(2)
    assert {output.request_id for output in run(engine)} == {0, 1}


def test_aborting_what_has_ended_or_never_was_does_nothing(engine):
    submit(engine, 0, max_new_tokens=1)
    engine.step()
    engine.abort(0)
    engine.abort(99)
    assert engine.scheduler.slots.num_used == 0


def test_a_sequence_is_submitted_once(engine):
    submit(engine, 0)
    with pytest.raises(AssertionError, match="submitted once"):
        submit(engine, 0)


def test_a_prompt_that_begins_like_an_earlier_one_reuses_its_whole_chunks_and_gives_the_same_tokens(engine, runner):
    submit(engine, 0, range(11))
    first = run(engine)
    submit(engine, 1, range(11))
    second = run(engine)
    assert [output.num_reused for output in first + second] == [0, 0, 0, 8, 8, 8]
    assert [output.token_id for output in first] == [output.token_id for output in second]
    assert runner.copies == []


def test_a_prompt_that_begins_like_a_running_one_copies_its_prefix(engine, runner):
    submit(engine, 0, range(11), max_new_tokens=50)
    for _ in range(3):
        engine.step()
    submit(engine, 1, range(11), max_new_tokens=50)
    outputs = run(engine)
    assert runner.copies == [(0, 1, 8)]
    assert [o.token_id for o in outputs if o.request_id == 0][-5:] == [o.token_id for o in outputs if o.request_id == 1][-5:]


@pytest.mark.parametrize(
    "outputs",
    [
        (),
        (ChunkOutput(),),
        (ChunkOutput(((),)),),
        (ChunkOutput(((SampledToken(1, -1.0),),)), ChunkOutput()),
        (ChunkOutput(((SampledToken(1, -1.0),), (SampledToken(1, -1.0),))),),
        (ChunkOutput(((SampledToken(1, -1.0), SampledToken(1, -1.0)),)),),
        (ChunkOutput(((SampledToken(1, -1.0),),), (ScoredToken(-1.0),)),),
    ],
    ids=["nothing", "no draw", "no token", "a chunk more", "a draw more", "a token more", "a score more"],
)
def test_a_runner_that_answers_too_little_or_too_much_fails_that_step_alone(engine, runner, monkeypatch, outputs):
    submit(engine)
    with monkeypatch.context() as patched:
        patched.setattr(runner, "execute", lambda batch: StepOutput(outputs))
        (failure,) = engine.step().outputs
    assert "the runner answered" in failure.message
    submit(engine, 1)
    assert [type(output) for output in run(engine)] == [TokenOutput] * 3


def test_a_chunk_without_a_draw_may_fail_too_and_its_slot_is_not_trusted(engine, runner):
    submit(engine, 0, range(12))
    engine.step()
    runner.nan_slots = {0}
    assert engine.step().outputs == (FailureOutput(0, "the model computed a value that is not a number"),)
    submit(engine, 1, range(12))
    assert [output.num_reused for output in run(engine)] == [0, 0, 0]


def test_the_statistics_of_a_step_say_what_it_did(engine):
    submit(engine, 0, range(6), max_new_tokens=2)
    submit(engine, 1, range(20, 26), max_new_tokens=9)
    first, second, third = (engine.step().stats for _ in range(3))
    assert (first.num_sequences, first.num_prefill_chunks, first.num_prompt_tokens, first.num_generated_tokens) == (2, 2, 8, 0)
    assert (second.num_sequences, second.num_prefill_chunks, second.num_prompt_tokens, second.num_generated_tokens) == (2, 2, 4, 2)
    assert (third.num_sequences, third.num_prefill_chunks, third.num_prompt_tokens, third.num_generated_tokens) == (2, 0, 0, 2)
    assert (second.num_running, second.num_slots_used, second.num_waiting) == (2, 2, 0)
    assert (third.num_running, third.num_slots_used) == (1, 1)
    assert third.step_seconds > 0


def test_reused_tokens_are_counted_once_a_sequence(engine):
    submit(engine, 0, range(11))
    run(engine)
    submit(engine, 1, range(11))
    assert sum(engine.step().stats.num_reused_tokens for _ in range(3)) == 8


def test_failed_sequences_are_no_generated_tokens(engine, runner):
    submit(engine, 0)
    runner.fail_next = "execute"
    assert engine.step().stats.num_generated_tokens == 0
    submit(engine, 1)
    runner.nan_slots = {0, 1}
    assert engine.step().stats.num_generated_tokens == 0


def test_an_idle_engine_steps_without_effect(engine, runner):
    result = engine.step()
    assert result.outputs == ()
    assert result.stats.num_sequences == 0
    assert runner.batches == []


def test_outputs_say_how_long_their_sequence_waited(engine):
    submit(engine, 0)  # at second 0
    engine.step()  # at seconds 1 and 2
    submit(engine, 1)  # at second 3
    waits = {output.request_id: output.queue_seconds for output in engine.step().outputs}
    assert waits == {0: 1.0, 1: 1.0}


def test_everything_that_crosses_the_threads_can_be_pickled(engine):
    asked = request(max_new_tokens=1, eos_token_ids=frozenset({7}), scores=PromptScores(), mask=TokenMask.of((3,), 50))
    engine.submit(0, asked)
    for value in (asked, engine.step(), FailureOutput(0, "why"), Submit(0, asked, 1.0), Abort(0), Stop(), Warm()):
        assert pickle.loads(pickle.dumps(value)) == value
    assert isinstance(pickle.loads(pickle.dumps(Crashed(RuntimeError("why")))).error, RuntimeError)


# Groups: several samples of one prompt.


def tokens_of(outputs, request_id: int = 0) -> dict[int, list[int]]:
    tokens: dict[int, list[int]] = {}
    for output in outputs:
        if isinstance(output, TokenOutput) and output.request_id == request_id:
            tokens.setdefault(output.sample, []).append(output.token_id)
    return tokens


@pytest.mark.parametrize("num_samples", [1, 2, 5])
def test_each_sample_is_what_a_request_of_its_own_with_that_seed_would_be(engine, runner, num_samples):
    submit(engine, 0, range(11), max_new_tokens=6, seed=3, num_samples=num_samples)
    samples = tokens_of(run(engine))
    for i in range(num_samples):
        submit(engine, 1 + i, range(11), max_new_tokens=6, seed=3 + i)
        assert tokens_of(run(engine), 1 + i) == {0: samples[i]}


def test_a_groups_prompt_is_computed_once_and_copied_as_slots_become_free(engine, runner):
    submit(engine, 0, range(11), max_new_tokens=3, num_samples=5)
    outputs = run(engine)
    prefilled = [chunk for batch in runner.batches for chunk in batch.chunks if chunk.start < 11]
    assert [(chunk.start, chunk.end, len(chunk.draws)) for chunk in prefilled] == [(0, 4, 0), (4, 8, 0), (8, 11, 5)]
    assert runner.copies == [(0, 1, 11)], "the others take over a slot that holds the prompt as it is"
    assert sum(output.finish_reason is FinishReason.LENGTH for output in outputs) == 5
    assert [output.num_reused for output in outputs[:5]] == [0, 11, 11, 11, 11]


def test_a_sample_whose_prompt_has_been_overwritten_computes_it_again(make_runner):
    runner = make_runner(num_slots=1)
    engine = Engine(runner, Scheduler(1, CHUNK, 8, runner.capabilities))
    submit(engine, 0, range(11), max_new_tokens=4)
    submit(engine, 1, range(20, 31), max_new_tokens=2)
    submit(engine, 2, range(11), max_new_tokens=4, seed=9)
    together = run(engine)
    assert sum(len(chunk.token_ids) for batch in runner.batches for chunk in batch.chunks if chunk.start < 11) == 33
    submit(engine, 3, range(11), max_new_tokens=4, seed=9)
    assert tokens_of(together, 2) == tokens_of(run(engine), 3)


def test_equal_prompts_that_arrive_together_share_one_prefill(make_runner):
    runner = make_runner(num_slots=8)
    engine = Engine(runner, Scheduler(8, CHUNK, 256, runner.capabilities))
    for i in range(4):
        submit(engine, i, range(40), seed=i)
    steps = []
    while engine.has_work:
        steps.append(engine.step().stats)
    assert sum(step.num_prompt_tokens for step in steps) == 40
    assert sum(step.num_reused_tokens for step in steps) == 120


def test_one_that_comes_while_its_prompt_is_computed_joins_in(engine, runner):
    submit(engine, 0, range(20))
    engine.step()
    submit(engine, 1, range(20), seed=1)
    outputs = run(engine)
    assert [len(chunk.draws) for batch in runner.batches for chunk in batch.chunks if chunk.end == 20] == [2]
    assert tokens_of(outputs, 1)
    assert sum(len(chunk.token_ids) for batch in runner.batches for chunk in batch.chunks if chunk.start < 20) == 20


def test_a_prompt_that_begins_like_one_under_way_waits_for_what_they_share(make_runner):
    runner = make_runner(num_slots=4)
    engine = Engine(runner, Scheduler(4, CHUNK, 8, runner.capabilities))
    submit(engine, 0, (*range(16), 40), max_new_tokens=1)
    submit(engine, 1, (*range(16), 41), max_new_tokens=1)
    submit(engine, 2, range(20, 24), max_new_tokens=1)
    outputs = run(engine)
    assert [output.request_id for output in outputs] == [2, 0, 1]
    assert {output.request_id: output.num_reused for output in outputs} == {0: 0, 1: 16, 2: 0}


def test_when_the_one_that_computes_leaves_the_others_go_on_from_there(engine, runner):
    submit(engine, 0, range(20))
    submit(engine, 1, range(20), seed=5)
    submit(engine, 2, range(20), seed=6)
    engine.step()
    engine.abort(0)
    outputs = run(engine)
    assert {output.request_id for output in outputs} == {1, 2}
    assert sum(len(chunk.token_ids) for batch in runner.batches for chunk in batch.chunks if chunk.start < 20) == 20


def test_a_sample_that_is_ended_frees_its_slot_and_the_others_go_on(engine):
    submit(engine, 0, max_new_tokens=5, num_samples=2)
    engine.step()
    engine.step()
    engine.abort(0, 0)
    assert engine.scheduler.slots.num_used == 1
    assert {output.sample for output in run(engine)} == {1}


def test_what_fails_a_groups_chunk_ends_the_request_once(engine, runner):
    submit(engine, 0, num_samples=4)
    runner.nan_slots = {0}
    assert [type(output) for output in engine.step().outputs] == [FailureOutput]
    assert not engine.has_work


def test_a_failing_sample_ends_its_requests_others_and_keeps_their_slots_trusted(engine, runner):
    submit(engine, 0, range(9), max_new_tokens=9, num_samples=2)
    for _ in range(4):
        engine.step()
    runner.nan_slots = {1}
    failures = [output for output in engine.step().outputs if isinstance(output, FailureOutput)]
    assert [failure.request_id for failure in failures] == [0]
    assert not engine.has_work
    submit(engine, 1, range(9))
    assert {output.num_reused for output in run(engine)} == {8}


@pytest.mark.parametrize("how", ["exception", "not a number"])
def test_whoever_drew_from_another_requests_chunk_outlives_its_failure(engine, runner, how):
    submit(engine, 0, range(6))
    submit(engine, 1, range(6), seed=1)
    engine.step()
    if how == "exception":
        runner.fail_next = "execute"
    else:
        runner.nan_slots = {0}
    assert [output.request_id for output in engine.step().outputs] == [0]
    assert [output.request_id for output in run(engine)] == [1, 1, 1]


def test_a_mask_that_allows_nothing_fails_nobody_elses_sample(engine):
    submit(engine, 0, range(6))
    submit(engine, 1, range(6), mask=TokenMask.of((), 50))
    assert {output.request_id for output in run(engine) if isinstance(output, FailureOutput)} == {1}


def test_more_draws_than_a_runner_takes_of_one_chunk_are_made_of_several(make_runner):
    runner = make_runner(num_slots=2, max_draws=2)
    engine = Engine(runner, Scheduler(2, CHUNK, 8, runner.capabilities))
    submit(engine, 0, range(6), max_new_tokens=2, num_samples=5)
    assert {i: len(tokens) for i, tokens in tokens_of(run(engine)).items()} == dict.fromkeys(range(5), 2)


# Scores.


def test_a_prompts_scores_come_in_order_before_its_tokens(engine):
    submit(engine, 0, range(10), num_samples=2, scores=PromptScores())
    outputs = run(engine)
    scores = [output for output in outputs if isinstance(output, ScoresOutput)]
    assert [len(output.scores) for output in scores] == [4, 4, 1]
    assert not any(output.is_last for output in scores)
    assert [type(output) for output in outputs[:4]] == [ScoresOutput] * 3 + [TokenOutput]


def test_the_scores_of_a_prompt_are_those_it_has_alone_whatever_was_there_before(engine):
    def scores(request_id: int, first: int = 1) -> list[float]:
        submit(engine, request_id, range(11), max_new_tokens=0, scores=PromptScores(first))
        return [token.logprob for output in run(engine) for token in output.scores]

    alone = scores(0)
    assert len(alone) == 10
    submit(engine, 1, range(11))
    run(engine)
    assert scores(2) == alone
    assert scores(3, first=9) == alone[8:], "what lies before the first may be reused"


def test_a_request_that_draws_nothing_ends_with_its_last_score(engine):
    submit(engine, 0, range(6), max_new_tokens=0, scores=PromptScores())
    outputs = run(engine)
    assert [output.is_last for output in outputs] == [False, True]
    assert not engine.has_work
    submit(engine, 1, (7,), max_new_tokens=0, scores=PromptScores())
    assert [(output.scores, output.is_last) for output in run(engine)] == [((), True)]


def test_candidates_of_one_prompt_share_it(make_runner):
    runner = make_runner(num_slots=8, exact_at_any_cut=True)
    engine = Engine(runner, Scheduler(8, CHUNK, 256, runner.capabilities))
    for i in range(4):
        submit(engine, i, (*range(30), 40 + i, 45), max_new_tokens=0, scores=PromptScores(first=30))
    outputs = run(engine)
    assert [len(output.scores) for output in outputs] == [2] * 4
    assert sum(len(chunk.token_ids) for batch in runner.batches for chunk in batch.chunks) == 32 + 3 * 3


# Masks.


def test_a_mask_is_kept_to(engine):
    submit(engine, 0, max_new_tokens=20, mask=TokenMask.of((3, 7, 49), 50))
    assert set(tokens_of(run(engine))[0]) <= {3, 7, 49}


def test_a_mask_that_allows_nothing_ends_its_request_with_an_error_of_its_own(engine):
    submit(engine, 0, mask=TokenMask.of((), 50))
    submit(engine, 1)
    second, first = engine.step().outputs
    assert first == FailureOutput(0, "nothing is left that may be drawn")
    assert isinstance(second, TokenOutput)


# Several steps in one call.


def test_a_runner_that_goes_on_by_itself_gives_the_same_tokens(make_runner):
    def outputs(num_steps: int):
        runner = make_runner(num_slots=2, num_steps=num_steps)
        engine = Engine(runner, Scheduler(2, CHUNK, 8, runner.capabilities))
        submit(engine, 0, max_new_tokens=11, stop_token_ids=frozenset({9, 17, 30}), min_new_tokens=3)
        submit(engine, 1, max_new_tokens=30, num_samples=3)
        found, num_calls = [], 0
        while engine.has_work:
            found += engine.step().outputs
            num_calls += 1
        return [{i: tokens_of(found, i) for i in (0, 1)}, num_calls]

    (single, num_single), (several, num_several) = outputs(1), outputs(4)
    assert single == several
    assert num_several < num_single / 2
