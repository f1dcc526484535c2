"""One step of the engine: schedule, execute, publish; and what it makes of failures."""

import itertools
import pickle

import pytest

from app.engine.engine import Engine, StepResult
from app.engine.scheduler import Scheduler
from app.engine.sequence import EngineRequest, FailureOutput, FinishReason, PromptScores, ScoresOutput, TokensOutput
from app.engine.worker import Abort, Crashed, Stop, Submit, Warm
from model.batch import ChunkOutput, ForwardBatch, RunnerLost, SampledToken, SamplingParams, ScoredToken, StepOutput, TokenMask

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


def run(engine: Engine) -> list[TokensOutput | ScoresOutput | FailureOutput]:
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
    free = [token_id for output in run(engine) for token_id in output.token_ids]
    submit(engine, 1, (1, 2, 3), max_new_tokens=100, eos_token_ids=frozenset({free[5]}))
    outputs = run(engine)
    assert [token_id for output in outputs for token_id in output.token_ids] == free[: free.index(free[5]) + 1]
    assert outputs[-1].finish_reason is FinishReason.EOS


def test_a_sequence_that_stopped_leaves_its_slot_at_once(engine):
    for i in range(3):
        submit(engine, i, max_new_tokens=1)
    assert [output.request_id for output in engine.step().outputs] == [0, 1]
    assert [output.request_id for output in engine.step().outputs] == [2]


def test_what_a_failed_chunk_has_spoilt_is_not_reused(engine, runner):
    submit(engine, 0, range(12))
    engine.step()
    runner.bad_slots = {0}
    assert [type(output) for output in engine.step().outputs] == [FailureOutput]
    runner.bad_slots = set()
    submit(engine, 1, range(12))
    assert [output.num_reused for output in run(engine)] == [0, 0, 0]


def test_a_value_that_is_not_a_number_ends_its_own_sequence_alone(engine, runner):
    submit(engine, 0)
    submit(engine, 1)
    engine.step()
    runner.nan_slots = {0}
    second, first = engine.step().outputs
    assert first == FailureOutput(0, "the model computed a value that is not a number")
    assert isinstance(second, TokensOutput)
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
    assert [token_id for output in first for token_id in output.token_ids] == [
        token_id for output in second for token_id in output.token_ids
    ]
    assert runner.copies == []


def test_a_prompt_that_begins_like_a_running_one_copies_its_prefix(engine, runner):
    submit(engine, 0, range(11), max_new_tokens=50)
    for _ in range(3):
        engine.step()
    submit(engine, 1, range(11), max_new_tokens=50)
    outputs = run(engine)
    assert runner.copies == [(0, 1, 8)]
    assert tokens_of(outputs, 0)[0][-5:] == tokens_of(outputs, 1)[0][-5:]


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
    assert [type(output) for output in run(engine)] == [TokensOutput] * 3


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
    runner.bad_slots = {0}
    assert engine.step().stats.num_generated_tokens == 0
    runner.bad_slots = set()
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
        if isinstance(output, TokensOutput) and output.request_id == request_id:
            tokens.setdefault(output.sample, []).extend(output.token_ids)
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
        runner.bad_slots = {0}
    else:
        runner.nan_slots = {0}
    assert [output.request_id for output in engine.step().outputs] == [0]
    runner.bad_slots = set()
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
    assert [type(output) for output in outputs[:4]] == [ScoresOutput] * 3 + [TokensOutput]


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
    assert isinstance(second, TokensOutput)


# Several steps in one call.


def test_a_runner_that_goes_on_by_itself_gives_the_same_tokens(make_runner):
    def outputs(num_steps: int):
        runner = make_runner(num_slots=4, num_steps=num_steps)
        engine = Engine(runner, Scheduler(4, CHUNK, 8, runner.capabilities))
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


def test_who_asks_for_more_tokens_than_a_call_has_steps_gets_a_full_call_at_a_time(make_runner):
    runner = make_runner(num_slots=2, num_steps=8)
    engine = Engine(runner, Scheduler(2, CHUNK, 8, runner.capabilities))
    submit(engine, max_new_tokens=20)
    assert [len(engine.step().outputs[0].tokens) for _ in range(4)] == [1, 8, 8, 3]


# A runner that computes while its host goes on.


@pytest.fixture
def overlapping(make_runner) -> Engine:
    """One whose launches return at once."""
    runner = make_runner(num_slots=2, is_asynchronous=True)
    return Engine(runner, Scheduler(2, CHUNK, 8, runner.capabilities))


def test_the_next_step_is_under_way_before_the_outputs_of_the_last_are_handed_out(overlapping):
    engine, runner = overlapping, overlapping.runner
    submit(engine, max_new_tokens=3)
    steps = []
    while engine.has_work:
        steps.append((len(engine.step().outputs), tuple(runner.calls)))
        runner.calls.clear()
    assert steps == [(0, ("launch",)), (1, ("collect", "launch")), (1, ("collect", "launch")), (1, ("collect",))]


@pytest.mark.parametrize(("num_requests", "are_told_first"), [(1, True), (8, True), (9, False)])
def test_first_tokens_of_few_are_told_before_the_next_step_is_launched(make_runner, num_requests, are_told_first):
    runner = make_runner(num_slots=9, is_asynchronous=True)
    engine, told = Engine(runner, Scheduler(9, CHUNK, 64, runner.capabilities)), []
    for i in range(num_requests):
        submit(engine, i, max_new_tokens=3)

    def tell(result: StepResult) -> None:
        told.append((len(result.outputs), result.stats.num_generated_tokens, tuple(runner.calls)))

    returned = [len(engine.step(tell).outputs) for _ in range(3)]
    assert told == ([(num_requests, num_requests, ("launch", "collect"))] if are_told_first else [])
    assert returned == [0, 0 if are_told_first else num_requests, num_requests]


def test_a_runner_that_computes_in_launch_is_not_asked_for_a_step_ahead(engine, runner):
    submit(engine, max_new_tokens=2)
    assert [len(engine.step().outputs) for _ in range(2)] == [1, 1]
    assert len(runner.batches) == 2
    assert not engine.has_work


@pytest.mark.parametrize("num_steps", [1, 4])
def test_overlapping_changes_no_token(make_runner, num_steps):
    def outputs(**kind):
        runner = make_runner(num_slots=3, **kind)
        engine = Engine(runner, Scheduler(3, CHUNK, 8, runner.capabilities))
        for i in range(6):
            submit(engine, i, range(i, 3 * i + 1), max_new_tokens=9, seed=i, num_samples=1 + i % 3)
        found = run(engine)
        return [tokens_of(found, i) for i in range(6)]

    assert outputs(num_steps=num_steps, is_asynchronous=True) == outputs()


def test_what_is_aborted_while_its_step_runs_gives_nothing_more_and_its_slot_serves_the_next(overlapping):
    engine = overlapping
    for i in range(3):
        submit(engine, i, max_new_tokens=9)
    engine.step()
    engine.abort(0)
    assert engine.scheduler.slots.num_used == 1
    assert [output.request_id for output in engine.step().outputs] == [1]
    assert engine.scheduler.slots.num_used == 2
    late = run(engine)
    assert {output.request_id: len(tokens_of(late, output.request_id)[0]) for output in late} == {1: 8, 2: 9}
    submit(engine, 3, (7, 2, 3), max_new_tokens=9)
    assert tokens_of(run(engine), 3) == tokens_of(late, 2)


def test_who_draws_with_one_that_is_aborted_meanwhile_keeps_the_token(overlapping):
    engine = overlapping
    submit(engine, 0, range(3), max_new_tokens=4, num_samples=2)
    engine.step()
    engine.abort(0, 0)
    samples = tokens_of(run(engine))
    submit(engine, 1, range(3), max_new_tokens=4, seed=1)
    assert samples == {1: tokens_of(run(engine), 1)[0]}


def test_one_that_comes_while_the_last_chunk_of_its_prompt_runs_computes_the_rest_itself(overlapping):
    engine = overlapping
    submit(engine, 0, range(6), max_new_tokens=2)
    engine.step()
    engine.step()
    submit(engine, 1, range(6), max_new_tokens=2)
    outputs = run(engine)
    assert tokens_of(outputs, 0) == tokens_of(outputs, 1)


def test_a_request_fails_once_when_its_step_fails_under_way_and_one_that_was_aborted_not_at_all(overlapping):
    engine, runner = overlapping, overlapping.runner
    submit(engine, 0)
    submit(engine, 1)
    engine.step()
    engine.abort(0)
    runner.bad_slots = {0, 1}
    assert engine.step().outputs == (FailureOutput(1, "the step failed: RuntimeError"),)
    assert not engine.has_work


@pytest.mark.parametrize("how", ["exception", "not a number"])
def test_the_slot_of_one_that_was_aborted_is_not_trusted_when_its_late_step_fails(overlapping, how):
    engine, runner = overlapping, overlapping.runner
    submit(engine, 0, range(20))
    for _ in range(3):
        engine.step()
    engine.abort(0)
    if how == "exception":
        runner.bad_slots = {0}
    else:
        runner.nan_slots = {0}
    assert engine.step().outputs == ()
    runner.bad_slots = set()
    submit(engine, 1, range(20))
    assert {output.num_reused for output in run(engine)} == {0}


def test_a_launch_that_fails_is_told_with_the_next_step(overlapping, monkeypatch):
    engine, runner = overlapping, overlapping.runner
    submit(engine, 0, max_new_tokens=9)
    engine.step()
    monkeypatch.setattr(runner, "launch", lambda batch: 1 / 0)
    assert [type(output) for output in engine.step().outputs] == [TokensOutput]
    (failure,) = engine.step().outputs
    assert failure == FailureOutput(0, "the step failed: ZeroDivisionError")


def test_the_statistics_are_those_of_the_step_whose_outputs_they_come_with(overlapping):
    engine = overlapping
    submit(engine, 0, max_new_tokens=3)
    engine.step()
    submit(engine, 1, max_new_tokens=3)
    stats = [engine.step().stats for _ in range(2)]
    assert [(s.num_sequences, s.num_prompt_tokens, s.num_generated_tokens) for s in stats] == [(1, 3, 1), (2, 3, 2)]
    assert all(s.step_seconds > 0 for s in stats)


# A device that has run out of memory.


def in_parts(runner, chunk_size: int = CHUNK, max_batch_tokens: int = 64) -> tuple[Engine, list[float]]:
    """An engine and the time that it sees."""
    now = [0.0]
    scheduler = Scheduler(runner.num_slots, chunk_size, max_batch_tokens, runner.capabilities)
    return Engine(runner, scheduler, clock=lambda: now[0]), now


@pytest.mark.parametrize("kind", [{}, {"is_asynchronous": True}, {"is_asynchronous": True, "num_steps": 4}], ids=str)
@pytest.mark.parametrize("how", ["launch", "memory"])
def test_a_step_that_finds_no_memory_is_done_again_in_smaller_ones_and_nobody_fails(make_runner, kind, how):
    def outputs(fails: bool):
        runner = make_runner(num_slots=4, **kind)
        engine, _ = in_parts(runner)
        for i in range(4):
            submit(engine, i, max_new_tokens=9)
        found = [*engine.step().outputs, *engine.step().outputs]
        runner.fail_next = how if fails else None
        found += run(engine)
        return [tokens_of(found, i) for i in range(4)], len(runner.batches[-1].chunks)

    (tokens, last), (expected, last_without) = outputs(True), outputs(False)
    assert tokens == expected
    assert (last, last_without) == (2, 4)


def test_under_a_bound_all_take_turns(make_runner):
    runner = make_runner(num_slots=5)
    engine, _ = in_parts(runner)
    for i in range(5):
        submit(engine, i, max_new_tokens=8)
    engine.step()
    runner.max_tokens = 2
    assert engine.step().stats.max_tokens == 2
    turns = [output.request_id for _ in range(5) for output in engine.step().outputs]
    assert turns == [0, 1, 2, 3, 4, 0, 1, 2, 3, 4]


def test_under_a_bound_a_prompt_has_its_turns_beside_those_that_decode(make_runner):
    runner = make_runner(num_slots=4)
    engine, _ = in_parts(runner, max_batch_tokens=8)
    for i in range(3):
        submit(engine, i, max_new_tokens=40)
    engine.step()
    engine.step()
    submit(engine, 3, range(20, 29), max_new_tokens=40)
    engine.step()
    runner.fail_next = "memory"
    assert engine.step().stats.max_tokens == 3, "less than a chunk of a prompt"
    before = len(runner.batches)
    for _ in range(6):
        engine.step()
    assert [[chunk.slot for chunk in batch.chunks] for batch in runner.batches[before:]] == [
        [0, 1, 2],
        [3],
        [0, 1, 2],
        [3, 0, 1],
        [2, 3, 0],
        [1, 2, 3],
    ]


@pytest.mark.parametrize("freely", [False, True], ids=["cut_at_multiples", "cut_freely"])
def test_one_chunk_that_finds_no_memory_by_itself_ends_its_request_with_a_message_of_its_own(make_runner, freely):
    runner = make_runner(num_slots=2, exact_at_any_cut=freely)
    engine, _ = in_parts(runner)
    runner.max_tokens = 0
    submit(engine, 0, range(4))
    (failure,) = run(engine)
    message = "memory does not suffice, even for a step of this request alone: MemoryError"
    assert failure == FailureOutput(0, message)
    runner.max_tokens = None
    submit(engine, 1)
    assert len(run(engine)) == 3


def test_one_that_decodes_alone_and_finds_no_memory_for_several_steps_goes_on_step_by_step_until_there_is_some(make_runner):
    runner = make_runner(num_slots=1, num_steps=4)
    engine, now = in_parts(runner)
    submit(engine, max_new_tokens=30)
    engine.step()
    runner.fail_next = "memory"
    found, counts = [], []
    for seconds in (0.0, 0.0, 4.0, 60.0):
        now[0] = seconds
        result = engine.step()
        found += result.outputs
        counts.append(sum(len(output.tokens) for output in result.outputs))
    assert counts == [0, 1, 1, 4]
    assert not any(isinstance(output, FailureOutput) for output in found)


def test_one_that_decodes_alone_and_finds_no_memory_for_a_single_step_fails(make_runner):
    runner = make_runner(num_slots=1, num_steps=4)
    engine, _ = in_parts(runner)
    submit(engine, max_new_tokens=30)
    engine.step()
    runner.max_tokens = 0
    assert engine.step().outputs == ()
    (failure,) = engine.step().outputs
    assert isinstance(failure, FailureOutput)


def test_a_long_prompt_that_may_be_cut_anywhere_is_done_in_shorter_parts(make_runner):
    runner = make_runner(num_slots=1, exact_at_any_cut=True)
    engine, _ = in_parts(runner)
    runner.max_tokens = 10
    submit(engine, 0, range(50), max_new_tokens=1)
    assert [type(output) for output in run(engine)] == [TokensOutput]
    assert {len(chunk.token_ids) for batch in runner.batches[3:] for chunk in batch.chunks} == {6, 2}


def test_the_bound_doubles_as_time_passes_until_it_is_gone(make_runner):
    runner = make_runner(num_slots=8)
    engine, now = in_parts(runner, max_batch_tokens=8)
    for i in range(8):
        submit(engine, i, (i,), max_new_tokens=100)
    for _ in range(3):
        engine.step()
    runner.fail_next = "memory"
    bounds = [engine.step().stats.max_tokens]
    for seconds in (4.9, 5.0, 9.9, 10.0):
        now[0] = seconds
        result = engine.step()
        bounds.append((result.stats.max_tokens, len(result.outputs)))
    assert bounds == [4, (4, 4), (8, 8), (8, 8), (None, 8)]


# A runner that is lost.


@pytest.mark.parametrize("kind", [{}, {"is_asynchronous": True}], ids=["step by step", "overlapping"])
def test_a_lost_runner_is_the_one_error_of_a_step_that_is_let_through(make_runner, monkeypatch, kind):
    runner = make_runner(num_slots=2, **kind)
    engine, _ = in_parts(runner)
    submit(engine, 0, max_new_tokens=9)
    outputs = [*engine.step().outputs, *engine.step().outputs]

    def lose(batch: ForwardBatch) -> StepOutput:
        raise RunnerLost("the device is gone")

    monkeypatch.setattr(runner, "compute", lose)
    with pytest.raises(RunnerLost, match="the device is gone"):
        outputs += engine.step().outputs
    assert len(outputs) == len(runner.batches), "what was computed before has been handed out"
