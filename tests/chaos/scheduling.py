"""Goal 16: the scheduler's rules hold whatever happens: the state machine of tests/engine, run as often as it takes."""

from itertools import product

from hypothesis.stateful import run_state_machine_as_test

from tests.chaos.goals import Figure, Scale, at_least, exactly, goal
from tests.engine.conftest import FakeRunner, MisuseError
from tests.engine.test_scheduler import machine, so_many

AT_ONCE = 50  # runs between two words of how far it is
WAYS = 4  # with and without steps that overlap, cut anywhere or at multiples


@goal(16, "The scheduler as a state machine")
def state_machines(scale: Scale) -> list[Figure]:
    num_runs, broken = 0, []
    rounds = scale.of(10, 5000) // WAYS // (size := scale.of(2, AT_ONCE)) + 1
    for freely, overlapping, _ in scale.each([*product((False, True), (False, True), range(rounds))]):
        found, error = _run(freely, overlapping, size)
        num_runs += found
        if error:
            broken.append(error)
    told = f" ({broken[0]})" if broken else ""
    return [
        at_least("runs of at most 40 events each", scale.of(10, 5000), num_runs, "runs", by_clock=False),
        exactly(f"broken invariants{told}", 0, len(broken)),
    ]


def _run(freely: bool, overlapping: bool, num_runs: int) -> tuple[int, str]:
    """How many runs there were, and what was broken."""
    ends = []

    class Counted(machine(FakeRunner, freely, overlapping)):  # type: ignore[misc]
        def teardown(self) -> None:
            super().teardown()
            ends.append(self)

    try:
        run_state_machine_as_test(Counted, settings=so_many(num_runs))
    except (Exception, MisuseError) as error:
        return len(ends), f"{type(error).__name__}: {error}"
    return len(ends), ""
