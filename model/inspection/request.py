"""What is asked of an inspection, as plain values in token ids. Knows no tensors and no text; model/inspection/checks.py checks it.

Fields have the names that they have in the body of a request, so that an error's field can be shown as it is.
"""

from dataclasses import dataclass
from typing import Literal, get_args

# One number or some; of layers and heads, None is all of them.
Numbers = int | tuple[int, ...] | None
# Numbers of an activation, nested as its axes are; None is a masked score.
Values = tuple["Values | float | None", ...]

Summary = Literal["norms", "layer_norm", "attention", "lens", "entropy", "attribution", "prompt_attribution", "layer_norm_order"]
SUMMARIES: tuple[Summary, ...] = get_args(Summary)
DEFAULT_SUMMARIES = SUMMARIES[:-1]
TOP_N, NEW_TOKENS = 5, 20  # unless others are asked for


@dataclass(frozen=True, slots=True)
class NoResidual:
    """x = attn(ln(x)) in place of x + attn(ln(x)); of the MLP alike."""

    branch: Literal["attention", "mlp"]
    layer: Numbers = None


@dataclass(frozen=True, slots=True)
class LayerNormAblation:
    """identity: y = x. mean_only: y = (x - mean) * weight + bias, without the division by the deviation."""

    name: Literal["ln1", "ln2", "ln_final"]
    mode: Literal["identity", "mean_only"]
    layer: Numbers = None


@dataclass(frozen=True, slots=True)
class HeadAblation:
    """What heads have gathered, hook_z, becomes zero, or at every position its mean over the prompt's positions."""

    layer: Numbers = None
    head: Numbers = None
    mode: Literal["zero", "mean"] = "zero"


@dataclass(frozen=True, slots=True)
class MLPAblation:
    """What MLPs add, hook_mlp_out, becomes zero, or at every position its mean over the prompt's positions."""

    layer: Numbers = None
    mode: Literal["zero", "mean"] = "zero"


@dataclass(frozen=True, slots=True)
class AttentionWindow:
    """Heads see the last `size` positions alone, their own among them."""

    size: int
    layer: Numbers = None
    head: Numbers = None


@dataclass(frozen=True, slots=True)
class AttentionPosition:
    """Heads see one position alone; those before it, which cannot, see themselves."""

    position: int
    layer: Numbers = None
    head: Numbers = None


@dataclass(frozen=True, slots=True)
class PositionEmbeddings:
    """Left out, or those of the prompt dealt out among its tokens by a permutation; tokens that follow keep their own."""

    mode: Literal["none", "shuffled"]
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Patch:
    """An activation's rows at `positions` become those that another prompt has at `from_positions`, or given numbers.

    Positions None are all that both prompts have; from_positions None are the same, each counted in its own prompt: -1 is the last
    of either. Tokens after the prompt are not patched. `values` have the shape of the rows, without the axis of heads for one head.
    """

    name: str
    prompt: tuple[int, ...] | None = None
    values: Values | None = None
    positions: tuple[int, ...] | None = None
    from_positions: tuple[int, ...] | None = None
    head: int | None = None


@dataclass(frozen=True, slots=True)
class Steering:
    """`scale` times a direction is added to an activation of C numbers; positions None are all, those after the prompt too.

    The direction is given, or a token's unembedding, or the activation's difference between two prompts' last positions.
    """

    name: str
    direction: tuple[float, ...] | None = None
    token: int | None = None
    plus: tuple[int, ...] | None = None
    minus: tuple[int, ...] | None = None
    scale: float = 1.0
    positions: tuple[int, ...] | None = None


Ablation = (
    NoResidual
    | LayerNormAblation
    | HeadAblation
    | MLPAblation
    | AttentionWindow
    | AttentionPosition
    | PositionEmbeddings
    | Patch
    | Steering
)


@dataclass(frozen=True, slots=True)
class InspectionRequest:
    prompt: tuple[int, ...]
    names: tuple[str, ...] = ()
    positions: tuple[int, ...] | None = None  # rows that are sent back, of activations and summaries; None are all
    summaries: tuple[str, ...] = DEFAULT_SUMMARIES
    top_n: int = TOP_N
    target_position: int = -1
    target_token: int | None = None  # None: the token that came next, after the last the likeliest
    ablations: tuple[Ablation, ...] = ()
    max_new_tokens: int = NEW_TOKENS


class InspectionError(ValueError):
    """The network cannot answer this; `field` is where in the request, as in "ablations[2].layer"."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field, self.message = field, message

    def __reduce__(self) -> tuple[type["InspectionError"], tuple[str, str]]:
        return InspectionError, (self.field, self.message)


def chosen(numbers: Numbers, count: int) -> list[int]:
    """Layers or heads as a list; None are all."""
    if numbers is None:
        return list(range(count))
    return [numbers] if isinstance(numbers, int) else list(numbers)


def counted(positions: tuple[int, ...] | None, num_tokens: int, common: int | None = None) -> list[int]:
    """Positions from the start; negative ones count from the end. None are all, or the first `common`."""
    if positions is None:
        return list(range(num_tokens if common is None else common))
    return [position % num_tokens for position in positions]
