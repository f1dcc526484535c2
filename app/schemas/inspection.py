"""The body of `/v1/inspect` and its ablations, one of several kinds each; checked strictly, an unknown field is refused."""

from typing import Annotated, Any, Literal, get_args

from pydantic import ConfigDict, Field, PlainValidator, WithJsonSchema

from app.schemas.fields import BracketedModel, PromptField, ReadingFields, SomeText, Text, TimeoutField, TokenId, kind_of
from model.inspection.checks import MAX_ABLATIONS, MAX_NEW_TOKENS, MAX_SEED, MAX_TOP_N
from model.inspection.names import MAX_NAME_CHARS
from model.inspection.request import NEW_TOKENS, SUMMARIES, TOP_N, Summary

# Of any network: its own numbers of positions, layers, heads and features are looked at once the text has been read.
MAX_POSITIONS, MAX_INDICES, MAX_FEATURES, MAX_NAMES = 1 << 16, 1 << 10, 1 << 16, 1 << 10
Position = Annotated[int, Field(ge=-(2**31), le=2**31 - 1)]
Positions = Annotated[list[Position], Field(min_length=1, max_length=MAX_POSITIONS, fail_fast=True)]
Index = Annotated[int, Field(ge=0, le=2**31 - 1)]
Numbers = Index | Annotated[list[Index], Field(min_length=1, max_length=MAX_INDICES, fail_fast=True)]
OneToken = TokenId | SomeText
Direction = Annotated[list[float], Field(min_length=1, max_length=MAX_FEATURES, fail_fast=True)]
Name = Annotated[Text, Field(max_length=MAX_NAME_CHARS)]


MAX_AXES = 4  # of an activation there are three


def _numbers(value: object, depth: int = 0) -> object:
    """Nested lists of numbers, null among them where a score is masked; of whatever shape."""
    if isinstance(value, list):
        if depth == MAX_AXES:
            raise ValueError(f"its lists are nested deeper than {MAX_AXES}")
        return [_numbers(item, depth + 1) for item in value]
    if value is None or isinstance(value, float):
        return value
    if type(value) is int:
        return float(value)  # one of 40 digits is no integer of the process that inspects
    raise ValueError(f"among its numbers is {kind_of(value)}")


def _values(value: object) -> object:
    if not isinstance(value, list):
        raise ValueError("it is a list of numbers, or of such lists")
    return _numbers(value)


Values = Annotated[list[Any], PlainValidator(_values), WithJsonSchema({"type": "array"})]
LAYER = Field(None, description="One layer or several; all if absent.")
HEAD = Field(None, description="One head or several; all if absent.")
POSITIONS = Field(None, description="Positions of the prompt, from the end if negative; all if absent.")


class NoResidual(BracketedModel):
    """A residual connection left out: x = attn(ln(x)) in place of x + attn(ln(x))."""

    kind: Literal["no_residual"]
    branch: Literal["attention", "mlp"]
    layer: Numbers | None = LAYER


class LayerNormAblation(BracketedModel):
    """A LayerNorm replaced: by the identity, or by (x - mean) * weight + bias, which does not divide by the deviation."""

    kind: Literal["layer_norm"]
    name: Literal["ln1", "ln2", "ln_final"]
    layer: Numbers | None = LAYER
    mode: Literal["identity", "mean_only"]


class HeadAblation(BracketedModel):
    """What heads have gathered, `hook_z`, set to zero, or to its mean over the prompt's positions."""

    kind: Literal["head"]
    layer: Numbers | None = LAYER
    head: Numbers | None = HEAD
    mode: Literal["zero", "mean"] | None = Field(None, description="zero if absent.")


class MLPAblation(BracketedModel):
    """What MLPs add, `hook_mlp_out`, set to zero, or to its mean over the prompt's positions."""

    kind: Literal["mlp"]
    layer: Numbers | None = LAYER
    mode: Literal["zero", "mean"] | None = Field(None, description="zero if absent.")


class AttentionWindow(BracketedModel):
    """Heads see the last `size` positions alone, their own among them."""

    kind: Literal["attention_window"]
    layer: Numbers | None = LAYER
    head: Numbers | None = HEAD
    size: Annotated[int, Field(ge=1, le=2**31 - 1)]


class AttentionPosition(BracketedModel):
    """Heads see one position alone; those before it, which cannot, see themselves."""

    kind: Literal["attention_position"]
    layer: Numbers | None = LAYER
    head: Numbers | None = HEAD
    position: Position


class PositionEmbeddings(BracketedModel):
    """Position embeddings left out, or dealt out anew among the prompt's tokens."""

    kind: Literal["positions"]
    mode: Literal["none", "shuffled"]
    seed: Annotated[int, Field(ge=0, le=MAX_SEED)] | None = Field(None, description="Of the permutation; 0 if absent.")


class Patch(BracketedModel):
    """Activations of another prompt, or given numbers, in place of this one's."""

    kind: Literal["patch"]
    name: Name
    prompt: PromptField | None = Field(None, description="The other prompt; or else `values`.")
    values: Values | None = Field(None, description="Numbers, nested as the activation's axes are.")
    positions: Positions | None = POSITIONS
    from_positions: Positions | None = Field(None, description="Those of the other prompt; the same ones if absent.")
    head: Index | None = Field(None, description="Of activations that have heads: this one alone.")


class Steering(BracketedModel):
    """`scale` times a direction added: given, a token's unembedding, or the difference between two prompts' last positions."""

    kind: Literal["steer"]
    name: Name
    direction: Direction | None = None
    token: OneToken | None = None
    plus: PromptField | None = None
    minus: PromptField | None = None
    scale: Annotated[float, Field(ge=-1e6, le=1e6)] | None = Field(None, description="1 if absent.")
    positions: Positions | None = Field(None, description="Positions of the prompt; all if absent, those that follow it too.")


AblationBody = (
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
KINDS: dict[str, type[AblationBody]] = {get_args(body.model_fields["kind"].annotation)[0]: body for body in get_args(AblationBody)}
# Each is checked by its kind's own schema later: a union would have the faults of all of them to tell.
SOME_ABLATION = WithJsonSchema({"oneOf": [kind.model_json_schema() for kind in KINDS.values()]})
GivenAblation = Annotated[dict[str, Any], SOME_ABLATION]


class InspectRequest(ReadingFields, TimeoutField, BracketedModel):
    """The body of `/v1/inspect`."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "prompt": "The old man looked at the sea and",
                "names": ["blocks.*.attn.hook_pattern"],
                "ablations": [{"kind": "head", "layer": 0, "head": [0, 1], "mode": "zero"}],
                "max_new_tokens": 8,
            }
        }
    )

    prompt: PromptField = Field(description="Text or token ids.")
    names: Annotated[list[Name], Field(max_length=MAX_NAMES, fail_fast=True)] | None = Field(
        None, description="Activations that are sent back, by TransformerLens' hook names; * stands for any run of characters."
    )
    positions: Positions | None = Field(
        None, description="Positions that activations and summaries are told of, from the end if negative; all if absent."
    )
    summaries: Annotated[list[Summary], Field(max_length=len(SUMMARIES), fail_fast=True)] | None = Field(
        None, description="All but layer_norm_order if absent."
    )
    top_n: Annotated[int, Field(ge=1, le=MAX_TOP_N)] | None = Field(
        None, description=f"The likeliest tokens that are told, of the next one and in the lens; {TOP_N} if absent."
    )
    target_position: Position | None = Field(
        None, description="The position whose logit is attributed, from the end if negative; the last if absent."
    )
    target_token: OneToken | None = Field(
        None, description="The token whose logit that is, by its id or its text; if absent the one that came, or the likeliest."
    )
    ablations: Annotated[list[GivenAblation], Field(max_length=MAX_ABLATIONS)] | None = Field(
        None, description="What is taken out or changed in a second run, which is told beside the first."
    )
    max_new_tokens: Annotated[int, Field(ge=0, le=MAX_NEW_TOKENS)] | None = Field(
        None,
        description=f"Tokens of the continuations, each the likeliest; {NEW_TOKENS} if absent, cut to what the context leaves.",
    )
    compare_served: bool | None = Field(
        None, description="Whether the serving path's own numbers, in its precision, are told beside these, as if absent."
    )
    format: Literal["json", "safetensors"] | None = Field(None, description="json if absent.")
    estimate: bool | None = Field(None, description="Tell the size of the activations, and compute nothing.")
    model: Text | None = Field(None, description="Any name is taken: one model is served.")
