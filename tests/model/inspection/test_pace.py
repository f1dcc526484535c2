"""An inspection rests while the service generates, in proportion, and not for ever."""

import threading

import pytest

from model.inspection.pace import MAX_REST_SECONDS, REST, Pace


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Waits:
    """In place of the event: keeps how long was to be waited, which passes at once."""

    def __init__(self, clock: Clock) -> None:
        self.clock, self.seconds = clock, list[float]()

    def wait(self, seconds: float) -> None:
        self.seconds.append(seconds)
        self.clock.now += seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def waits(clock: Clock) -> Waits:
    return Waits(clock)


@pytest.fixture
def pace(clock: Clock, waits: Waits, monkeypatch: pytest.MonkeyPatch) -> Pace:
    pace = Pace(clock)
    monkeypatch.setattr(pace, "_may_go", waits)
    return pace


def test_it_rests_in_proportion_to_what_was_computed_since_the_last_rest(pace: Pace, clock: Clock, waits: Waits) -> None:
    for computed in (0.01, 0.02):
        clock.now += computed
        pace.rest()
    assert waits.seconds == pytest.approx([0.01 * REST, 0.02 * REST])


def test_one_inspection_rests_for_so_long_in_all_and_the_next_one_again(pace: Pace, clock: Clock, waits: Waits) -> None:
    for _ in range(3):
        clock.now += 0.3
        pace.rest()
    assert sum(waits.seconds) == pytest.approx(MAX_REST_SECONDS)
    pace.begin()
    clock.now += 0.01
    pace.rest()
    assert waits.seconds[-1] == pytest.approx(0.01 * REST)


def test_who_is_not_held_does_not_rest_and_a_rest_ends_when_it_may_go(clock: Clock) -> None:
    pace = Pace(clock)
    clock.now += 1e6
    pace.rest()  # or this would hang for a while
    pace.begin()
    pace.hold()
    clock.now += 1e6
    resting = threading.Thread(target=pace.rest)
    resting.start()
    pace.go()
    resting.join(60)
    assert not resting.is_alive()
