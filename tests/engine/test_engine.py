"""One step of the engine: schedule, execute, publish; and what it makes of failures."""

import itertools
import pickle

import pytest

from app.engine.async_engine import Abort, Stop, Submit
from app.engine.engine import Engine
from app.engine.scheduler import Scheduler
from app.engine.sequence import EngineRequest, FailureOutput, FinishReason, TokenOutput
from model.batch import SamplingParams, StepOutput

CHUNK = 4


@pytest.fixture
def runner(make_runner):
    return make_runner(num_slots=2)


@pytest.fixture
def engine(runner) -> Engine:
    seconds = itertools.count()
    return Engine(runner, Scheduler(runner.num_slots, CHUNK, max_batch_tokens=8), clock=lambda: float(next(seconds)))


def request(sequence_id=0, prompt_ids=(1, 2, 3), max_new_tokens=3, **options) -> EngineRequest:
    return EngineRequest(sequence_id, tuple(prompt_ids), SamplingParams(), max_new_tokens, **options)


def run(engine: Engine) -> list[TokenOutput | FailureOutput]:
    outputs = []
    while engine.has_work:
        outputs += engine.step().outputs
    return outputs


def test_a_sequence_gives_one_token_a_step_and_the_last_carries_the_reason(engine):
    engine.submit(request())
    outputs = run(engine)
    assert [output.finish_reason for output in outputs] == [None, None, FinishReason.LENGTH]
    assert not engine.has_work


def test_a_sequence_ends_at_its_end_token(engine):
    engine.submit(request(max_new_tokens=100))
    free = [output.token_id for output in run(engine)]
    engine.submit(request(1, max_new_tokens=100, eos_token_id=free[5]))
    outputs = run(engine)
    assert [output.token_id for output in outputs] == free[: free.index(free[5]) + 1]
    assert outputs[-1].finish_reason is FinishReason.EOS


def test_a_sequence_that_stopped_leaves_its_slot_at_once(engine):
    for i in range(3):
        engine.submit(request(i, max_new_tokens=1))
    assert [output.sequence_id for output in engine.step().outputs] == [0, 1]
    assert [output.sequence_id for output in engine.step().outputs] == [2]


def test_a_runners_exception_ends_the_sequences_of_the_step_and_no_others(engine, runner):
    for i in range(3):
        engine.submit(request(i))
    runner.fail_next = "execute"
    outputs = engine.step().outputs
    assert outputs == tuple(FailureOutput(i, "the step failed: RuntimeError: out of memory") for i in (0, 1))
    assert [output.sequence_id for output in run(engine)] == [2, 2, 2]


def test_what_a_failed_step_has_spoilt_is_not_reused(engine, runner):
    engine.submit(request(0, range(12)))
    engine.step()
    runner.fail_next = "execute"
    engine.step()
    engine.submit(request(1, range(12)))
    assert [output.num_reused for output in run(engine)] == [0, 0, 0]


def test_a_prefix_copy_that_fails_ends_the_steps_sequences(engine, runner):
    engine.submit(request(0, range(12), max_new_tokens=20))
    for _ in range(4):
        engine.step()
    engine.submit(request(1, range(12)))
    runner.fail_next = "copy_prefix"
    failures = engine.step().outputs
    assert [(output.sequence_id, output.message) for output in failures] == [
        (0, "the step failed: RuntimeError: the copy failed"),
        (1, "the step failed: RuntimeError: the copy failed"),
    ]
    assert not engine.has_work


def test_a_value_that_is_not_a_number_ends_its_own_sequence_alone(engine, runner):
    engine.submit(request(0))
    engine.submit(request(1))
    engine.step()
    runner.nan_slots = {0}
    first, second = engine.step().outputs
    assert first == FailureOutput(0, "the model computed a value that is not a number")
    assert isinstance(second, TokenOutput)
    assert [output.finish_reason for output in run(engine)] == [FinishReason.LENGTH]


def test_an_aborted_sequence_gives_nothing_more_and_its_slot_is_free_by_the_next_step(engine):
    for i in range(3):
        engine.submit(request(i, max_new_tokens=100))
    engine.step()
    engine.abort(0)
    result = engine.step()
    assert [output.sequence_id for output in result.outputs] == [1, 2]


def test_a_sequence_may_be_aborted_before_it_has_started(engine):
    for i in range(3):
        engine.submit(request(i))
    engine.abort(2)
    assert {output.sequence_id for output in run(engine)} == {0, 1}


def test_aborting_what_has_ended_or_never_was_does_nothing(engine):
    engine.submit(request(0, max_new_tokens=1))
    engine.step()
    engine.abort(0)
    engine.abort(99)
    assert engine.scheduler.slots.num_used == 0


def test_a_sequence_is_submitted_once(engine):
    engine.submit(request(0))
    with pytest.raises(AssertionError, match="submitted once"):
        engine.submit(request(0))


def test_a_prompt_that_begins_like_an_earlier_one_reuses_its_whole_chunks_and_gives_the_same_tokens(engine, runner):
    engine.submit(request(0, range(11)))
    first = run(engine)
    engine.submit(request(1, range(11)))
    second = run(engine)
    assert [output.num_reused for output in first + second] == [0, 0, 0, 8, 8, 8]
    assert [output.token_id for output in first] == [output.token_id for output in second]
    assert runner.copies == []


def test_a_prompt_that_begins_like_a_running_one_copies_its_prefix(engine, runner):
    engine.submit(request(0, range(11), max_new_tokens=50))
    for _ in range(3):
        engine.step()
    engine.submit(request(1, range(11), max_new_tokens=50))
    outputs = run(engine)
    assert runner.copies == [(0, 1, 8)]
    assert [o.token_id for o in outputs if o.sequence_id == 0][-5:] == [o.token_id for o in outputs if o.sequence_id == 1][-5:]


def test_a_runner_that_returns_too_few_tokens_is_not_taken_for_a_working_one(engine, runner, monkeypatch):
    engine.submit(request(0))
    monkeypatch.setattr(runner, "execute", lambda batch: StepOutput(()))
    with pytest.raises(StopIteration):
        engine.step()


def test_the_statistics_of_a_step_say_what_it_did(engine):
    engine.submit(request(0, range(6), max_new_tokens=2))
    engine.submit(request(1, range(20, 26), max_new_tokens=9))
    first, second, third = (engine.step().stats for _ in range(3))
    assert (first.num_sequences, first.num_prefill_chunks, first.num_prompt_tokens, first.num_generated_tokens) == (2, 2, 8, 0)
    assert (second.num_sequences, second.num_prefill_chunks, second.num_prompt_tokens, second.num_generated_tokens) == (2, 2, 4, 2)
    assert (third.num_sequences, third.num_prefill_chunks, third.num_prompt_tokens, third.num_generated_tokens) == (2, 0, 0, 2)
    assert (second.num_running, second.num_slots_used, second.num_waiting) == (2, 2, 0)
    assert (third.num_running, third.num_slots_used) == (1, 1)
    assert third.step_seconds > 0


def test_reused_tokens_are_counted_once_a_sequence(engine):
    engine.submit(request(0, range(11)))
    run(engine)
    engine.submit(request(1, range(11)))
    assert sum(engine.step().stats.num_reused_tokens for _ in range(3)) == 8


def test_failed_sequences_are_no_generated_tokens(engine, runner):
    engine.submit(request(0))
    runner.fail_next = "execute"
    assert engine.step().stats.num_generated_tokens == 0
    engine.submit(request(1))
    runner.nan_slots = {0, 1}
    assert engine.step().stats.num_generated_tokens == 0


def test_an_idle_engine_steps_without_effect(engine, runner):
    result = engine.step()
    assert result.outputs == ()
    assert result.stats.num_sequences == 0
    assert runner.batches == []


def test_outputs_say_how_long_their_sequence_waited(engine):
    engine.submit(request(0))  # at second 0
    engine.step()  # at seconds 1 and 2
    engine.submit(request(1))  # at second 3
    waits = {output.sequence_id: output.queue_seconds for output in engine.step().outputs}
    assert waits == {0: 1.0, 1: 1.0}


def test_everything_that_crosses_the_threads_can_be_pickled(engine):
    asked = request(0, max_new_tokens=1, eos_token_id=7, stop_token_ids=frozenset({3}))
    engine.submit(asked)
    for value in (asked, engine.step(), FailureOutput(0, "why"), Submit(asked), Abort(0), Stop()):
        assert pickle.loads(pickle.dumps(value)) == value
