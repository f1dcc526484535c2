"""All modules that measure goals: importing one registers its goals, importing this registers them all."""

from tests.chaos import (  # noqa: F401
    browser,
    departures,
    disk,
    drains,
    faults,
    images,
    inputs,
    load,
    pathological,
    pauses,
    replicas,
    scheduling,
    soak,
    startups,
    strangers,
    watching,
    wire_goals,
)
from tests.chaos.goals import GOALS as GOALS
