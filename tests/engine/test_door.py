"""Who is let in, and how long the others should stay away."""

import random

import pytest

from app.engine.door import CAUTION, Door, Visit
from app.errors import NotReady, QueueFull, TooMuchWork, WaitTooLong, WorkFull


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def enter(door: Door, num_samples: int = 1, num_tokens: int = 1, patience: float | None = None) -> Visit:
    door.check(num_tokens, patience)
    return door.enter(num_samples, num_tokens)


def leave(door: Door, visit: Visit, is_completed: bool = True) -> None:
    door.leave(visit, visit.num_samples, visit.num_tokens, is_completed)


def refused(door: Door, error: type[Exception] = QueueFull, num_tokens: int = 1, patience: float | None = None):
    with pytest.raises(error) as refusal:
        door.check(num_tokens, patience)
    return refusal.value


def busy_door(clock: Clock, num_left: int = 4, seconds: float = 2.0, num_tokens: int = 10, **bounds) -> tuple[Door, list[Visit]]:
    """Of one slot that has been taken by one after another, `seconds` long each, and is taken now; nobody waits."""
    door = Door(1, 100, clock=clock, **bounds)
    visit = enter(door, num_tokens=num_tokens)
    for _ in range(num_left):
        clock.now += seconds
        leave(door, visit)
        visit = enter(door, num_tokens=num_tokens)
    return door, [visit]


# Samples.


def test_slots_and_queue_are_filled_and_no_more():
    door = Door(max_running=2, max_waiting=3)
    visits = [enter(door) for _ in range(5)]
    assert "3 samples wait already, the limit is 3" in str(refused(door))
    leave(door, visits[0])
    enter(door)
    refused(door)


def test_a_request_comes_in_whole_if_there_is_any_room():
    door = Door(max_running=1, max_waiting=0)
    visit = enter(door, num_samples=4)
    assert door.num_inside == 4
    refused(door)
    leave(door, visit)
    enter(door)


def test_a_closed_door_says_so():
    door = Door(1, 1)
    door.close()
    with pytest.raises(NotReady, match="shutting down"):
        door.check_room()


# Work.


def test_work_is_taken_on_up_to_its_bound_and_not_a_token_beyond_it():
    door = Door(max_running=2, max_waiting=100, max_tokens=100)
    first = enter(door, num_tokens=60)
    assert "60 tokens of work are taken on already, this request has 41 or more, the limit is 100" in str(
        refused(door, WorkFull, num_tokens=41)
    )
    enter(door, num_tokens=40)
    with pytest.raises(WorkFull):
        door.check_room()
    leave(door, first)
    door.check_room()
    refused(door, WorkFull, num_tokens=61)
    enter(door, num_tokens=60)


def test_work_that_can_never_be_taken_on_is_told_so_and_not_to_come_again():
    door = Door(max_running=2, max_waiting=100, max_tokens=100)
    error = refused(door, TooMuchWork, num_tokens=101)
    assert "101 tokens" in str(error)
    assert "at most 100" in str(error)
    assert error.retry_after is None

    enter(door, num_tokens=100)
    refused(door, WorkFull)
    assert refused(door, TooMuchWork, num_tokens=101).retry_after is None


def test_a_samples_work_leaves_with_it():
    door = Door(max_running=2, max_waiting=100, max_tokens=100)
    visit = enter(door, num_samples=3, num_tokens=100)
    door.leave(visit, 1, 30, is_completed=True)
    assert (door.num_inside, door.num_tokens) == (2, 70)
    enter(door, num_tokens=30)
    refused(door, WorkFull)


# The wait.


def test_who_would_wait_too_long_at_the_measured_rate_is_not_let_in(clock):
    door, _ = busy_door(clock)
    assert "about 2.5 s would pass before this request starts, its timeout_seconds is 1 s" in str(
        refused(door, WaitTooLong, patience=1.0)
    )
    enter(door, patience=2.6)


def test_the_wait_is_that_for_the_work_of_those_who_are_before(clock):
    door, _ = busy_door(clock)  # 5 tokens a second
    enter(door, num_tokens=100)
    assert door.wait_seconds == pytest.approx(CAUTION * 22)
    enter(door, num_tokens=5)
    assert door.wait_seconds == pytest.approx(CAUTION * 23)


def test_who_leaves_the_queue_shortens_the_wait_of_the_next(clock):
    door, _ = busy_door(clock)
    waiting = [enter(door, num_tokens=100), enter(door, num_tokens=5)]
    leave(door, waiting[0], is_completed=False)
    assert door.wait_seconds == pytest.approx(CAUTION * 3)


def test_nobody_is_let_in_beyond_the_wait_that_is_bounded_for_all(clock):
    door, _ = busy_door(clock, max_wait_seconds=5.0)
    enter(door)
    enter(door, num_tokens=12)
    with pytest.raises(WaitTooLong, match=r"about 5\.8 s would pass before this request starts, the limit is 5 s"):
        door.check_room()


def test_where_a_slot_is_free_nobody_waits(clock):
    door, (visit,) = busy_door(clock, max_wait_seconds=0.1)
    leave(door, visit)
    assert door.wait_seconds == 0
    enter(door, patience=0.001)


def test_until_enough_has_left_the_steps_tell_the_rate(clock):
    door = Door(max_running=2, max_waiting=10, clock=clock)
    for _ in range(2):
        enter(door, num_tokens=100)
    enter(door, num_tokens=50)
    door.compute(1)
    assert door.wait_seconds == 0  # too early to tell
    clock.now += 1.0
    door.compute(19)
    assert door.wait_seconds == pytest.approx(CAUTION * (50 + 100) / 20)


def test_without_a_measured_rate_nobody_is_sent_away_for_the_time_alone(clock):
    door = Door(max_running=2, max_waiting=10, max_wait_seconds=0.001, clock=clock)
    visits = [enter(door) for _ in range(5)]
    clock.now += 100
    enter(door, patience=0.001)
    leave(door, visits[0])  # those that end first say nothing of the others
    enter(door, patience=0.001)
    clock.now += 100
    leave(door, visits[1])
    refused(door, WaitTooLong, patience=0.001)


def test_what_was_measured_while_slots_were_free_says_nothing_of_how_fast_it_can_be(clock):
    door = Door(max_running=2, max_waiting=100, clock=clock)
    for _ in range(100):
        visit = enter(door)
        clock.now += 10
        leave(door, visit)
    visits = [enter(door) for _ in range(50)]
    assert door.wait_seconds == 0
    clock.now += 1
    for visit in visits[:2]:
        leave(door, visit)
    assert door.wait_seconds == pytest.approx(CAUTION * 47 / 2)


def test_an_idle_time_changes_nothing(clock):
    door, (visit,) = busy_door(clock)
    leave(door, visit)
    clock.now += 10_000
    enter(door, num_tokens=10)
    assert door.wait_seconds == pytest.approx(CAUTION * 10 * 6 / 40)  # four have left since the first, in six seconds


def test_what_left_long_ago_counts_no_more(clock):
    door, (visit,) = busy_door(clock, num_left=50, seconds=0.1)
    for _ in range(20):
        clock.now += 5
        leave(door, visit)
        visit = enter(door, num_tokens=10)
    assert door.wait_seconds == pytest.approx(CAUTION * 5)


def test_of_what_takes_longer_than_is_looked_back_something_is_known(clock):
    door, _ = busy_door(clock, num_left=3, seconds=1000.0)
    assert door.wait_seconds == pytest.approx(CAUTION * 1000)


def test_departures_are_no_completions(clock):
    door, _ = busy_door(clock)
    waiting = [enter(door) for _ in range(50)]
    before = door.wait_seconds
    for visit in waiting:
        leave(door, visit, is_completed=False)
    for _ in range(50):
        enter(door)
    assert door.wait_seconds == before


# When to come again.


def test_those_who_are_sent_away_are_told_when_each_has_a_place(clock):
    door, _ = busy_door(clock, seconds=0.5)
    for _ in range(100):
        enter(door, num_tokens=10)
    assert [refused(door).retry_after for _ in range(8)] == [1, 1, 2, 2, 3, 3, 4, 4]
    clock.now += 1.0
    assert refused(door).retry_after == 4


def test_after_a_minutes_places_it_begins_again(clock):
    door, _ = busy_door(clock, seconds=10.0)
    for _ in range(100):
        enter(door, num_tokens=10)
    assert [refused(door).retry_after for _ in range(9)] == [10, 20, 30, 40, 50, 60, 60, 10, 20]


def test_who_comes_again_and_again_does_not_keep_the_others_away_for_long(clock):
    door, _ = busy_door(clock, seconds=0.1)
    for _ in range(2):
        enter(door, num_tokens=10)  # three are inside, who take 0.3 s
    told = [refused(door, WaitTooLong, patience=0.01).retry_after for _ in range(600)]
    assert set(told) == {1, 2}


def test_once_nobody_waits_the_next_are_told_anew(clock):
    door, (visit,) = busy_door(clock, seconds=0.5)
    waiting = [enter(door, num_tokens=10) for _ in range(9)]
    for _ in range(20):
        refused(door, WaitTooLong, patience=0.1)
    assert refused(door, WaitTooLong, patience=0.1).retry_after > 10
    for inside in [visit, *waiting]:
        leave(door, inside)
    enter(door, num_tokens=10)
    assert refused(door, WaitTooLong, patience=0.1).retry_after == 1


def test_who_would_wait_too_long_is_told_when_the_wait_is_short_enough(clock):
    door, _ = busy_door(clock, max_wait_seconds=5.0)  # two seconds each
    for _ in range(3):
        door.enter(1, 10)
    assert door.wait_seconds == 10
    assert refused(door, WaitTooLong).retry_after == 7  # five until the wait is five, and two more for the place


def test_before_anything_could_be_completed_the_wait_is_short(clock):
    door = Door(max_running=2, max_waiting=10, clock=clock)
    for _ in range(12):
        enter(door)
    clock.now += 0.01
    assert refused(door).retry_after == 1


@pytest.mark.parametrize("seconds", [0.0, 1e-9, 1.0, 1e6])
def test_it_stays_between_a_second_and_a_minute(clock, seconds):
    door = Door(max_running=1, max_waiting=500, clock=clock)
    visits = [enter(door) for _ in range(501)]
    clock.now += seconds
    for _ in range(10):
        assert 1 <= refused(door).retry_after <= 60
    leave(door, visits[0])
    enter(door)
    assert 1 <= refused(door).retry_after <= 60


# All of it.


@pytest.mark.parametrize("seed", range(20))
def test_after_any_order_of_events_the_counts_are_those_of_who_is_inside(clock, seed):
    chance = random.Random(seed)
    door = Door(max_running=3, max_waiting=20, max_tokens=500, max_wait_seconds=30.0, clock=clock)
    inside: list[Visit] = []
    for _ in range(2000):
        clock.now += chance.random()
        if chance.random() < 0.55:
            num_samples, num_tokens = chance.randint(1, 3), chance.randint(3, 60)
            try:
                inside.append(enter(door, num_samples, num_tokens, chance.choice([None, 1.0, 100.0])))
            except (QueueFull, WorkFull, WaitTooLong):
                continue
        elif inside:
            visit = chance.choice(inside)
            num_left = chance.randint(1, visit.num_samples)
            num_tokens = visit.num_tokens if num_left == visit.num_samples else num_left
            door.leave(visit, num_left, num_tokens, chance.random() < 0.8)
            inside = [visit for visit in inside if visit.num_samples]
        assert door.num_inside == sum(visit.num_samples for visit in inside) <= 3 + 20 + 2
        assert door.num_tokens == sum(visit.num_tokens for visit in inside) <= 500
        assert door.wait_seconds >= 0
    for visit in inside:
        leave(door, visit)
    assert (door.num_inside, door.num_tokens, door.wait_seconds) == (0, 0, 0)
