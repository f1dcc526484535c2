"""A run that goes on otherwise than it began: for more steps, at other rates. Knows recipes; neither files nor networks."""

from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from typing import Any

from model.training.deadline import check_minutes
from model.training.distributed import Processes
from model.training.errors import TrainingError
from model.training.progress import counted
from model.training.recipe import FIXED, Recipe
from model.training.trainer import Progress

RATES = ("learning_rate", "muon_learning_rate", "warmup_steps", "cooldown")
VALIDATIONS = 20  # of what is added, at most, where their distance was not named


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """What a run is to do otherwise from where it stands; nothing by default."""

    recipe: dict[str, object] = field(default_factory=dict)  # fields of Recipe; max_steps are so many more
    minutes: float | None = None

    def __post_init__(self) -> None:
        Recipe(**({"max_steps": 1} | self.recipe))  # type: ignore[arg-type]
        if fixed := next((name for name in FIXED if name in self.recipe), None):
            raise TrainingError(f"{fixed} cannot change in a run that goes on; leave it out, or train anew with another --out")
        check_minutes(self.minutes)

    def applied(self, recipe: Recipe) -> Recipe:
        """A recipe with these changes, but for the number of its steps."""
        return replace(recipe, **{name: value for name, value in self.recipe.items() if name != "max_steps"})  # type: ignore[arg-type]

    def __bool__(self) -> bool:
        return bool(self.recipe) or self.minutes is not None


NO_CHANGES = Changes()


@dataclass(frozen=True, slots=True)
class Segment:
    """From this step on a run followed what was asked for then."""

    first_step: int
    command: str
    changes: dict[str, Any]
    recipe: Recipe | None = None  # as it was applied; that of the last segment is the run's


@dataclass(frozen=True, slots=True)
class Story:
    """What a run was given and asked for, in words for its card and its samples; nothing of it decides the result."""

    data: tuple[str, ...] = ()
    segments: tuple[Segment, ...] = ()
    samples: tuple[str, ...] = ()  # prompts that are continued at each validation

    def asked(self, first_step: int, command: str, changes: dict[str, Any], before: Recipe | None = None) -> "Story":
        """With one segment more, or another one in place of one of which no step was made; `before` was the run's recipe so far."""
        segments = list(self.segments)
        if len(segments) > 1 and segments[-1].first_step == first_step:
            changes = segments.pop().changes | changes  # which hold on
        elif segments:
            segments[-1] = replace(segments[-1], recipe=before)
        return replace(self, segments=(*segments, Segment(first_step, command, changes)))

    def recipe_at(self, step: int) -> Recipe | None:
        """That by which a step was made, where the run has gone on otherwise since then."""
        return next((segment.recipe for segment in reversed(self.segments) if segment.first_step < step), None)

    @property
    def named(self) -> set[str]:
        """Fields of the recipe that the run's user has ever named."""
        return {name for segment in self.segments for name in segment.changes}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Story":
        segments = tuple(
            Segment(**segment | {"recipe": Recipe.from_json(recipe) if (recipe := segment.get("recipe")) else None})
            for segment in values.get("segments", ())
        )
        return cls(tuple(values.get("data", ())), segments, tuple(values.get("samples", ())))


def changed(
    recipe: Recipe,
    story: Story,
    progress: Progress,
    changes: Changes,
    steps_of: Callable[[float], int],
    processes: Processes,
    command: str,
) -> tuple[Recipe, Story]:
    """Recipe and story of a run that goes on with changes; `steps_of` minutes here."""
    steps = None if changes.minutes is None else processes.agree(steps_of(changes.minutes))
    asked = changes.recipe | ({} if changes.minutes is None else {"minutes": changes.minutes})
    then = continued(recipe, progress, changes, steps, story.named)
    then.check_shares(processes.num, batch_is_fixed=True)
    return then, story.asked(progress.step, command, asked, recipe)


def describe_change(recipe: Recipe, progress: Progress) -> str:
    anew = ", the rates rising and falling anew" if recipe.first_step == progress.step else ""
    more = counted(recipe.max_steps - progress.step, "step")
    return f"the run goes on otherwise than it began: {more} to step {recipe.max_steps:,}{anew}"


def continued(recipe: Recipe, progress: Progress, changes: Changes, steps_of_minutes: int | None, named: Collection[str]) -> Recipe:
    """The recipe of a run that goes on with changes; `named` are the fields that its user has ever named.

    With more steps or other rates the schedule begins anew where the run stands, as a warm restart does (Loshchilov and Hutter
    2017, "SGDR"): the rates rise again over the warm-up, and fall to zero over the steps that are left. The windows go on growing
    from where they were. Anything else holds from here on within the schedule that there is.
    """
    fields = {name: value for name, value in changes.recipe.items() if name != "max_steps"}
    more = steps_of_minutes if steps_of_minutes is not None else changes.recipe.get("max_steps")
    if more is None and progress.step >= recipe.max_steps:
        raise TrainingError(f"the run has made all its {recipe.max_steps:,} steps; add some by --steps or --minutes")
    if more is None and not any(name in fields for name in RATES):
        return replace(recipe, **fields)  # type: ignore[arg-type]
    max_steps = recipe.max_steps if more is None else progress.step + int(str(more))
    if "validate_every" not in named and "validate_every" not in fields:
        fields["validate_every"] = max(recipe.validate_every, (max_steps - progress.step) // VALIDATIONS)
    windows = _windows_left(recipe, progress.step)
    return replace(recipe, first_step=progress.step, max_steps=max_steps, windows=windows, **fields)  # type: ignore[arg-type]


def _windows_left(recipe: Recipe, step: int) -> tuple[tuple[float, int], ...]:
    """Those of the steps that are left, from 0 on: the run's windows never become shorter again."""
    share = min(1.0, (step - recipe.first_step) / (recipe.max_steps - recipe.first_step))
    now = next(divisor for begin, divisor in reversed(recipe.windows) if share >= begin)
    return ((0.0, now), *(((begin - share) / (1 - share), divisor) for begin, divisor in recipe.windows if begin > share))
