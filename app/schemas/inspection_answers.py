"""What `/v1/inspect` answers, for the OpenAPI document alone: the process that inspects writes answers without these.

Lists are P positions, L layers or H heads long, in this order where they are nested; those of the lens have one more than L.
"""

from typing import Any, Literal

from pydantic import BaseModel, Field

Rows = list[list[float]]
RowsOrNull = list[list[float | None]]


class InspectedToken(BaseModel):
    id: int
    text: str = Field(description="Empty where it is a part of a character, which the token that completes it has.")
    special: bool


class TokenText(BaseModel):
    id: int
    text: str


class LensToken(TokenText):
    probability: float


class LikelyToken(LensToken):
    logprob: float


class ContinuedToken(TokenText):
    logprob: float


class InspectedContinuation(BaseModel):
    text: str
    tokens: list[ContinuedToken]


class Activation(BaseModel):
    shape: list[int]
    data: list[Any] = Field(description="Nested as the shape has it; masked scores are null.")


class Norms(BaseModel):
    """L2 norms, and cosines of what is added with the stream that it is added to."""

    embed: list[float]
    pos_embed: list[float]
    resid_pre: Rows
    attn_out: Rows
    resid_mid: Rows
    mlp_out: Rows
    resid_post: Rows
    attn_cosine: RowsOrNull
    mlp_cosine: RowsOrNull


class LayerNormFigures(BaseModel):
    mean: Rows
    deviation: Rows


class LastLayerNormFigures(BaseModel):
    mean: list[float]
    deviation: list[float]


class LayerNorms(BaseModel):
    """Of what each LayerNorm is given: its mean, and the square root of its variance and epsilon."""

    ln1: LayerNormFigures
    ln2: LayerNormFigures
    ln_final: LastLayerNormFigures


class AttentionFigures(BaseModel):
    """Means over the prompt's positions after the first: weights, entropy in nats, distance in tokens."""

    previous: RowsOrNull
    first: RowsOrNull
    self: RowsOrNull
    entropy: RowsOrNull
    distance: RowsOrNull
    induction: RowsOrNull = Field(
        description="On the token behind an earlier occurrence of this one; null where none occurs twice."
    )


class InspectedLens(BaseModel):
    names: list[str]
    top: list[list[list[LensToken]]]
    rank: list[list[int]] = Field(description="Of the token that came; 0 is the likeliest.")
    probability: Rows
    entropy: Rows


class OfTarget(BaseModel):
    position: int
    token: TokenText


class InspectedAttribution(OfTarget):
    """The target's logit as a sum, the last LayerNorm's scale held fixed."""

    logit: float
    embed: float
    pos_embed: float
    heads: Rows
    attention_biases: list[float]
    mlps: list[float]
    ln_final_bias: float
    interventions: float
    sum: float


class PromptAttribution(OfTarget):
    scores: list[float] = Field(description="Of each token: the gradient of the target's logit by its embedding, times that.")


class InspectedSummaries(BaseModel):
    """Those that were asked for."""

    norms: Norms | None = None
    layer_norm: LayerNorms | None = None
    attention: AttentionFigures | None = None
    lens: InspectedLens | None = None
    attribution: InspectedAttribution | None = None
    prompt_attribution: PromptAttribution | None = None


class InspectedRun(BaseModel):
    loss: float | None = Field(description="The mean over the tokens but the first, in nats; null of a single token.")
    logprobs: list[float | None]
    entropy: list[float] | None = Field(None, description="Of what comes after each position, in nats; only there if asked for.")
    next: list[LikelyToken]
    continuation: InspectedContinuation | None
    activations: dict[str, Activation]
    summaries: InspectedSummaries


class ServedNumbers(BaseModel):
    """Of the engine, in the precision that it serves in; differences are those of log-probabilities, absolute."""

    dtype: str
    loss: float | None
    logprobs: list[float | None]
    next: list[LikelyToken] = Field(description="None where the prompt fills the context.")
    max_difference: float | None
    mean_difference: float | None


class OrderFigures(BaseModel):
    loss: float
    gradient_norms: list[float]


class Orders(BaseModel):
    pre: OrderFigures
    post: OrderFigures


class LayerNormOrder(Orders):
    """Of untrained networks of the same sizes, with LayerNorm before and after their sub-layers."""

    layers: list[int]
    gpt2_initialization: Orders


class InspectionUsage(BaseModel):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class InspectionAnswer(BaseModel):
    """An inspection."""

    object: Literal["inspection"]
    model: str
    dtype: Literal["float32"]
    conventions: list[str] = Field(description="What the figures mean.")
    tokens: list[InspectedToken]
    run: InspectedRun
    ablated: InspectedRun | None
    served: ServedNumbers | None
    layer_norm_order: LayerNormOrder | None = Field(None, description="Only there if asked for.")
    usage: InspectionUsage
    seconds: float


class ActivationSize(BaseModel):
    shape: list[int]
    bytes: int


class SummariesSize(BaseModel):
    bytes: int = Field(description="At most so many have the summaries of a run.")


class InspectionEstimate(BaseModel):
    """What an inspection's activations would have, if `estimate` asks for it."""

    object: Literal["inspection.estimate"]
    activations: dict[str, ActivationSize]
    summaries: SummariesSize
    bytes: int = Field(description="Of activations and summaries, in both runs if there are two.")
    limit_bytes: int
