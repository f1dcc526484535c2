"""Who is let in, and how long the others should stay away."""

import pytest

from app.engine.door import Door
from app.errors import NotReady, QueueFull, WaitTooLong


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def full(door: Door) -> QueueFull:
    with pytest.raises(QueueFull) as refusal:
        door.enter(1)
    return refusal.value


def test_slots_and_queue_are_filled_and_no_more():
    door = Door(max_running=2, max_waiting=3)
    for _ in range(5):
        door.enter(1)
    assert "3 samples wait already, the limit is 3" in str(full(door))
    door.leave(1, is_completed=True)
    door.enter(1)
    full(door)


def test_a_request_comes_in_whole_if_there_is_any_room():
    door = Door(max_running=1, max_waiting=0)
    door.enter(4)
    assert door.num_inside == 4
    full(door)
    door.leave(4, is_completed=True)
    door.enter(1)


def test_a_closed_door_says_so():
    door = Door(1, 1)
    door.close()
    with pytest.raises(NotReady, match="shutting down"):
        door.enter(1)


def test_the_wait_is_told_by_the_rate_of_completions(clock):
    door = Door(max_running=2, max_waiting=40, clock=clock)
    door.enter(42)
    for _ in range(20):
        clock.now += 0.5
        door.leave(1, is_completed=True)
        door.enter(1)
    assert full(door).retry_after == 20  # 40 wait, two a second leave


def test_departures_are_no_completions(clock):
    door = Door(max_running=2, max_waiting=130, clock=clock)
    door.enter(202)
    clock.now += 5
    door.leave(70, is_completed=False)
    assert full(door).retry_after == 60, "nothing has been completed in five seconds"


def test_before_anything_could_be_completed_the_wait_is_short(clock):
    door = Door(max_running=2, max_waiting=10, clock=clock)
    door.enter(12)
    clock.now += 0.01
    assert full(door).retry_after == 1


def test_completions_of_long_ago_do_not_count(clock):
    door = Door(max_running=1, max_waiting=5, clock=clock)
    door.enter(60)
    door.leave(54, is_completed=True)
    clock.now += 31
    assert full(door).retry_after == 60


@pytest.mark.parametrize("seconds", [0.0, 1e-9, 1.0, 1e6])
def test_the_wait_stays_between_a_second_and_a_minute(clock, seconds):
    door = Door(max_running=1, max_waiting=500, clock=clock)
    door.enter(600)
    clock.now += seconds
    door.leave(99, is_completed=True)
    assert 1 <= full(door).retry_after <= 60


def test_an_idle_time_does_not_slow_down_what_comes_after_it(clock):
    door = Door(max_running=1, max_waiting=10, clock=clock)
    door.enter(1)
    door.leave(1, is_completed=True)
    clock.now += 25
    door.enter(14)
    clock.now += 1
    for _ in range(3):
        door.leave(1, is_completed=True)
    assert full(door).retry_after <= 4


def test_who_would_wait_too_long_at_the_measured_rate_is_not_let_in(clock):
    door = Door(max_running=1, max_waiting=10, clock=clock)
    for _ in range(4):
        door.enter(1)
    for _ in range(3):
        clock.now += 2
        door.leave(1, is_completed=True)
    with pytest.raises(WaitTooLong, match=r"about 2\.0 s would pass"):
        door.enter(1, patience=1.0)
    door.enter(1, patience=2.5)
    assert door.num_inside == 2


def test_without_a_measured_rate_nobody_is_sent_away_for_the_time_alone(clock):
    door = Door(max_running=1, max_waiting=10, clock=clock)
    door.enter(1)
    clock.now += 100
    door.enter(1, patience=0.001)
    assert door.num_inside == 2
