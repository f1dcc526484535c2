"""What is asked of an inspection, as the JSON that the service sends to the process that inspects. Knows no tensors."""

from dataclasses import fields
from typing import Any

from model.inspection.request import (
    Ablation,
    AttentionPosition,
    AttentionWindow,
    HeadAblation,
    InspectionRequest,
    LayerNormAblation,
    MLPAblation,
    NoResidual,
    Patch,
    PositionEmbeddings,
    Steering,
)

Json = dict[str, Any]
# By what a request's body calls them.
KINDS: dict[str, type[Ablation]] = {
    "no_residual": NoResidual,
    "layer_norm": LayerNormAblation,
    "head": HeadAblation,
    "mlp": MLPAblation,
    "attention_window": AttentionWindow,
    "attention_position": AttentionPosition,
    "positions": PositionEmbeddings,
    "patch": Patch,
    "steer": Steering,
}
NAMES = {kind: name for name, kind in KINDS.items()}


def message_of(request: InspectionRequest) -> Json:
    """With the request's own values, tuples among them, which JSON has as lists: a patch may have 100,000 numbers."""
    ablations = [{"kind": NAMES[type(ablation)], **_fields(ablation)} for ablation in request.ablations]
    return {**_fields(request), "ablations": ablations}


def _fields(value: InspectionRequest | Ablation) -> Json:
    return {field.name: getattr(value, field.name) for field in fields(value)}


def request_of(message: Json) -> InspectionRequest:
    """The request that `message_of` was given."""
    ablations = tuple(ablation_of(**ablation) for ablation in message["ablations"])
    return InspectionRequest(**{name: frozen(value) for name, value in message.items()} | {"ablations": ablations})


def ablation_of(kind: str, **fields: Any) -> Ablation:  # any JSON values
    return KINDS[kind](**{name: frozen(value) for name, value in fields.items()})


def frozen(value: Any) -> Any:  # any JSON value
    """With tuples for lists, those within an object too."""
    if isinstance(value, dict):
        return {name: frozen(item) for name, item in value.items()}
    return tuple(map(frozen, value)) if isinstance(value, list) else value
