"""A step that fails is run again in halves: who it fails by fails alone, and all others get what they would have got."""

import itertools

import pytest

from app.engine.engine import MAX_FAILED_IN_A_ROW, Engine, NothingSucceeds
from app.engine.isolation import Isolation, copy_again
from app.engine.scheduler import Scheduler
from app.engine.sequence import EngineRequest, FailureOutput, PromptScores, TokensOutput
from app.engine.slots import PrefixCopy
from model.batch import Chunk, Draw, ForwardBatch, RunnerLost, SamplingParams, StepOutput

CHUNK = 4
KINDS = [
    {},
    {"is_asynchronous": True},
    {"is_asynchronous": True, "num_steps": 4},
    {"exact_at_any_cut": True, "is_asynchronous": True, "num_steps": 4},
]
each_kind = pytest.mark.parametrize("kind", KINDS, ids=str)
BAD = 99


def engine_of(runner) -> Engine:
    return Engine(runner, Scheduler(runner.num_slots, CHUNK, 64, runner.capabilities))


def submit(engine: Engine, request_id: int, prompt_ids=None, seed: int = 0, max_new_tokens: int = 6, **options) -> None:
    """A prompt of its own, unless one is given."""
    prompt_ids = tuple(prompt_ids or (request_id % 50, 2, 3))
    engine.submit(request_id, EngineRequest(prompt_ids, SamplingParams(seed=seed), max_new_tokens, **options))


def run(engine: Engine) -> list:
    outputs = []
    while engine.has_work:
        outputs += engine.step().outputs
    return outputs


def texts(outputs) -> dict[tuple[int, int], list[int]]:
    found: dict[tuple[int, int], list[int]] = {}
    for output in outputs:
        if isinstance(output, TokensOutput):
            found.setdefault((output.request_id, output.sample), []).extend(output.token_ids)
    return found


def failed(outputs) -> dict[int, str]:
    return {output.request_id: output.message for output in outputs if isinstance(output, FailureOutput)}


def outputs_of_eight(make_runner, kind, num_before: int, spoil) -> list:
    """Of eight requests; after some steps `spoil` may do something to the runner."""
    runner = make_runner(num_slots=8, **kind)
    engine = engine_of(runner)
    for i in range(8):
        submit(engine, i, max_new_tokens=12)
    outputs = [output for _ in range(num_before) for output in engine.step().outputs]
    spoil(runner)
    return outputs + run(engine)


@each_kind
@pytest.mark.parametrize("num_before", [0, 1, 3])
@pytest.mark.parametrize("slot", range(8))
def test_one_of_eight_rows_fails_alone_and_the_others_get_the_same_tokens(make_runner, kind, num_before, slot):
    clean = outputs_of_eight(make_runner, kind, num_before, lambda runner: None)
    outputs = outputs_of_eight(make_runner, kind, num_before, lambda runner: runner.bad_slots.add(slot))
    assert failed(outputs) == {slot: "the step failed: RuntimeError"}
    expected, found = texts(clean), texts(outputs)
    assert {key: found[key] for key in expected if key[0] != slot} == {key: expected[key] for key in expected if key[0] != slot}


@each_kind
@pytest.mark.parametrize("how", ["launch", "execute", "memory"])
def test_what_fails_once_and_not_again_fails_nobody(make_runner, kind, how):
    def spoil(runner) -> None:
        runner.fail_next = how

    assert texts(outputs_of_eight(make_runner, kind, 2, spoil)) == texts(outputs_of_eight(make_runner, kind, 2, lambda _: None))


def test_a_request_that_is_alone_in_its_step_has_a_second_try(make_runner):
    engine = engine_of(make_runner(num_slots=1))
    submit(engine, 0)
    engine.runner.fail_next = "execute"
    result = engine.step()
    assert result.stats.error.endswith("builtins.RuntimeError"), "it tells where it came from"
    assert "RuntimeError: a bad moment" not in result.stats.error
    assert [type(output) for output in result.outputs] == [TokensOutput]


@pytest.mark.parametrize(("num_rows", "num_launches"), [(1, 2), (2, 3), (8, 7), (32, 11), (33, 13)])
def test_one_row_is_found_by_two_launches_a_halving(make_runner, num_rows, num_launches):
    runner = make_runner(num_slots=num_rows)
    engine = Engine(runner, Scheduler(num_rows, CHUNK, 256, runner.capabilities))
    for i in range(num_rows):
        submit(engine, i)
    runner.bad_slots = {num_rows - 1}
    assert len(failed(engine.step().outputs)) == 1
    assert len(runner.batches) == num_launches


@each_kind
def test_of_a_prompt_that_several_draw_from_the_one_whose_draw_fails_fails_alone(make_runner, kind):
    def outputs(bad_seeds: set[int]):
        runner = make_runner(num_slots=8, **kind)
        engine = engine_of(runner)
        for i in range(4):
            submit(engine, i, range(6), seed=BAD if i == 2 else i)
        runner.bad_seeds = bad_seeds
        return run(engine)

    clean, found = outputs(set()), outputs({BAD})
    assert failed(found) == {2: "the step failed: RuntimeError"}
    assert texts(found) == {key: tokens for key, tokens in texts(clean).items() if key[0] != 2}


def test_one_whose_draw_fails_leaves_its_prompt_to_those_that_draw_with_it(make_runner):
    runner = make_runner(num_slots=8)
    engine = engine_of(runner)
    for i in range(3):
        submit(engine, i, range(6), seed=BAD if i == 0 else i)
    runner.bad_seeds = {BAD}
    outputs = run(engine)
    assert [*failed(outputs)] == [0]
    assert {key: len(tokens) for key, tokens in texts(outputs).items()} == {(1, 0): 6, (2, 0): 6}


def test_a_sample_whose_draw_fails_ends_its_request_with_all_its_samples_once(make_runner):
    engine = engine_of(make_runner(num_slots=8))
    submit(engine, 0, range(6), seed=BAD - 1, num_samples=3)
    submit(engine, 1, range(6), seed=BAD + 5)
    engine.runner.bad_seeds = {BAD}
    outputs = run(engine)
    assert [output.request_id for output in outputs if isinstance(output, FailureOutput)] == [0]
    assert len(texts(outputs)[1, 0]) == 6


def test_scores_come_with_the_draws_that_went_well(make_runner):
    engine = engine_of(make_runner(num_slots=8))
    submit(engine, 0, range(4), scores=PromptScores())
    submit(engine, 1, range(4), seed=BAD)
    engine.runner.bad_seeds = {BAD}
    outputs = engine.step().outputs
    assert [type(output).__name__ for output in outputs] == ["ScoresOutput", "TokensOutput", "FailureOutput"]
    assert len(outputs[0].scores) == 3


def copying(runner) -> Engine:
    """An engine whose next step copies a prefix to slot 1, and one from there to slot 2."""
    engine = engine_of(runner)
    submit(engine, 0, range(12), max_new_tokens=20)
    for _ in range(4):
        engine.step()
    submit(engine, 1, range(12))
    submit(engine, 2, (7, 8, 9))
    return engine


def test_a_prefix_copy_that_fails_once_fails_nobody(make_runner):
    engine = copying(make_runner(num_slots=4))
    engine.runner.fail_next = "copy_prefix"
    outputs = run(engine)
    assert not failed(outputs)
    assert {i: len(tokens) for (i, _), tokens in texts(outputs).items()} == {0: 18, 1: 6, 2: 6}


@pytest.mark.parametrize("error", [RuntimeError, MemoryError])
def test_a_prefix_copy_that_fails_again_ends_the_one_that_it_is_for(make_runner, monkeypatch, error):
    engine = copying(make_runner(num_slots=4))

    def copy_prefix(source: int, target: int, length: int) -> None:
        raise error("no copy")

    monkeypatch.setattr(engine.runner, "copy_prefix", copy_prefix)
    outputs = run(engine)
    assert [*failed(outputs)] == [1]
    assert failed(outputs)[1].endswith(f": {error.__name__}")
    assert {i: len(tokens) for (i, _), tokens in texts(outputs).items()} == {0: 18, 2: 6}


def test_who_was_to_get_its_prefix_from_one_whose_copy_fails_gets_it_from_where_that_came(make_runner):
    runner = make_runner(num_slots=4)
    runner.launch(ForwardBatch((Chunk(2, 0, (1, 2, 3, 4)),)))
    runner.bad_slots = {1}
    copies = [PrefixCopy(2, 1, 4), PrefixCopy(1, 3, 4), PrefixCopy(3, 0, 4)]
    assert copy_again(runner, copies) == {1: "the step failed: RuntimeError"}
    assert runner.history(3, 4) == runner.history(0, 4) == runner.history(2, 4)


@each_kind
def test_when_all_fail_the_runner_is_to_blame_and_the_search_ends_soon(make_runner, kind):
    runner = make_runner(num_slots=32, **kind)
    engine = Engine(runner, Scheduler(32, CHUNK, 256, runner.capabilities))
    for i in range(32):
        submit(engine, i)
    runner.bad_slots = set(range(32))
    with pytest.raises(NothingSucceeds, match="32 requests have failed one after another"):
        run(engine)
    assert len(runner.batches) == 1 + 2 + 4 + 8


def test_requests_that_fail_one_after_another_are_the_runners_fault(make_runner):
    engine = engine_of(make_runner(num_slots=1))
    engine.runner.bad_slots = {0}
    for i in range(MAX_FAILED_IN_A_ROW - 1):
        submit(engine, i)
        assert len(failed(run(engine))) == 1
    submit(engine, MAX_FAILED_IN_A_ROW)
    with pytest.raises(NothingSucceeds):
        run(engine)


def test_a_row_that_goes_well_between_two_that_fail_clears_the_runner(make_runner):
    engine = engine_of(make_runner(num_slots=1))
    engine.runner.bad_seeds = {BAD}
    for i in range(3 * MAX_FAILED_IN_A_ROW):
        submit(engine, i, seed=BAD if i % 4 else 0)
        assert len(failed(run(engine))) == (1 if i % 4 else 0)


def test_a_part_that_finds_no_memory_is_left_for_a_smaller_step(make_runner, monkeypatch):
    def outputs(is_short: bool):
        runner = make_runner(num_slots=4, exact_at_any_cut=True)
        engine = engine_of(runner)
        for i in range(4):
            submit(engine, i, range(10 * i, 10 * i + 8))
        execute, calls = runner.execute, itertools.count()

        def short(batch: ForwardBatch) -> StepOutput:
            if next(calls) == 0:
                raise RuntimeError("a bad moment")
            runner.max_tokens = 6
            return execute(batch)

        if is_short:
            monkeypatch.setattr(runner, "execute", short)
        return run(engine)

    found = outputs(True)
    assert not failed(found)
    assert texts(found) == texts(outputs(False))


def test_a_row_that_finds_no_memory_alone_fails_by_itself(make_runner, monkeypatch):
    runner = make_runner(num_slots=32)
    engine = Engine(runner, Scheduler(32, CHUNK, 256, runner.capabilities))
    for i in range(32):
        submit(engine, i)
    execute = runner.execute

    def no_memory_for_slot_9(batch: ForwardBatch) -> StepOutput:
        if any(chunk.slot == 9 for chunk in batch.chunks):
            raise MemoryError("too large")
        return execute(batch)

    monkeypatch.setattr(runner, "execute", no_memory_for_slot_9)
    outputs = run(engine)
    message = "memory does not suffice, even for a step of this request alone: MemoryError"
    assert failed(outputs) == {9: message}
    assert engine.scheduler.room.limit is None, "what one row needed too much bounds nobody's steps"
    assert {len(tokens) for tokens in texts(outputs).values()} == {6}


def test_a_runner_that_is_lost_while_a_step_is_run_again_is_let_through(make_runner, monkeypatch):
    runner = make_runner(num_slots=2)
    batch = ForwardBatch(tuple(Chunk(slot, 0, (1, 2), (Draw(1, SamplingParams()),)) for slot in range(2)))

    def lose(batch: ForwardBatch) -> StepOutput:
        raise RunnerLost("the device is gone")

    monkeypatch.setattr(runner, "compute", lose)
    with pytest.raises(RunnerLost):
        Isolation(runner, batch, {}, lambda _: False)
