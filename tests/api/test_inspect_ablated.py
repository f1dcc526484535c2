"""POST /v1/inspect with ablations: each is the inspector's own, beside the network as it is."""

import pytest

from model.inspection.request import (
    AttentionPosition,
    AttentionWindow,
    HeadAblation,
    LayerNormAblation,
    MLPAblation,
    NoResidual,
    Patch,
    PositionEmbeddings,
    Steering,
)
from tests.api.inspections import STREAM, alike, ids_of, inspect, inspector, own_answer, tokenizer, without_measurements

__all__ = ["ids_of", "inspect", "inspector", "own_answer", "tokenizer"]  # fixtures

DIRECTION = [0.5, -0.5] * 50
ABLATIONS = {
    "no_residual": ({"branch": "attention", "layer": 1}, lambda ids: NoResidual("attention", 1)),
    "layer_norm": ({"name": "ln1", "mode": "mean_only"}, lambda ids: LayerNormAblation("ln1", "mean_only")),
    "head": ({"layer": [0, 1], "head": 2, "mode": "mean"}, lambda ids: HeadAblation((0, 1), 2, "mean")),
    "mlp": ({"layer": 0}, lambda ids: MLPAblation(0)),
    "attention_window": ({"size": 2, "head": [0, 3]}, lambda ids: AttentionWindow(2, head=(0, 3))),
    "attention_position": ({"position": 1}, lambda ids: AttentionPosition(1)),
    "positions": ({"mode": "shuffled", "seed": 3}, lambda ids: PositionEmbeddings("shuffled", 3)),
    "patch": (
        {"name": STREAM, "prompt": "A stone is not the sea", "positions": [1, 2], "from_positions": [2, 1]},
        lambda ids: Patch(STREAM, ids("A stone is not the sea"), positions=(1, 2), from_positions=(2, 1)),
    ),
    "patch, by values": (
        {"name": STREAM, "values": [DIRECTION], "positions": [1]},
        lambda ids: Patch(STREAM, values=(tuple(DIRECTION),), positions=(1,)),
    ),
    "steer, by a direction": (
        {"name": STREAM, "direction": DIRECTION, "scale": 2}, lambda ids: Steering(STREAM, tuple(DIRECTION), scale=2.0),
    ),
    "steer, by a token": ({"name": STREAM, "token": "e"}, lambda ids: Steering(STREAM, token=ids("e")[0])),
    "steer, by two texts": (
        {"name": STREAM, "plus": "the sea", "minus": [1, 2], "positions": [0]},
        lambda ids: Steering(STREAM, plus=ids("the sea"), minus=(1, 2), positions=(0,)),
    ),
}  # fmt: skip


@pytest.mark.row(
    "inspect.ablations", "inspect.no_residual", "inspect.layer_norm", "inspect.head", "inspect.mlp", "inspect.attention_window",
    "inspect.attention_position", "inspect.position_embeddings", "inspect.patch", "inspect.steer",
)  # fmt: skip
@pytest.mark.parametrize("name", ABLATIONS)
def test_each_ablation_is_the_inspectors_own_beside_the_network_as_it_is(inspect, own_answer, ids_of, name):
    fields, make = ABLATIONS[name]
    answer = inspect(ablations=[{"kind": name.partition(",")[0], **fields}])
    own = own_answer(ablations=(make(ids_of),))
    assert own["ablated"]["loss"] != pytest.approx(own["run"]["loss"]), "it changes something"
    assert alike(without_measurements(answer), without_measurements(own))


def test_ablations_add_up(inspect, own_answer):
    answer = inspect(ablations=[{"kind": "head", "layer": 0, "head": 1}, {"kind": "mlp", "layer": 1}])
    own = own_answer(ablations=(HeadAblation(0, 1), MLPAblation(1)))
    assert alike(without_measurements(answer), without_measurements(own))
