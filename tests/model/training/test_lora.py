"""LoRA beside a network's projections: what it leaves alone, what it learns, and how it is folded in."""

import pytest
import torch

from model.config import GPT2Config
from model.gpt2 import GPT2
from model.network_files import load_model, save_checkpoint
from model.training.errors import TrainingError
from model.training.lora import TARGETS, LoRA, add_lora, lora_layers, merge

CONFIG = GPT2Config(vocab_size=500, n_positions=32, n_embd=32, n_layer=2, n_head=2, eos_token_ids=(499,))
TOKENS = torch.arange(40).view(2, 20)


def network():
    return GPT2(CONFIG).init_weights(torch.Generator().manual_seed(0))


def adapted(lora=LoRA()):  # noqa: B008 - a frozen value
    """A network whose LoRA has already learned something."""
    generator = torch.Generator().manual_seed(1)
    model = add_lora(network(), lora, generator)
    for layer in lora_layers(model).values():
        layer.lora_B.data.normal_(std=0.1, generator=generator)
    return model


@torch.no_grad()
def test_a_network_with_lora_starts_out_equal_to_its_base():
    assert torch.equal(add_lora(network(), LoRA())(TOKENS), network()(TOKENS))


def test_its_matrices_alone_get_gradients():
    model = adapted()
    model(TOKENS).sum().backward()
    trained = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert trained == {f"h.{i}.{target}.lora_{matrix}" for i in range(2) for target in TARGETS for matrix in "AB"}
    assert trained == {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def test_its_matrices_have_the_rank_and_the_shapes_of_their_projection():
    layers = lora_layers(add_lora(network(), LoRA(rank=4, targets=("attn.c_attn", "mlp.c_proj"))))
    assert list(layers) == ["h.0.attn.c_attn", "h.0.mlp.c_proj", "h.1.attn.c_attn", "h.1.mlp.c_proj"]
    shapes = [tuple(matrix.shape) for layer in list(layers.values())[:2] for matrix in (layer.lora_A, layer.lora_B)]
    assert shapes == [(4, 32), (96, 4), (4, 128), (32, 4)]


def test_the_same_seed_draws_the_same_matrices():
    first, again, other = (add_lora(network(), LoRA(), torch.Generator().manual_seed(seed)) for seed in (7, 7, 8))
    drawn = [next(iter(lora_layers(model).values())).lora_A for model in (first, again, other)]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


@torch.no_grad()
@pytest.mark.parametrize("lora", [LoRA(), LoRA(rank=2, alpha=1.0), LoRA(targets=("attn.c_proj",))])
def test_merged_it_computes_what_it_computed_before(lora):
    model = adapted(lora)
    before, merged = model(TOKENS), merge(model)
    torch.testing.assert_close(merged(TOKENS), before)
    assert not torch.allclose(before, network()(TOKENS), atol=1e-3)
    assert torch.equal(model(TOKENS), before), "merging must not disturb the training that goes on"


@torch.no_grad()
def test_merged_it_is_an_ordinary_checkpoint(tmp_path, small_tokenizer):
    model = adapted()
    save_checkpoint(tmp_path, merge(model), small_tokenizer, torch.float32)
    loaded = load_model(tmp_path)
    assert [name for name, _ in loaded.named_parameters()] == [name for name, _ in network().named_parameters()]
    torch.testing.assert_close(loaded(TOKENS), model(TOKENS))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"rank": 0}, "rank of LoRA is 0; it must be at least 1"),
        ({"alpha": -1.0}, "alpha of LoRA is -1.0; it must be above 0"),
        ({"alpha": float("nan")}, "alpha of LoRA is nan"),
        ({"targets": ("c_attn",)}, "'c_attn' is no projection .* attn.c_attn,attn.c_proj,mlp.c_fc,mlp.c_proj"),
        ({"targets": ()}, "no projection to adapt"),
    ],
)
def test_lora_that_cannot_be_is_refused(wrong, message):
    with pytest.raises(TrainingError, match=message):
        LoRA(**wrong)


def test_a_rank_beyond_the_width_is_refused():
    with pytest.raises(TrainingError, match="rank of LoRA is 33; beyond the model's width of 32"):
        add_lora(network(), LoRA(rank=33))
