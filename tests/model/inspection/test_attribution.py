"""Shares of a logit: each is what its part writes, and they add up to the logit, whatever was done to the stream."""

from pathlib import Path

import pytest
from torch import Tensor

from model.checkpoint import load_tokenizer
from model.inspection.attribution import Attribution, attribution
from model.inspection.inspector import Inspector
from model.inspection.names import all_names
from model.inspection.network import InspectedNetwork
from model.inspection.request import (
    Ablation,
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
from model.network_files import load_model
from tests.model.inspection.networks import HEADS, LAYERS, random_network, random_tokens

DEFAULT = Path(__file__).parents[3] / "model" / "default"
TOKENS, OTHERS = random_tokens(12), random_tokens(12, seed=2)
DIRECTION = tuple(random_network().network.wte.weight[3].tolist())


@pytest.fixture(scope="module")
def inspector() -> Inspector:
    return Inspector(random_network().network)


def shares_of(inspector: Inspector, *ablations: Ablation, position: int = -1) -> Attribution:
    request = InspectionRequest(
        TOKENS, summaries=("attribution",), ablations=ablations, max_new_tokens=0, target_position=position, target_token=7
    )
    found = inspector.inspect(request)
    shares = (found.ablated or found.run).summaries.attribution
    assert shares is not None
    return shares


@pytest.mark.parametrize("checkpoint", ["tiny", "default"])
def test_they_add_up_to_the_logit_of_any_token_anywhere(checkpoint: str, tiny_checkpoint: Path) -> None:
    directory = tiny_checkpoint if checkpoint == "tiny" else DEFAULT
    network = InspectedNetwork(load_model(directory))
    token_ids = load_tokenizer(directory).encode("The cat sat on the mat. The cat sat on the")
    run = network.run(token_ids, all_names(network.config))
    for position in range(0, len(token_ids), 3):
        for token_id in (0, 17, token_ids[2], int(run.logits[position].argmax())):
            logit = float(run.logits[position, token_id])
            shares = attribution(network.network, run.activations, logit, position, token_id)
            assert shares.sum == pytest.approx(logit, abs=1e-4)
            assert shares.interventions == 0


def test_each_share_is_what_its_part_writes_through_the_last_layer_norm(inspector: Inspector) -> None:
    network = inspector.network.network
    run = inspector.network.run(TOKENS, all_names(inspector.config))
    shares = attribution(network, run.activations, 0.0, 4, 7)

    def share(part: Tensor) -> float:
        scale = run.activations["ln_final.hook_scale"][4]
        return float((part - part.mean()) / scale * network.ln_f.weight @ network.wte.weight[7])

    assert shares.embed == pytest.approx(share(run.activations["hook_embed"][4]), abs=1e-5)
    assert shares.pos_embed == pytest.approx(share(run.activations["hook_pos_embed"][4]), abs=1e-5)
    assert shares.ln_final_bias == pytest.approx(float(network.ln_f.bias @ network.wte.weight[7]), abs=1e-5)
    for layer in range(LAYERS):
        weight, bias = (network.get_parameter(f"h.{layer}.attn.c_proj.{kind}") for kind in ("weight", "bias"))
        assert float(shares.mlps[layer]) == pytest.approx(share(run.activations[f"blocks.{layer}.hook_mlp_out"][4]), abs=1e-5)
        assert float(shares.attention_biases[layer]) == pytest.approx(share(bias), abs=1e-5)
        for head in range(HEADS):
            z = run.activations[f"blocks.{layer}.attn.hook_z"][4].clone()
            z[[other for other in range(HEADS) if other != head]] = 0
            assert float(shares.heads[layer, head]) == pytest.approx(share(weight @ z.flatten()), abs=1e-5)


CHANGES: dict[str, tuple[Ablation, ...]] = {
    "residual of attention": (NoResidual("attention", 1),),
    "residual of an MLP": (NoResidual("mlp", 1),),
    "all residuals": (NoResidual("attention"), NoResidual("mlp")),
    "last LayerNorm, identity": (LayerNormAblation("ln_final", "identity"),),
    "last LayerNorm, mean only": (LayerNormAblation("ln_final", "mean_only"),),
    "LayerNorms within": (LayerNormAblation("ln1", "mean_only"), LayerNormAblation("ln2", "identity", 2)),
    "heads": (HeadAblation(1, (0, 2)), HeadAblation(2, None, "mean")),
    "MLPs": (MLPAblation(0), MLPAblation(2, "mean")),
    "attention": (AttentionWindow(2),),
    "no positions": (PositionEmbeddings("none"),),
    "shuffled positions": (PositionEmbeddings("shuffled", 3),),
    "patch of hook_pos_embed": (Patch("hook_pos_embed", prompt=OTHERS, positions=(-1,), from_positions=(2,)),),
    **{
        f"patch of {name}": (Patch(name, prompt=OTHERS),)
        for name in (
            "hook_embed",
            "blocks.1.hook_resid_pre",
            "blocks.1.hook_resid_mid",
            "blocks.2.hook_resid_post",
            "blocks.1.hook_attn_out",
            "blocks.1.hook_mlp_out",
            "blocks.1.attn.hook_z",
            "blocks.1.attn.hook_pattern",
            "ln_final.hook_scale",
            "ln_final.hook_normalized",
        )
    },
    **{
        f"direction at {name}": (Steering(name, direction=DIRECTION, scale=3.0),)
        for name in (
            "hook_embed",
            "blocks.0.hook_resid_pre",
            "blocks.1.hook_resid_mid",
            "blocks.2.hook_resid_post",
            "blocks.1.hook_attn_out",
            "blocks.1.hook_mlp_out",
            "blocks.1.ln1.hook_normalized",
            "ln_final.hook_normalized",
        )
    },
    "a patch, then a direction": (
        Patch("blocks.1.hook_resid_pre", prompt=OTHERS),
        Steering("blocks.1.hook_resid_pre", token=5),
        NoResidual("mlp", 2),
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_they_add_up_to_the_changed_run_s_logit(inspector: Inspector, change: str) -> None:
    shares = shares_of(inspector, *CHANGES[change])
    assert shares.sum == pytest.approx(shares.logit, abs=1e-4)
    assert shares.logit != pytest.approx(shares_of(inspector).logit, abs=1e-3), "the change has to matter"


def test_what_a_residual_left_out_drops_has_no_share(inspector: Inspector) -> None:
    shares = shares_of(inspector, NoResidual("attention", 1))
    assert shares.embed == shares.pos_embed == shares.interventions == 0
    assert not shares.heads[0].any()
    assert not shares.mlps[0].any()
    assert shares.heads[1:].all()
    assert shares.mlps[1:].all()


def test_an_mlp_s_residual_left_out_drops_its_own_layer_s_attention_too(inspector: Inspector) -> None:
    shares = shares_of(inspector, NoResidual("mlp", 1))
    assert not shares.heads[:2].any()
    assert not shares.attention_biases[:2].any()
    assert shares.mlps[1] != 0


def test_a_patched_stream_is_an_intervention_and_nothing_before_it_counts(inspector: Inspector) -> None:
    shares = shares_of(inspector, Patch("blocks.2.hook_resid_pre", prompt=OTHERS))
    assert shares.interventions != 0
    assert shares.embed == 0
    assert not shares.heads[:2].any()
    assert shares.heads[2].all()


def test_a_patch_at_another_position_leaves_the_stream_s_parts_their_shares(inspector: Inspector) -> None:
    shares = shares_of(inspector, Patch("blocks.2.hook_resid_pre", prompt=OTHERS, positions=(3,)))
    assert shares.interventions == 0
    assert shares.embed != 0
    assert shares.sum == pytest.approx(shares.logit, abs=1e-4)


def test_a_negative_position_of_a_patch_is_counted_from_the_end(inspector: Inspector) -> None:
    shares = shares_of(inspector, Patch("blocks.2.hook_resid_pre", prompt=OTHERS, positions=(-1,)))
    assert shares.interventions != 0
    assert shares.sum == pytest.approx(shares.logit, abs=1e-4)


def test_a_direction_is_an_intervention_beside_the_parts(inspector: Inspector) -> None:
    shares = shares_of(inspector, Steering("blocks.1.hook_resid_mid", direction=DIRECTION, scale=2.0))
    assert shares.embed != 0
    assert shares.interventions != 0


def test_heads_whose_sum_is_patched_have_no_share(inspector: Inspector) -> None:
    shares = shares_of(inspector, Patch("blocks.1.hook_attn_out", prompt=OTHERS))
    assert not shares.heads[1].any()
    assert shares.attention_biases[1] == 0
    assert shares.heads[0].all()
    assert shares.interventions != 0


@pytest.mark.parametrize(
    "name", ["hook_embed", "hook_pos_embed", "blocks.1.hook_attn_out", "blocks.1.hook_resid_mid", "blocks.1.hook_mlp_out"]
)
def test_a_direction_has_the_same_share_wherever_it_joins_the_stream(inspector: Inspector, name: str) -> None:
    """Its product with the unembedding through the last LayerNorm, by the scale that the run divided by."""
    request = InspectionRequest(
        TOKENS,
        names=("ln_final.hook_scale",),
        summaries=("attribution",),
        ablations=(Steering(name, direction=DIRECTION, scale=3.0),),
        max_new_tokens=0,
        target_token=7,
    )
    found = inspector.inspect(request).ablated
    assert found is not None
    assert found.summaries.attribution is not None
    network = inspector.network.network
    unembedding = network.ln_f.weight * network.wte.weight[7]
    expected = 3 * Tensor(DIRECTION) @ (unembedding - unembedding.mean()) / found.activations["ln_final.hook_scale"][-1]
    assert found.summaries.attribution.interventions == pytest.approx(float(expected), abs=1e-4)
    assert abs(float(expected)) > 0.01


def test_a_part_that_is_patched_has_no_share(inspector: Inspector) -> None:
    def of(*ablations: Ablation) -> Attribution:
        shares = shares_of(inspector, *ablations)
        assert shares.sum == pytest.approx(shares.logit, abs=1e-4)
        return shares

    assert of(Patch("hook_embed", prompt=OTHERS)).embed == 0
    assert of(Patch("hook_pos_embed", prompt=OTHERS, positions=(-1,), from_positions=(2,))).pos_embed == 0
    mlps = of(Patch("blocks.1.hook_mlp_out", prompt=OTHERS))
    assert mlps.mlps[1] == 0 != mlps.mlps[2]
    heads = of(Patch("blocks.1.attn.hook_z", prompt=OTHERS, head=2))
    assert heads.heads[1, 2] == 0 != heads.heads[1, 1]
    for shares in (mlps, heads):
        assert shares.interventions != 0


def test_an_ablation_after_a_direction_acts_on_it_too(inspector: Inspector) -> None:
    name = "blocks.2.hook_mlp_out"
    direction = Steering(name, direction=DIRECTION, scale=3.0)
    assert shares_of(inspector, direction, MLPAblation(2)).interventions == 0
    alone = shares_of(inspector, direction, MLPAblation(2, "mean"))
    assert alone.sum == pytest.approx(alone.logit, abs=1e-4)
    assert alone.interventions != 0
    assert shares_of(inspector, direction, Patch(name, prompt=OTHERS)).mlps[2] == 0


def test_the_run_without_changes_knows_nothing_of_them(inspector: Inspector) -> None:
    def of(*ablations: Ablation) -> Attribution | None:
        request = InspectionRequest(TOKENS, summaries=("attribution",), ablations=ablations, max_new_tokens=0, target_token=7)
        return inspector.inspect(request).run.summaries.attribution

    plain, beside = of(), of(Patch("blocks.2.hook_resid_pre", prompt=OTHERS), Steering("hook_embed", token=3))
    assert plain is not None
    assert beside is not None
    assert beside.interventions == 0
    assert (beside.embed, beside.sum) == (plain.embed, plain.sum)
