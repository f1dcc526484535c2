"""How a run trains: every number that decides the result, in one value that is saved with the run."""

import math
from dataclasses import asdict, dataclass, fields
from typing import Literal

from model.training.errors import TrainingError

# What cannot change in a run that goes on: the order of the data follows from the batches and the seed, the averages that are kept
# from the optimizer.
FIXED = ("batch_size", "optimizer", "seed")
MAX_BATCH_SIZE = 1 << 20  # rows: more than any machine's memory has indices of


def option_of(name: str) -> str:
    """A field of a recipe, as whoever trains knows it."""
    return "--" + ("steps" if name == "max_steps" else name.replace("_", "-"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """GPT-2's recipe (Radford et al. 2018, section 4.1; Brown et al. 2020, appendix B) with Muon for the matrices of the blocks.

    Rates are for a batch of some ten thousand tokens. A batch is `batch_size` windows of the context, in `accumulation` parts.
    """

    max_steps: int
    first_step: int = 0  # of the schedules: where a run stood when it was given more steps or other rates
    batch_size: int = 16
    accumulation: int = 1
    optimizer: Literal["muon", "adamw"] = "muon"
    learning_rate: float = 3e-3  # AdamW's: embeddings, biases and LayerNorms with Muon, everything without it
    muon_learning_rate: float = 0.02
    weight_decay: float = 0.1  # on matrices alone
    warmup_steps: int = 100
    # The last part of a run, over which the rates fall to zero, at their peak until then (Hu et al. 2024, "MiniCPM", section 4).
    # None is half a cosine over all of it.
    cooldown: float | None = None
    max_grad_norm: float = 1.0
    dropout: float = 0.0
    # Short windows first: attention costs less, and the first words are learned from a few neighbours (Press et al. 2021,
    # "Shortformer"). From this part of the run on, the context is divided by so much. The whole context comes while the rates are
    # still at a third: at 0.85 of a run, where they were at a twentieth, the new positions were hardly learned any more (a loss of
    # 3.73 with half the context, 3.91 at the end with all of it).
    windows: tuple[tuple[float, int], ...] = ((0.0, 4), (0.3, 2), (0.6, 1))
    validate_every: int = 500
    validation_windows: int = 256
    patience: int | None = None  # validations without a better loss until the run ends
    seed: int = 0
    bfloat16: bool = False  # in matrix products, the network's and Muon's
    compiled: bool = False
    checkpoint_activations: bool = False  # less memory for more time

    def __post_init__(self) -> None:
        for name in ("max_steps", "batch_size", "accumulation", "validate_every", "patience"):
            if (number := getattr(self, name)) is not None and number < 1:
                raise self._refused(name, "be at least 1")
        for name in ("learning_rate", "muon_learning_rate", "max_grad_norm"):
            if not 0 < getattr(self, name) < math.inf:
                raise self._refused(name, "be above 0 and finite")
        for name in ("weight_decay", "warmup_steps"):
            if not 0 <= getattr(self, name) < math.inf:
                raise self._refused(name, "be at least 0 and finite")
        self._check_bounds()

    def _check_bounds(self) -> None:
        """What has an upper one as well, and choices that go together."""
        if self.batch_size > MAX_BATCH_SIZE:
            raise self._refused("batch_size", f"be at most {MAX_BATCH_SIZE}")
        if self.cooldown is not None and not 0 < self.cooldown <= 1:
            raise self._refused("cooldown", "be above 0 and at most 1, the whole run")
        if not 0 <= self.dropout < 1:
            raise self._refused("dropout", "be at least 0 and below 1")
        if not 0 <= self.seed < 1 << 31:
            raise self._refused("seed", f"lie between 0 and {(1 << 31) - 1}")
        if self.compiled and self.checkpoint_activations:
            raise TrainingError("compiling keeps what activation checkpointing computes again; leave out --compile or the other")

    def _refused(self, name: str, must: str) -> TrainingError:
        return TrainingError(f"{option_of(name)} is {getattr(self, name)}; it must {must}")

    def check_shares(self, num_processes: int, rows: str = "", batch_is_fixed: bool = False) -> None:
        """Refuse a batch that the processes cannot share equally in their parts; `rows` names in the message what it is made of."""
        num_parts = self.accumulation * num_processes
        if self.batch_size % num_parts:
            remedy = f"choose a --batch-size that {num_parts} (processes times --accumulation) divides"
            raise TrainingError(
                f"a batch of {self.batch_size}{rows} cannot be cut into {num_parts} equal parts; "
                + ("choose processes and --accumulation whose product divides it" if batch_is_fixed else remedy)
            )

    @property
    def num_warmup_steps(self) -> int:
        """Those over which the rates do rise: a tenth of a run at most, but two, the fewest in which they can, of four or more."""
        num_steps = self.max_steps - self.first_step
        return min(self.warmup_steps, max(num_steps // 10, min(2, num_steps // 2)))

    def learning_rate_factor(self, step: int, share: float | None = None) -> float:
        """What all learning rates are multiplied by at this step: linear warm-up, 1, then down to zero by `cooldown`.

        `share` is how much of the run is over where that is not a matter of steps, but of a deadline.
        """
        num_steps, warmup = self.max_steps - self.first_step, self.num_warmup_steps
        step -= self.first_step
        if step < warmup:
            return (step + 1) / warmup
        if share is None:
            share = (step - warmup) / max(1, num_steps - warmup)
        if self.cooldown is None:
            return 0.5 * (1 + math.cos(math.pi * share))
        return min(1.0, (1 - share) / self.cooldown)

    def window_length(self, step: int, context: int) -> int:
        """Tokens that see each other at this step: the context, or a part of it that divides it."""
        step, num_steps = step - self.first_step, self.max_steps - self.first_step
        divisor = next(divisor for begin, divisor in reversed(self.windows) if step >= begin * num_steps)
        while context % divisor:
            divisor -= 1
        return context // divisor

    def to_json(self) -> dict[str, object]:
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, object]) -> "Recipe":
        known = {field.name: values[field.name] for field in fields(cls) if field.name in values}
        known["windows"] = tuple((begin, divisor) for begin, divisor in known["windows"])  # type: ignore[attr-defined]
        return cls(**known)  # type: ignore[arg-type]
