"""What the ways of training do alike: where a run is, on what, with whom, and how it goes on, perhaps otherwise than it began."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TypeVar

import torch

from model.training.distributed import Processes
from model.training.precision import warn_of_slow_bfloat16
from model.training.recipe import Recipe
from model.training.run import Shown
from model.training.run_directory import NOTHING_SAVED, RunDirectory
from model.training.segments import Changes, Story, changed, describe_change

Report = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan(ABC):
    """All that a run is, so that it can go on: kept in its directory."""

    recipe: Recipe
    story: Story = field(default_factory=Story)

    @abstractmethod
    def to_json(self) -> dict[str, object]: ...


SomePlan = TypeVar("SomePlan", bound=Plan)


@dataclass(frozen=True, slots=True)
class RunContext:
    """One run: where, on what, with whom."""

    directory: RunDirectory
    device: torch.device
    processes: Processes
    to_user: Report
    shown: Shown

    def report(self, line: str) -> None:
        if self.processes.is_first:
            self.to_user(line)

    def write(self, plan: Plan) -> None:
        if self.processes.is_first:
            self.directory.write_plan(plan.to_json())

    def changed(self, plan: SomePlan, changes: Changes, steps_of: Callable[[float], int]) -> SomePlan:
        """The plan of a run that goes on otherwise, to be written down when all is loaded; `steps_of` minutes here."""
        progress = self.directory.read_progress()
        recipe, story = changed(plan.recipe, plan.story, progress, changes, steps_of, self.processes, self.shown.command)
        plan = replace(plan, recipe=recipe, story=story)
        self.processes.wait()  # until all have read where the run stands
        self.report(describe_change(recipe, progress))
        return plan

    def going_on(self, plan: SomePlan, width: int) -> SomePlan:
        """The plan of a run that is resumed, with what it is to show from now on."""
        if not self.directory.has_state:
            self.report(NOTHING_SAVED)
        if plan.recipe.bfloat16:
            warn_of_slow_bfloat16(self.device, width, self.report)
        samples = self.shown.samples or plan.story.samples
        return replace(plan, story=replace(plan.story, samples=samples))
