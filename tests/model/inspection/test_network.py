"""The network looked into gives what the network itself gives, and every named value is what its formula says."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from model.gpt2 import GPT2, CausalAttention
from model.inspection.names import BLOCK_HOOKS, all_names, shape
from model.inspection.network import Changes, InspectedNetwork, Past
from tests.model.inspection.small import PROMPT, SIZES, small_network


@pytest.fixture(scope="module")
def network() -> GPT2:
    return small_network()


@pytest.fixture(scope="module")
def inspected(network: GPT2) -> InspectedNetwork:
    return InspectedNetwork(network)


def distance(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).norm() / theirs.norm())


@torch.no_grad()
@pytest.mark.parametrize("num_tokens", [1, 2, 17, 24])
def test_its_logits_are_the_networks(network: GPT2, inspected: InspectedNetwork, num_tokens: int) -> None:
    ids = torch.arange(num_tokens) * 4
    assert distance(inspected.run(ids.tolist()).logits, network(ids[None])[0]) <= 1e-5


def test_it_shares_the_networks_weights_and_leaves_it_as_it_was(network: GPT2, inspected: InspectedNetwork) -> None:
    before = {name: parameter.clone() for name, parameter in network.named_parameters()}
    inspected.run(PROMPT, all_names(SIZES), leaf="hook_embed")
    ours = dict(inspected.network.named_parameters())
    for name, parameter in network.named_parameters():
        assert ours[name].data_ptr() == parameter.data_ptr()
        assert parameter.equal(before[name])
        assert parameter.requires_grad
        assert parameter.grad is None


def test_every_point_has_its_shape_and_nothing_else_is_kept(inspected: InspectedNetwork) -> None:
    names = all_names(SIZES)
    activations = inspected.run(PROMPT, names).activations
    assert list(activations) == names
    assert len(names) == 2 + SIZES.n_layer * len(BLOCK_HOOKS) + 2
    for name, value in activations.items():
        assert value.shape == shape(name, SIZES, len(PROMPT)), name
    assert list(inspected.run(PROMPT, ["blocks.1.hook_mlp_out"]).activations) == ["blocks.1.hook_mlp_out"]


@torch.no_grad()
def test_every_value_is_what_its_formula_makes_of_those_before(network: GPT2, inspected: InspectedNetwork) -> None:
    """Of a block in the middle, by PyTorch's own functions and the network's own modules."""
    run = inspected.run(PROMPT, all_names(SIZES))
    value = {name.removeprefix("blocks.1."): x for name, x in run.activations.items() if "blocks.1." in name}
    block, heads = network.h[1], (len(PROMPT), SIZES.n_head, SIZES.head_dim)
    for norm, hook, read in ((block.ln_1, "ln1", "hook_resid_pre"), (block.ln_2, "ln2", "hook_resid_mid")):
        torch.testing.assert_close(value[f"{hook}.hook_normalized"], norm(value[read]))
        variance = value[read].var(-1, correction=0, keepdim=True)
        torch.testing.assert_close(value[f"{hook}.hook_scale"], (variance + SIZES.layer_norm_epsilon).sqrt())
    for name, x in zip("qkv", block.attn.c_attn(value["ln1.hook_normalized"]).chunk(3, -1), strict=True):
        torch.testing.assert_close(value[f"attn.hook_{name}"], x.view(heads))
    q, k, v = (value[f"attn.hook_{name}"].transpose(0, 1) for name in "qkv")
    seen = torch.ones(len(PROMPT), len(PROMPT), dtype=torch.bool).tril()
    scores = (q @ k.mT / math.sqrt(SIZES.head_dim)).masked_fill(~seen, -math.inf)
    torch.testing.assert_close(value["attn.hook_attn_scores"], scores)
    torch.testing.assert_close(value["attn.hook_pattern"], scores.softmax(-1))
    torch.testing.assert_close(value["attn.hook_z"].transpose(0, 1), F.scaled_dot_product_attention(q, k, v, is_causal=True))
    torch.testing.assert_close(value["hook_attn_out"], block.attn.c_proj(value["attn.hook_z"].flatten(1)))
    torch.testing.assert_close(value["hook_resid_mid"], value["hook_resid_pre"] + value["hook_attn_out"])
    torch.testing.assert_close(value["mlp.hook_pre"], block.mlp.c_fc(value["ln2.hook_normalized"]))
    torch.testing.assert_close(value["mlp.hook_post"], block.mlp.act(value["mlp.hook_pre"]))
    torch.testing.assert_close(value["hook_mlp_out"], block.mlp.c_proj(value["mlp.hook_post"]))
    torch.testing.assert_close(value["hook_resid_post"], value["hook_resid_mid"] + value["hook_mlp_out"])


@torch.no_grad()
def test_the_stream_begins_with_the_embeddings_and_ends_in_the_logits(network: GPT2, inspected: InspectedNetwork) -> None:
    run = inspected.run(PROMPT, all_names(SIZES))
    value = run.activations
    assert value["hook_embed"].equal(network.wte(torch.tensor(PROMPT)))
    assert value["hook_pos_embed"].equal(network.wpe.weight[: len(PROMPT)])
    assert value["blocks.0.hook_resid_pre"].equal(value["hook_embed"] + value["hook_pos_embed"])
    for layer in range(SIZES.n_layer - 1):
        assert value[f"blocks.{layer + 1}.hook_resid_pre"].equal(value[f"blocks.{layer}.hook_resid_post"])
    last = f"blocks.{SIZES.n_layer - 1}.hook_resid_post"
    torch.testing.assert_close(value["ln_final.hook_normalized"], network.ln_f(value[last]))
    torch.testing.assert_close(run.logits, value["ln_final.hook_normalized"] @ network.wte.weight.T)


@pytest.mark.parametrize("cuts", [(7,), (1, 1, 5), (4, 1, 1, 1)])
def test_tokens_that_follow_a_past_are_as_if_all_were_run_at_once(inspected: InspectedNetwork, cuts: tuple[int, ...]) -> None:
    whole, past, start = inspected.run(PROMPT), Past(SIZES, len(PROMPT)), 0
    for length in cuts:
        run = inspected.run(PROMPT[start : start + length], past=past)
        torch.testing.assert_close(run.logits, whole.logits[start : start + length])
        start += length
    assert past.num_tokens == len(PROMPT)


def test_a_leafs_gradient_is_that_of_the_network(network: GPT2, inspected: InspectedNetwork) -> None:
    """By the embeddings, with a past beside it, whose numbers are the same as without gradients."""
    past, plain = Past(SIZES, len(PROMPT) + 1), Past(SIZES, len(PROMPT) + 1)
    run = inspected.run(PROMPT, ["hook_embed"], past=past, leaf="hook_embed")
    embed = run.activations["hook_embed"]
    with torch.enable_grad():
        (ours,) = torch.autograd.grad(run.logits[4, 11], embed)
    theirs = torch.func.grad(lambda x: _logits(network, x)[4, 11])(network.wte(torch.tensor(PROMPT)).detach())
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    assert not ours[5:].any()
    inspected.run(PROMPT, past=plain)
    assert inspected.run([3], past=past).logits.equal(inspected.run([3], past=plain).logits)


def _logits(network: GPT2, embed: Tensor) -> Tensor:
    x = (embed + network.wpe.weight[: len(embed)])[None]
    for block in network.h:
        x = block(x, CausalAttention())
    return network.lm_head(network.ln_f(x))[0]


def test_watches_see_what_went_on_and_changes_act_in_their_order(inspected: InspectedNetwork) -> None:
    name, seen = "blocks.1.hook_resid_mid", list[Tensor]()
    changes = Changes({name: [lambda x, start: x * 0 + 3, lambda x, start: x + start + 1]})
    run = inspected.run(PROMPT, [name], changes, watches={name: [seen.append]})
    assert run.activations[name].equal(torch.full((len(PROMPT), SIZES.n_embd), 4.0))
    assert seen[0].equal(run.activations[name])
