"""A request that a network cannot answer is refused before anything is computed, by field, value and limit."""

import dataclasses
import pickle
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings

from model.config import PRESETS
from model.inspection.checks import MAX_ACTIVATION_BYTES, MAX_PATCH_BYTES, check, check_size
from model.inspection.inspector import Inspector
from model.inspection.names import UnknownName, all_names, axes, expand, expand_all
from model.inspection.request import (
    SUMMARIES,
    Ablation,
    AttentionPosition,
    AttentionWindow,
    HeadAblation,
    InspectionError,
    LayerNormAblation,
    MLPAblation,
    NoResidual,
    Patch,
    PositionEmbeddings,
    Steering,
)
from model.inspection.sizes import TOKEN_BYTES, num_bytes, patches_bytes, sizes, summaries_bytes
from tests.model.inspection.drawing import ABLATIONS, values_of
from tests.model.inspection.small import SIZES, request, small_network

STREAM, SCORES, Z = "blocks.0.hook_resid_pre", "blocks.0.attn.hook_attn_scores", "blocks.2.attn.hook_z"


def test_a_pattern_is_every_name_it_fits_in_the_networks_order() -> None:
    assert expand("blocks.*.attn.hook_pattern", SIZES) == [f"blocks.{i}.attn.hook_pattern" for i in range(3)]
    assert expand("*", SIZES) == all_names(SIZES)
    assert expand_all(["ln_final.*", "hook_*", "hook_embed"], SIZES) == [
        "hook_embed",
        "hook_pos_embed",
        "ln_final.hook_scale",
        "ln_final.hook_normalized",
    ]
    assert axes("blocks.11.attn.hook_q") == "THD"
    assert expand("bl*0*pre", SIZES) == ["blocks.0.hook_resid_pre", "blocks.0.mlp.hook_pre"]
    for pattern in ("hook_embe?", "[h]ook_embed", "", "hook_embed*embed"):  # an asterisk is the one sign that stands for others
        with pytest.raises(UnknownName):
            expand(pattern, SIZES)


# The prompt has 7 tokens.
REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({"prompt": ()}, "prompt", "the number of tokens is 0; it must be from 1 to 24"),
    ({"prompt": (1,) * 25}, "prompt", "the number of tokens is 25; it must be from 1 to 24"),
    ({"prompt": (97,)}, "prompt", "the token id is 97; it must be from 0 to 96"),
    ({"names": ("hook_embed", "hook_embd")}, "names[1]", "'hook_embd' is no activation; the nearest is 'hook_embed'"),
    ({"names": ("blocks.1.atn.hook_q",)}, "names[0]", "the nearest is 'blocks.1.attn.hook_q'"),
    ({"names": ("blocks.3.hook_resid_pre",)}, "names[0]", "is of layer 3; the network has layers 0 to 2"),
    ({"names": ("blocks.*.q",)}, "names[0]", "no activation is called like 'blocks.*.q'"),
    ({"positions": (0, 7)}, "positions[1]", "the position is 7; it must be from -7 to 6"),
    ({"names": ("blocks.9" + "9" * 5000 + ".x",)}, "names[0]", "has 5,010 characters; a name has at most 200"),
    ({"names": ("*a" * 100_000,)}, "names[0]", "has 200,000 characters; a name has at most 200"),
    ({"names": ("blocks." + "9" * 190 + ".x",)}, "names[0]", "the network has layers 0 to 2"),
    ({"positions": ()}, "positions", "it is empty"),
    ({"positions": (0,) * 40_000}, "positions", "the number of positions is 40000; it must be from 1 to 7"),
    ({"positions": (6, 0, -1)}, "positions[2]", "the position 6 stands at positions[0] already; name it once"),
    ({"summaries": ("norms", "lens", "norms")}, "summaries[2]", "the summary norms stands at summaries[0] already"),
    ({"summaries": ("norm",)}, "summaries[0]", "'norm' is no summary; the nearest is 'norms'"),
    ({"prompt": (1,), "summaries": ("layer_norm_order",)}, "summaries[0]", "of one token there is none"),
    ({"top_n": 21}, "top_n", "it is 21; it must be from 1 to 20"),
    ({"target_position": -8}, "target_position", "the position is -8; it must be from -7 to 6"),
    ({"target_token": -1}, "target_token", "the token id is -1; it must be from 0 to 96"),
    ({"max_new_tokens": 65}, "max_new_tokens", "it is 65; it must be from 0 to 64"),
    ({"ablations": (NoResidual("mlp"),) * 33}, "ablations", "the number of ablations is 33; it must be from 0 to 32"),
]
REFUSED_ABLATIONS: list[tuple[Ablation, str, str]] = [
    (NoResidual("mlp", 3), "layer", "the layer is 3; it must be from 0 to 2"),
    (NoResidual("mlp", ()), "layer", "it is empty"),
    (LayerNormAblation("ln1", "identity", (0, -1)), "layer[1]", "the layer is -1; it must be from 0 to 2"),
    (LayerNormAblation("ln_final", "identity", 0), "layer", "'ln_final' is of no layer"),
    (MLPAblation((5,)), "layer[0]", "the layer is 5"),
    (MLPAblation((0,) * 250_000), "layer", "the number of them is 250000; it must be from 1 to 3"),
    (MLPAblation((1, 1)), "layer[1]", "the layer 1 stands at ablations[1].layer[0] already; name it once"),
    (AttentionWindow(1, head=(0,) * 100_000), "head", "the number of them is 100000; it must be from 1 to 4"),
    (Patch(STREAM, prompt=(1, 2), positions=(0, 0)), "positions[1]", "the position 0 stands at ablations[1].positions[0] already"),
    (Patch("*a" * 100_000, prompt=(1,)), "name", "is a pattern; it must name one activation"),
    (Patch("blocks." + "9" * 5000 + ".x", prompt=(1,)), "name", "has 5,009 characters; a name has at most 200"),
    (Patch(STREAM, values=((10**5000,) * 20,), positions=(0,)), "values", "one of the integers is no number of float32"),
    (Steering(STREAM, token=1, positions=(6, -1)), "positions[1]", "the position 6 stands at ablations[1].positions[0] already"),
    (HeadAblation(0, 4), "head", "the head is 4; it must be from 0 to 3"),
    (AttentionWindow(0), "size", "the size is 0; it must be from 1 to 24"),
    (AttentionWindow(1, 0, (1, 9)), "head[1]", "the head is 9"),
    (AttentionPosition(7), "position", "the position is 7; it must be from -7 to 6"),
    (PositionEmbeddings("shuffled", -1), "seed", "the seed is -1"),
    (Patch("hook_pos", prompt=(1,)), "name", "the nearest is 'hook_pos_embed'"),
    (Patch("*", prompt=(1,)), "name", "'*' is a pattern; it must name one activation"),
    (Patch(STREAM), "values", "one of prompt, values is needed; there is none"),
    (Patch(STREAM, prompt=(1,), values=(1.0,)), "values", "there are prompt and values"),
    (Patch(STREAM, prompt=()), "prompt", "the number of tokens is 0"),
    (Patch(STREAM, prompt=(1,), head=0), "head", f"'{STREAM}' has no axis of heads"),
    (Patch(Z, prompt=(1,), head=4), "head", "the head is 4; it must be from 0 to 3"),
    (Patch(STREAM, prompt=(1, 2), positions=(2,)), "positions[0]", "the position is 2; it must be from -2 to 1"),
    (Patch(STREAM, prompt=(1, 2), positions=(6,), from_positions=(2,)), "from_positions[0]", "must be from -2 to 1"),
    (Patch(STREAM, prompt=(1, 2), from_positions=(0, 1)), "from_positions", "2 positions are to be taken from, 0 to be put into"),
    (Patch(STREAM, prompt=(1, 2), positions=(0,), from_positions=(0, 1)), "from_positions", "from, 1 to be put into"),
    (Patch(SCORES, prompt=(1, 2), positions=(-1,)), "positions", "from the same positions alone"),
    (Patch(STREAM, values=((1.0,) * 20,) * 7, from_positions=(0,)), "from_positions", "given values are of no prompt"),
    (Patch(STREAM, values=((1.0,) * 20,) * 6), "values", "have the shape [6, 20]; they must have the shape [7, 20]"),
    (
        Patch(STREAM, values=((1.0,) * 20, (1.0,) * 19)),
        "values",
        "have rows of different lengths; they must have the shape [7, 20]",
    ),
    (Patch(STREAM, values=()), "values", "have the shape [0]"),
    (Patch(Z, values=((1.0,) * 5,) * 6, head=1), "values", "have the shape [6, 5]; they must have the shape [7, 5]"),
    (Patch(STREAM, values=((None,) * 20,), positions=(0,)), "values", "None is no number of float32"),
    (Patch(STREAM, values=((1e39,) * 20,), positions=(0,)), "values", "1e+39 is no number of float32"),
    (Patch(SCORES, values=values_of(SCORES, float("nan"))), "values", "nan is no number of float32"),
    (Steering(Z, token=1), "name", f"'{Z}' is not of 20 numbers a token"),
    (Steering(STREAM), "plus", "one of direction, token, plus is needed; there is none"),
    (Steering(STREAM, token=1, plus=(1,), minus=(2,)), "plus", "there are token and plus"),
    (Steering(STREAM, plus=(1,)), "minus", "needs both, plus and minus"),
    (Steering(STREAM, plus=(1,), minus=(97,)), "minus", "the token id is 97"),
    (Steering(STREAM, token=97), "token", "the token id is 97; it must be from 0 to 96"),
    (Steering(STREAM, direction=(1.0,) * 19), "direction", "have the shape [19]; they must have the shape [20]"),
    (Steering(STREAM, token=1, scale=float("inf")), "scale", "inf is no number of float32"),
    (Steering(STREAM, token=1, positions=(7,)), "positions[0]", "the position is 7; it must be from -7 to 6"),
]


@pytest.mark.parametrize(("fields", "field", "message"), REFUSED)
def test_what_cannot_be_answered_is_refused_by_its_field(fields: dict[str, Any], field: str, message: str) -> None:
    with pytest.raises(InspectionError) as refused:
        check(request(**fields), SIZES)
    assert refused.value.field == field
    assert message in refused.value.message
    assert len(refused.value.message) < 300, "what was sent is not sent back whole"


@pytest.mark.parametrize(("ablation", "field", "message"), REFUSED_ABLATIONS)
def test_an_ablation_that_cannot_be_is_refused_by_its_place(ablation: Ablation, field: str, message: str) -> None:
    with pytest.raises(InspectionError) as refused:
        check(request(ablations=(NoResidual("mlp"), ablation)), SIZES)
    assert refused.value.field == f"ablations[1].{field}"
    assert message in refused.value.message


@settings(max_examples=100, deadline=None)
@given(ABLATIONS)
def test_what_can_be_is_let_through(ablations: tuple[Ablation, ...]) -> None:
    check(request(names=("*",), ablations=ablations), SIZES)


def test_the_size_of_an_answer_is_told_before_it_is_computed() -> None:
    asked = request(names=("blocks.0.attn.hook_pattern", "hook_embed"), positions=(-1, 0))
    found = {name: (size.shape, size.num_bytes) for name, size in sizes(asked, SIZES).items()}
    assert found == {"hook_embed": ((2, 20), 160), "blocks.0.attn.hook_pattern": ((4, 2, 7), 224)}
    assert num_bytes(asked, SIZES) == 384
    both = request(names=asked.names, positions=asked.positions, ablations=(NoResidual("mlp"),))
    assert num_bytes(both, SIZES) == 2 * 384


def test_an_answer_that_would_be_too_large_is_refused_with_its_size_and_the_limit() -> None:
    asked = request(prompt=(1,) * 1024, names=("*",))
    check(asked, PRESETS["gpt2"])
    with pytest.raises(InspectionError) as refused:
        check_size(asked, PRESETS["gpt2"])
    assert refused.value.field == "names"
    assert f"{num_bytes(asked, PRESETS['gpt2']):,} bytes" in refused.value.message
    assert f"{MAX_ACTIVATION_BYTES:,}" in refused.value.message
    check_size(request(prompt=(1,) * 1024, names=("*",), positions=(-1,)), PRESETS["gpt2"])


def test_rows_of_another_prompt_may_be_taken_more_than_once() -> None:
    check(request(ablations=(Patch(STREAM, prompt=(1, 2), positions=(3, 4, 5), from_positions=(1, 1, -1)),)), SIZES)


@pytest.mark.parametrize("num_tokens", [2, 7])
def test_summaries_have_no_more_bytes_than_were_told(num_tokens: int) -> None:
    """Counted in a real answer: every number as four bytes, a token's text and names by their length in JSON over three."""
    asked = request(prompt=(5, 17, 5, 42, 8, 17, 91)[:num_tokens], summaries=SUMMARIES, top_n=20)
    inspector = Inspector(small_network())
    summaries = inspector.inspect(asked).run.summaries
    told = summaries.lens.top_ids.numel() if summaries.lens else 0
    assert told
    assert numbers_of(summaries) * 4 + told * (TOKEN_BYTES - 8) <= summaries_bytes(asked, SIZES)


def numbers_of(found: object) -> int:
    if isinstance(found, torch.Tensor):
        return found.numel()
    if isinstance(found, dict):
        return sum(map(numbers_of, found.values()))
    if dataclasses.is_dataclass(found):
        return sum(numbers_of(getattr(found, field.name)) for field in dataclasses.fields(found))
    return int(isinstance(found, int | float))


def test_summaries_that_would_be_too_large_are_refused() -> None:
    asked = request(prompt=(1,) * 1024, summaries=("lens",), top_n=20, ablations=(NoResidual("mlp"),))
    check(asked, PRESETS["gpt2-xl"])
    with pytest.raises(InspectionError) as refused:
        check_size(asked, PRESETS["gpt2-xl"])
    assert refused.value.field == "summaries"
    assert "ask for fewer summaries or positions" in refused.value.message
    check_size(replace(asked, top_n=5), PRESETS["gpt2-xl"])


def test_patches_that_would_fill_the_memory_are_refused() -> None:
    names = [f"blocks.{i}.attn.hook_pattern" for i in range(12)]
    asked = request(prompt=(1,) * 1024, ablations=tuple(Patch(name, prompt=(2,) * 1024) for name in names))
    assert patches_bytes(asked, PRESETS["gpt2"]) == 12 * 12 * 1024 * 1024 * 4 > MAX_PATCH_BYTES
    with pytest.raises(InspectionError) as refused:
        check_size(asked, PRESETS["gpt2"])
    assert refused.value.field == "ablations"
    assert f"{MAX_PATCH_BYTES:,}" in refused.value.message
    of_a_head = tuple(Patch(name, prompt=(2,) * 1024, head=3) for name in names)
    check_size(replace(asked, ablations=of_a_head), PRESETS["gpt2"])


def test_a_refusal_crosses_to_other_processes() -> None:
    error = pickle.loads(pickle.dumps(InspectionError("names[0]", "no")))
    assert (error.field, error.message, str(error)) == ("names[0]", "no", "no")


def test_requests_and_their_checks_need_no_torch() -> None:
    code = "import model.inspection.checks, sys; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
