"""What counts as a hang and what does not, and how often an engine is replaced: by a clock that the test turns."""

import threading

import pytest

from app.engine.supervisor import FAILURE_SECONDS, LOOK_SECONDS, MAX_FAILURES, SLOWEST_STEPS, Supervisor, stacks
from model.batch import RunnerLost


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def supervisor(clock) -> Supervisor:
    return Supervisor(30.0, clock)


def seconds_until_stalled(supervisor: Supervisor, clock: Clock, at_most: float = 10_000.0) -> float:
    started = clock.now
    while not supervisor.is_stalled() and clock.now - started < at_most:
        clock.now += LOOK_SECONDS
    return clock.now - started


def test_silence_is_a_stall_at_the_look_after_its_limit(supervisor, clock):
    assert 30.0 < seconds_until_stalled(supervisor, clock) <= 30.0 + LOOK_SECONDS


def test_a_sign_of_life_begins_the_silence_anew(supervisor, clock):
    assert seconds_until_stalled(supervisor, clock, 29.0) == 29.0
    supervisor.hear()
    assert 30.0 < seconds_until_stalled(supervisor, clock) <= 30.0 + LOOK_SECONDS


def test_a_process_that_was_stopped_for_an_hour_has_not_stalled(supervisor, clock):
    supervisor.is_stalled()
    for _ in range(20):
        clock.now += 3600.0
        assert not supervisor.is_stalled()
    assert supervisor.silent_seconds < 30.0


def test_a_machine_so_busy_that_looks_come_late_finds_a_stall_all_the_same(supervisor, clock):
    looks = 0
    while not supervisor.is_stalled():
        clock.now += 2.0
        looks += 1
    assert looks == 61


def test_where_steps_take_long_their_silence_is_borne(supervisor, clock):
    supervisor.expect_steps_of(10.0)
    assert seconds_until_stalled(supervisor, clock) > SLOWEST_STEPS * 10.0


def test_fast_steps_do_not_shorten_the_limit(supervisor, clock):
    supervisor.expect_steps_of(0.001)
    assert seconds_until_stalled(supervisor, clock) > 30.0


def test_so_many_crashes_in_a_minute_are_borne_and_no_more(supervisor, clock):
    assert [supervisor.may_replace(RuntimeError()) for _ in range(MAX_FAILURES + 1)] == [True] * MAX_FAILURES + [False]


def test_crashes_that_come_seldom_are_borne_for_ever(supervisor, clock):
    for _ in range(50):
        assert supervisor.may_replace(RuntimeError())
        clock.now += FAILURE_SECONDS / MAX_FAILURES + 1.0


def test_a_lost_runner_is_not_given_to_another_engine(supervisor):
    assert not supervisor.may_replace(RunnerLost("gone"))


def test_stacks_tell_where_every_thread_stands_and_no_values():
    may_end, secret = threading.Event(), "canary sings"

    def stands_here(text: str) -> None:
        may_end.wait(60)

    thread = threading.Thread(target=stands_here, args=(secret,), name="one that waits")
    thread.start()
    told = stacks()
    may_end.set()
    thread.join()
    assert "thread one that waits" in told
    assert "in stands_here" in told
    assert secret not in told.replace('"canary sings"', ""), "the line of this test alone names it"
