"""Each goal in its quick form. What a clock measures is printed by `python -m tests.chaos`, and fails nothing here."""

import pytest

from tests.chaos.goals import Goal, Scale
from tests.chaos.report import PAGE
from tests.chaos.suite import GOALS


@pytest.mark.timeout(600)  # what measures time here has no limit but patience
@pytest.mark.parametrize(
    "goal", sorted(GOALS.values(), key=lambda goal: goal.number), ids=lambda goal: f"{goal.number}-{goal.title.replace(' ', '-')}"
)
def test_the_service_withstands(goal: Goal) -> None:
    figures = goal.measure(Scale())
    assert figures
    missed = [figure for figure in figures if not (figure.holds or figure.by_clock)]
    assert missed == []


def test_the_page_has_each_goal() -> None:
    page = PAGE.read_text()
    assert [number for number in GOALS if f"| **{number}** |" not in page] == []
