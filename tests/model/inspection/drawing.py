"""Any ablations, drawn by hypothesis, that the small network can be asked for."""

from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

from model.inspection.names import all_names, axes, head_axis, shape
from model.inspection.request import (
    Ablation,
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
from tests.model.inspection.small import PROMPT, SIZES

Draw = Callable[[st.SearchStrategy[Any]], Any]

T = len(PROMPT)
PROMPTS = st.lists(st.integers(0, SIZES.vocab_size - 1), min_size=1, max_size=SIZES.n_positions).map(tuple)
MODES = st.sampled_from(["zero", "mean"])


def some(count: int) -> st.SearchStrategy[Any]:
    """All, one or several of the layers or heads."""
    one = st.integers(0, count - 1)
    return st.none() | one | st.lists(one, min_size=1, max_size=count, unique=True).map(tuple)


LAYERS, HEADS = some(SIZES.n_layer), some(SIZES.n_head)
POSITIONS = st.none() | st.lists(st.integers(-T, T - 1), min_size=1, max_size=4, unique_by=lambda i: i % T).map(tuple)
NAMES = st.sampled_from(all_names(SIZES))
STREAMS = NAMES.filter(lambda name: axes(name) == "TC")

NARROWED = st.builds(AttentionWindow, st.integers(1, SIZES.n_positions), LAYERS, HEADS) | st.builds(
    AttentionPosition, st.integers(-T, T - 1), LAYERS, HEADS
)
TAKEN_OUT = st.one_of(
    st.builds(NoResidual, st.sampled_from(["attention", "mlp"]), LAYERS),
    st.builds(LayerNormAblation, st.sampled_from(["ln1", "ln2"]), st.sampled_from(["identity", "mean_only"]), LAYERS),
    st.builds(LayerNormAblation, st.just("ln_final"), st.sampled_from(["identity", "mean_only"])),
    st.builds(HeadAblation, LAYERS, HEADS, st.just("zero")),
    st.builds(MLPAblation, LAYERS, st.just("zero")),
    NARROWED,
    st.builds(PositionEmbeddings, st.sampled_from(["none", "shuffled"]), st.integers(0, 9)),
)
MEANS = st.builds(HeadAblation, LAYERS, HEADS, st.just("mean")) | st.builds(MLPAblation, LAYERS, st.just("mean"))
STEERED = st.one_of(
    st.builds(Steering, STREAMS, token=st.integers(0, 96), scale=st.floats(-5, 5), positions=POSITIONS),
    st.builds(Steering, STREAMS, plus=PROMPTS, minus=PROMPTS, scale=st.floats(-5, 5), positions=POSITIONS),
)


@st.composite
def patches(draw: Draw) -> Patch:
    """Of scales nothing is taken: another prompt's may be far too small for this one."""
    name = draw(NAMES.filter(lambda name: not name.endswith("scale")))
    head = draw(st.none() | st.integers(0, SIZES.n_head - 1)) if head_axis(name) is not None else None
    prompt = draw(PROMPTS)
    common = min(T, len(prompt))
    positions = draw(st.none() | st.lists(st.integers(0, common - 1), min_size=1, max_size=3, unique=True).map(tuple))
    return Patch(name, prompt=prompt, positions=positions, head=head)


def values_of(name: str, number: float) -> Any:
    """That number everywhere, nested as the activation is."""

    def nested(dimensions: tuple[int, ...]) -> Any:
        return tuple(nested(dimensions[1:]) for _ in range(dimensions[0])) if dimensions else number

    return nested(shape(name, SIZES, T))


CAUSAL = st.lists(TAKEN_OUT | STEERED, max_size=4).map(tuple)  # nothing of later tokens comes to earlier ones
ABLATIONS: st.SearchStrategy[tuple[Ablation, ...]] = st.lists(TAKEN_OUT | MEANS | STEERED | patches(), max_size=5).map(tuple)
