"""What a user may choose of fine-tuning, and what a run of it is, kept so that it can go on."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from model.config import GPT2Config
from model.training.data.options import DataOptions
from model.training.deadline import check_minutes
from model.training.dpo_loss import DPO
from model.training.errors import TrainingError
from model.training.finetune_defaults import preference_learning_rate
from model.training.lora import LoRA
from model.training.recipe import Recipe
from model.training.run_context import Plan
from model.training.segments import Story
from model.training.trainer import EXACT_MATCH, Score


@dataclass(frozen=True, slots=True, kw_only=True)
class FinetuneOptions:
    """What a user may choose; what is not given is chosen for the data and the machine."""

    data: DataOptions
    model: str  # a checkpoint's directory, or its name on the hub
    lora: LoRA | None = None
    keep_adapter: bool = False
    dpo: DPO | None = None  # learn which answer is preferred, in place of text or examples
    recipe: dict[str, object] = field(default_factory=dict)  # fields of Recipe
    minutes: float | None = None

    def __post_init__(self) -> None:
        """Refuse what no data could make right, before any is read."""
        Recipe(**({"max_steps": 1} | self.recipe))  # type: ignore[arg-type]
        check_minutes(self.minutes)
        if self.dpo is not None:
            check_for_preferences(self.recipe)

    def given_recipe(self, config: GPT2Config) -> dict[str, object]:
        """The recipe's fields that are not to be chosen for the data: those given and, for preferences, a careful rate."""
        if self.dpo is None:
            return self.recipe
        return {"learning_rate": preference_learning_rate(config, self.lora is not None)} | self.recipe


def check_for_preferences(recipe: Mapping[str, object]) -> None:
    """Refuse fields of a recipe that mean nothing to DPO's objective."""
    if recipe.get("checkpoint_activations"):
        raise TrainingError("preferences are learned without activation checkpointing; leave out --activation-checkpointing")
    if recipe.get("compiled"):
        raise TrainingError("pairs make batches of many shapes, each of which would be compiled anew; leave out --compile")


DEFAULT = (Path(__file__).parents[1] / "default").resolve()  # the checkpoint that comes with the service
# How a plan names it: neither a folder's absolute path, which another installation does not have, nor a name on the hub.
THE_DEFAULT = "the default checkpoint"


@dataclass(frozen=True, slots=True, kw_only=True)
class FinetunePlan(Plan):
    base: str  # a checkpoint's directory, or its name on the hub
    base_fingerprint: str
    base_loss: float  # on the data held out
    window: int | None  # tokens that text is cut into; None for examples and pairs
    lora: LoRA | None
    keep_adapter: bool
    base_score: Score | None = None  # where it has one
    dpo: DPO | None = None

    @property
    def kind(self) -> str:
        """The command that makes such a run."""
        return "finetune" if self.dpo is None else "dpo"

    def to_json(self) -> dict[str, object]:
        base = THE_DEFAULT if Path(self.base) == DEFAULT else self.base
        return {"kind": self.kind, **asdict(self), "base": base}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "FinetunePlan":
        if (match := values.get("base_exact_match")) is not None:  # its name when examples alone had a score
            values["base_score"] = (EXACT_MATCH, match)
        values = {field.name: values[field.name] for field in fields(cls) if field.name in values}
        if values["base"] == THE_DEFAULT:
            values["base"] = str(DEFAULT)
        if (lora := values["lora"]) is not None:
            values["lora"] = LoRA(**lora | {"targets": tuple(lora["targets"])})
        if (dpo := values.get("dpo")) is not None:
            values["dpo"] = DPO(**dpo)
        if (score := values.get("base_score")) is not None:
            values["base_score"] = Score(*score)
        story = Story.from_json(values.get("story", {}))
        return cls(**values | {"recipe": Recipe.from_json(values["recipe"]), "story": story})
