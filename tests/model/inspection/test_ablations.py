"""What ablations do, each by itself and in any combination."""

import math

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from model.inspection.ablations import changes_of
from model.inspection.checks import check
from model.inspection.continuation import go_on
from model.inspection.names import all_names, axes
from model.inspection.network import InspectedNetwork, Past, Run
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
from tests.model.inspection.drawing import ABLATIONS, CAUSAL, T, values_of
from tests.model.inspection.small import PROMPT, SIZES, request, small_network

OTHER = (1, 2, 3, 4, 5)  # a prompt of another length
NETWORK = InspectedNetwork(small_network())
NAMES = all_names(SIZES)
PLAIN = NETWORK.run(PROMPT, NAMES)


def ablated(*ablations: Ablation, prompt: tuple[int, ...] = PROMPT) -> Run:
    asked = request(prompt=prompt, ablations=ablations)
    check(asked, SIZES)
    return NETWORK.run(prompt, NAMES, changes_of(NETWORK, asked))


def of_block(run: Run, layer: int) -> dict[str, Tensor]:
    at = f"blocks.{layer}."
    return {name.removeprefix(at): value for name, value in run.activations.items() if name.startswith(at)}


def assert_unchanged(run: Run) -> None:
    for name in NAMES:
        torch.testing.assert_close(run.activations[name], PLAIN.activations[name], msg=name)
    torch.testing.assert_close(run.logits, PLAIN.logits)


def test_without_its_residual_connection_a_branch_is_all_that_goes_on() -> None:
    block = of_block(ablated(NoResidual("attention", 1), NoResidual("mlp", (0, 2))), 1)
    assert block["hook_resid_mid"].equal(block["hook_attn_out"])
    assert block["hook_resid_post"].equal(block["hook_resid_mid"] + block["hook_mlp_out"])
    block = of_block(ablated(NoResidual("mlp")), 2)
    assert block["hook_resid_post"].equal(block["hook_mlp_out"])
    assert block["hook_resid_mid"].equal(block["hook_resid_pre"] + block["hook_attn_out"])


@torch.no_grad()
@pytest.mark.parametrize("mode", ["identity", "mean_only"])
@pytest.mark.parametrize("name", ["ln1", "ln2", "ln_final"])
def test_a_layer_norm_is_replaced(name: str, mode: str) -> None:
    run = ablated(LayerNormAblation(name, mode))
    last = {f"ln_final.{hook}": run.activations[f"ln_final.{hook}"] for hook in ("hook_scale", "hook_normalized")}
    block = of_block(run, SIZES.n_layer - 1) | last
    read = block[{"ln1": "hook_resid_pre", "ln2": "hook_resid_mid", "ln_final": "hook_resid_post"}[name]]
    last_block = NETWORK.network.h[-1]
    norm = {"ln1": last_block.ln_1, "ln2": last_block.ln_2, "ln_final": NETWORK.network.ln_f}[name]
    expected = read if mode == "identity" else (read - read.mean(-1, keepdim=True)) * norm.weight + norm.bias
    torch.testing.assert_close(block[f"{name}.hook_normalized"], expected)
    assert block[f"{name}.hook_scale"].eq(1).all()


def test_heads_are_taken_out_and_the_others_left_alone() -> None:
    z = of_block(ablated(HeadAblation(0, (1, 3))), 0)["attn.hook_z"]
    before = of_block(PLAIN, 0)["attn.hook_z"]
    assert not z[:, [1, 3]].any()
    assert z[:, [0, 2]].equal(before[:, [0, 2]])
    z = of_block(ablated(HeadAblation(0, 2, "mean")), 0)["attn.hook_z"]
    torch.testing.assert_close(z[:, 2], before[:, 2].mean(0).expand(T, -1))
    assert z[:, :2].equal(before[:, :2])


def test_mlps_are_taken_out() -> None:
    run = ablated(MLPAblation((0, 2)), MLPAblation(1, "mean"))
    assert not of_block(run, 0)["hook_mlp_out"].any()
    assert not of_block(run, 2)["hook_mlp_out"].any()
    mean = of_block(ablated(MLPAblation((0, 2))), 1)["hook_mlp_out"].mean(0)
    torch.testing.assert_close(of_block(run, 1)["hook_mlp_out"], mean.expand(T, -1))


def test_a_window_hides_what_is_further_back() -> None:
    pattern = of_block(ablated(AttentionWindow(2, layer=1, head=3)), 1)["attn.hook_pattern"]
    places = torch.arange(T)
    near = (places[:, None] - places < 2) & (places[:, None] >= places)
    assert pattern[3].gt(0).equal(near)
    assert pattern[0].equal(of_block(PLAIN, 1)["attn.hook_pattern"][0])


def test_one_position_is_all_that_is_seen_by_those_who_can() -> None:
    pattern = of_block(ablated(AttentionPosition(2)), 0)["attn.hook_pattern"]
    expected = torch.zeros(T, T)
    expected[0, 0] = expected[1, 1] = 1
    expected[2:, 2] = 1
    assert pattern.equal(expected.expand(SIZES.n_head, T, T))


def test_who_could_see_nothing_sees_itself() -> None:
    pattern = of_block(ablated(AttentionWindow(2), AttentionPosition(0)), 0)["attn.hook_pattern"]
    expected = torch.eye(T)
    expected[1] = expected[0]
    assert pattern.equal(expected.expand(SIZES.n_head, T, T))


def test_position_embeddings_are_left_out_or_dealt_out_anew() -> None:
    name = "hook_pos_embed"
    before = PLAIN.activations[name]
    assert not ablated(PositionEmbeddings("none")).activations[name].any()
    shuffled = ablated(PositionEmbeddings("shuffled", 1)).activations[name]
    assert not shuffled.equal(before)
    assert sorted(shuffled.tolist()) == sorted(before.tolist())
    assert shuffled.equal(ablated(PositionEmbeddings("shuffled", 1)).activations[name])
    assert not shuffled.equal(ablated(PositionEmbeddings("shuffled", 2)).activations[name])


@pytest.mark.parametrize("name", NAMES)
def test_another_prompts_activation_comes_in_place_of_this_ones(name: str) -> None:
    """At all positions that both have; of scores and patterns no query sees keys that its own prompt had not."""
    source = NETWORK.run(OTHER, NAMES).activations[name]
    patched, common = ablated(Patch(name, prompt=OTHER)).activations[name], len(OTHER)
    if axes(name) == "HTT":
        hidden = -math.inf if name.endswith("scores") else 0.0
        assert patched[:, :common, :common].equal(source)
        assert patched[:, :common, common:].eq(hidden).all()
    else:
        assert patched[:common].equal(source)
    assert patched.equal(PLAIN.activations[name]) == (name == "hook_pos_embed")  # which no token bears on


def test_a_patch_takes_the_positions_and_the_head_it_names() -> None:
    name, source = "blocks.1.attn.hook_v", NETWORK.run(OTHER, NAMES).activations["blocks.1.attn.hook_v"]
    patched = ablated(Patch(name, prompt=OTHER, positions=(-1, 0), from_positions=(-2, 4), head=2)).activations[name]
    expected = PLAIN.activations[name].clone()
    expected[T - 1, 2], expected[0, 2] = source[3, 2], source[4, 2]
    assert patched.equal(expected)
    last = ablated(Patch("blocks.0.hook_resid_post", prompt=OTHER, positions=(-1,))).activations["blocks.0.hook_resid_post"]
    assert last[-1].equal(NETWORK.run(OTHER, NAMES).activations["blocks.0.hook_resid_post"][-1])


@pytest.mark.parametrize("name", [name for name in NAMES if "blocks.1" in name])
def test_given_numbers_come_in_place_of_an_activation(name: str) -> None:
    assert ablated(Patch(name, values=values_of(name, 0.5))).activations[name].eq(0.5).all()


def test_given_scores_may_be_masked() -> None:
    rows = tuple(((0.0, None, 1.0, *[None] * (T - 3)),) for _ in range(SIZES.n_head))
    pattern = of_block(ablated(Patch("blocks.0.attn.hook_attn_scores", values=rows, positions=(-1,))), 0)["attn.hook_pattern"]
    torch.testing.assert_close(pattern[:, -1, :3], torch.tensor([1.0, 0.0, math.e]).expand(4, 3) / (1 + math.e))
    assert not pattern[:, -1, 3:].any()
    one = ablated(Patch("blocks.0.attn.hook_attn_scores", values=rows[0], positions=(-1,), head=1))
    assert of_block(one, 0)["attn.hook_pattern"][1, -1].equal(pattern[1, -1])
    assert of_block(one, 0)["attn.hook_pattern"][0].equal(of_block(PLAIN, 0)["attn.hook_pattern"][0])


@torch.no_grad()
def test_a_direction_is_added() -> None:
    name = "blocks.1.hook_resid_pre"
    before, unembedding = PLAIN.activations[name], NETWORK.network.wte.weight
    token = ablated(Steering(name, token=9, scale=-2.0)).activations[name]
    torch.testing.assert_close(token, before - 2 * unembedding[9])
    given_numbers = tuple(float(i) for i in range(SIZES.n_embd))
    at_two = ablated(Steering(name, direction=given_numbers, positions=(1, -1))).activations[name]
    assert at_two[2:-1].equal(before[2:-1])
    torch.testing.assert_close(at_two[[1, -1]], before[[1, -1]] + torch.arange(SIZES.n_embd))
    plus, minus = (NETWORK.run(prompt, [name]).activations[name][-1] for prompt in (OTHER, PROMPT))
    between = ablated(Steering(name, plus=OTHER, minus=PROMPT, scale=0.5)).activations[name]
    torch.testing.assert_close(between, before + 0.5 * (plus - minus))


@pytest.mark.parametrize(
    "ablations",
    [
        (AttentionWindow(T), AttentionWindow(24, 0, 1)),
        (Steering("blocks.0.hook_attn_out", token=1, scale=0.0),),
        tuple(Patch(name, prompt=PROMPT) for name in NAMES[:32]),
        (Patch("ln_final.hook_scale", prompt=(*PROMPT, 3)),),
    ],
    ids=["windows as long as the prompt", "directions of no length", "patches of itself", "of a prompt that begins as it does"],
)
def test_what_changes_nothing_changes_nothing(ablations: tuple[Ablation, ...]) -> None:
    assert_unchanged(ablated(*ablations))


def recomputed(ablations: tuple[Ablation, ...], max_new_tokens: int) -> tuple[list[int], list[float]]:
    """The continuation, each token by running all before it anew."""
    token_ids, logprobs = list(PROMPT), list[float]()
    changes = changes_of(NETWORK, request(ablations=ablations))
    while len(logprobs) < max_new_tokens and (not logprobs or token_ids[-1] not in SIZES.eos_token_ids):
        best = NETWORK.run(token_ids, changes=changes).logits[-1].log_softmax(-1).max(-1)
        token_ids.append(int(best.indices))
        logprobs.append(float(best.values))
    return token_ids[T:], logprobs


FEW = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])


@FEW
@given(ABLATIONS)
def test_a_continuation_is_what_running_all_tokens_anew_gives(ablations: tuple[Ablation, ...]) -> None:
    past, changes = Past(SIZES, T + 6), changes_of(NETWORK, request(ablations=ablations))
    run = NETWORK.run(PROMPT, changes=changes, past=past)
    assume(run.logits.isfinite().all())
    ours = go_on(NETWORK, run, past, changes, 6)
    token_ids, logprobs = recomputed(ablations, 6)
    assert list(ours.token_ids) == token_ids
    assert list(ours.logprobs) == pytest.approx(logprobs, rel=1e-3, abs=1e-3)


@FEW
@given(ABLATIONS)
def test_any_ablations_go_together(ablations: tuple[Ablation, ...]) -> None:
    run = ablated(*ablations)
    for name, value in run.activations.items():
        assert not value.isnan().any(), name
        assert value.isfinite().all() or name.endswith("scores"), name
    assert run.logits.isfinite().all()


@FEW
@given(CAUSAL, st.integers(0, T - 1), st.integers(0, SIZES.vocab_size - 1))
def test_a_later_token_changes_nothing_before_it(ablations: tuple[Ablation, ...], place: int, token_id: int) -> None:
    changed = (*PROMPT[:place], token_id, *PROMPT[place + 1 :])
    before, after = ablated(*ablations), ablated(*ablations, prompt=changed)
    for name in NAMES:
        one, other = before.activations[name], after.activations[name]
        if axes(name) == "HTT":
            one, other = one.transpose(0, 1), other.transpose(0, 1)
        torch.testing.assert_close(one[:place], other[:place], msg=name)
