"""What the service is to withstand: a goal is a function that tries it and returns figures. Knows no particular goal.

Modules beside this one register theirs by `@goal`; `python -m tests.chaos` runs them and prints the table of docs/reliability.md,
and test_goals.py runs each in its quick form.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is tried: in CI a few, in the long form what docs/reliability.md states. `tell` hears how far a goal has come."""

    is_long: bool = False
    tell: Callable[[str], object] = lambda line: None

    def of(self, quick: int, long: int) -> int:
        return long if self.is_long else quick

    def each(self, items: Sequence[Item]) -> Iterator[Item]:
        """One after another, telling how many there have been."""
        for i, item in enumerate(items, 1):
            self.tell(f"{i:,} of {len(items):,}")
            yield item


@dataclass(frozen=True, slots=True)
class Figure:
    """One thing that was measured. `by_clock` says that a slow or busy machine may miss it, so that no test fails by it."""

    what: str
    wanted: str
    found: str
    holds: bool
    by_clock: bool = False


Measure = Callable[[Scale], list[Figure]]


@dataclass(frozen=True, slots=True)
class Goal:
    number: int
    title: str
    measure: Measure


GOALS: dict[int, Goal] = {}


def goal(number: int, title: str) -> Callable[[Measure], Measure]:
    """Register a function as the one that measures a goal of that number."""

    def register(measure: Measure) -> Measure:
        assert number not in GOALS, f"goal {number} is measured in one place"
        GOALS[number] = Goal(number, title, measure)
        return measure

    return register


def exactly(what: str, wanted: int, found: int, by_clock: bool = False) -> Figure:
    return Figure(what, f"{wanted:,}", f"{found:,}", found == wanted, by_clock)


def at_most(what: str, limit: float, found: float, unit: str, by_clock: bool = True) -> Figure:
    return Figure(what, f"<= {limit:,g} {unit}".strip(), f"{_rounded_up(found)} {unit}".strip(), found <= limit, by_clock)


def at_least(what: str, limit: float, found: float, unit: str, by_clock: bool = True) -> Figure:
    return Figure(what, f">= {limit:,g} {unit}".strip(), f"{_rounded_down(found)} {unit}".strip(), found >= limit, by_clock)


def _rounded_up(value: float) -> str:
    """Three digits or whole numbers, never in our favour."""
    if value >= 1000:
        return f"{math.ceil(value):,}"
    digits = f"{value:.3g}"
    return digits if float(digits) >= value else f"{value * 1.005:.3g}"


def _rounded_down(value: float) -> str:
    return f"{math.floor(value):,}" if value >= 1000 else f"{value:.4g}"


def percentile(values: list[float], percent: float) -> float:
    """The smallest of the values that at least so many percent do not exceed; no number, which holds no goal, of none."""
    rank = max(math.ceil(len(values) * percent / 100), 1)
    return sorted(values)[rank - 1] if values else math.nan
