"""Every activation against transformers' GPT-2 on the same checkpoint, caught by hooks on its modules."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import GPT2LMHeadModel

from model.checkpoint import load_config, load_tokenizer
from model.inspection.names import all_names, shape
from model.inspection.network import InspectedNetwork
from model.network_files import load_model

DEFAULT = Path(__file__).parents[3] / "model" / "default"
TEXT = "The cat sat on the mat, and the dog, who had never seen a cat before, sat down beside it. The cat sat still."
TOLERANCE = 1e-5  # relative, in float32


@pytest.fixture(scope="module", params=["tiny", "default"])
def directory(request: pytest.FixtureRequest, tiny_checkpoint: Path) -> Path:
    return tiny_checkpoint if request.param == "tiny" else DEFAULT


@torch.inference_mode()
def test_every_activation_is_that_of_transformers(directory: Path) -> None:
    config, token_ids = load_config(directory), load_tokenizer(directory).encode(TEXT)
    run = InspectedNetwork(load_model(directory)).run(token_ids, all_names(config))
    theirs = activations_of_transformers(directory, token_ids)
    assert list(run.activations) == all_names(config)
    assert theirs.keys() == run.activations.keys() | {"logits"}
    for name, activation in run.activations.items():
        assert activation.shape == theirs[name].shape == shape(name, config, len(token_ids)), name
        assert relative_error(activation, theirs[name]) <= TOLERANCE, name
    assert relative_error(run.logits, theirs["logits"]) <= TOLERANCE


def relative_error(ours: Tensor, theirs: Tensor) -> float:
    """Of all numbers that are seen; the same are masked in both."""
    seen = theirs.isfinite()
    assert torch.equal(ours.isfinite(), seen)
    ours, theirs = ours[seen].double(), theirs[seen].double()
    return float((ours - theirs).norm() / theirs.norm())


def activations_of_transformers(directory: Path, token_ids: list[int]) -> dict[str, Tensor]:
    """By TransformerLens' names, without the axis of texts."""
    model = GPT2LMHeadModel.from_pretrained(directory, dtype=torch.float32, attn_implementation="eager").eval()
    caught = catch(model, token_ids)
    transformer, heads = model.transformer, (len(token_ids), model.config.n_head, -1)
    found = {"hook_embed": caught["wte"], "hook_pos_embed": caught["wpe"], "logits": caught["lm_head"]}
    for layer in range(model.config.n_layer):
        block, at = f"h.{layer}", f"blocks.{layer}"
        q, k, v = (x.view(heads) for x in caught[f"{block}.attn.c_attn"].chunk(3, dim=-1))
        scores = torch.einsum("qhd,khd->hqk", q, k) / q.shape[-1] ** 0.5
        hidden = torch.ones(scores.shape[-2:]).triu(1).bool()
        found |= {f"{at}.attn.hook_{name}": x for name, x in (("q", q), ("k", k), ("v", v))}
        found |= {
            f"{at}.attn.hook_attn_scores": scores.masked_fill(hidden, -torch.inf),
            f"{at}.attn.hook_pattern": caught[f"{block}.pattern"],
            f"{at}.attn.hook_z": caught[f"{block}.attn.c_proj.input"].view(heads),
            f"{at}.hook_resid_pre": caught[f"{block}.input"],
            f"{at}.hook_attn_out": caught[f"{block}.attn.c_proj"],
            f"{at}.hook_resid_mid": caught[f"{block}.ln_2.input"],
            f"{at}.mlp.hook_pre": caught[f"{block}.mlp.c_fc"],
            f"{at}.mlp.hook_post": caught[f"{block}.mlp.c_proj.input"],
            f"{at}.hook_mlp_out": caught[f"{block}.mlp.c_proj"],
            f"{at}.hook_resid_post": caught[f"{block}"],
            **normalized(f"{at}.ln1", caught, f"{block}.ln_1", transformer),
            **normalized(f"{at}.ln2", caught, f"{block}.ln_2", transformer),
        }
    return found | normalized("ln_final", caught, "ln_f", transformer)


def catch(model: GPT2LMHeadModel, token_ids: list[int]) -> dict[str, Tensor]:
    """What goes into each module, `.input`, and what comes out of it, by its name in the checkpoint; of blocks the `.pattern`."""
    caught: dict[str, Tensor] = {}

    def catching(name: str) -> Callable[[nn.Module, tuple[Any, ...], Any], None]:
        def hook(module: nn.Module, given: tuple[Any, ...], result: Any) -> None:
            if given and given[0].is_floating_point():
                caught[f"{name}.input"] = given[0].squeeze(0)
            caught[name] = (result[0] if isinstance(result, tuple) else result).squeeze(0)

        return hook

    modules = [*model.transformer.named_modules(), ("lm_head", model.lm_head)]
    wanted = re.compile(r"wte|wpe|ln_f|lm_head|h\.\d+(|\.ln_.|\.attn\.c_\w+|\.mlp\.c_\w+)")
    handles = [module.register_forward_hook(catching(name)) for name, module in modules if wanted.fullmatch(name)]
    try:
        output = model(torch.tensor([token_ids]), output_attentions=True)
    finally:
        for handle in handles:
            handle.remove()
    return caught | {f"h.{layer}.pattern": pattern[0] for layer, pattern in enumerate(output.attentions)}


def normalized(name: str, caught: dict[str, Tensor], theirs: str, transformer: nn.Module) -> dict[str, Tensor]:
    """A LayerNorm's result, and the scale, which transformers keeps to itself."""
    variance = caught[f"{theirs}.input"].var(dim=-1, correction=0, keepdim=True)
    eps = transformer.get_submodule(theirs).eps
    return {f"{name}.hook_scale": (variance + eps).sqrt(), f"{name}.hook_normalized": caught[theirs]}
