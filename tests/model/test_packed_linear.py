"""The packed network: a copy that computes the same, beside a network that stays whole."""

import gc
import weakref

import numpy as np
import pytest
import torch

from model.config import GPT2Config
from model.gpt2 import GPT2, CausalAttention
from model.packed_linear import PackedLinear, packed, packs_bfloat16
from model.training.lora import LoRA, LoRALinear, add_lora

CONFIG = GPT2Config(vocab_size=97, n_positions=33, n_embd=35, n_layer=3, n_head=5, eos_token_ids=(0,))
TOKENS = torch.arange(20)[None]


def build() -> GPT2:
    model = GPT2(CONFIG, dropout=0.5).init_weights(torch.Generator().manual_seed(0))
    for parameter in model.parameters():
        parameter.data.mul_(4 if parameter.ndim == 2 else 1)
    return model


@pytest.fixture
def network() -> GPT2:
    return build()


def logits(model: GPT2) -> torch.Tensor:
    with torch.inference_mode():
        hidden = model.hidden_states(TOKENS, torch.arange(20), CausalAttention())[0]  # (T, C)
        return model.lm_head(hidden)  # type: ignore[no-any-return]


def test_the_network_stays_as_it_is(network: GPT2) -> None:
    before = {name: parameter.clone() for name, parameter in network.named_parameters()}
    packed(network)
    if packs_bfloat16():
        packed(network, torch.bfloat16)
    assert network.training
    for name, parameter in network.named_parameters():
        assert torch.equal(parameter, before[name]), name
        assert parameter.requires_grad
    assert type(network.lm_head) is type(network.h[0].mlp.c_fc) is torch.nn.Linear
    assert network.lm_head.weight is network.wte.weight
    network(TOKENS).sum().backward()  # it can still be trained


def test_the_copy_computes_what_the_network_does(network: GPT2) -> None:
    copy = packed(network)
    assert isinstance(copy.lm_head, PackedLinear)
    assert torch.allclose(logits(copy), logits(network.eval()), rtol=1e-5, atol=1e-5)


def test_the_copy_shares_what_is_not_packed(network: GPT2) -> None:
    copy = packed(network)
    shared = dict(copy.named_parameters())
    assert set(shared) == {name for name in dict(network.named_parameters()) if "wte" in name or "wpe" in name or "ln_" in name}
    for name, parameter in shared.items():
        assert parameter.data_ptr() == network.get_parameter(name).data_ptr()
        assert not parameter.requires_grad
    assert copy.h[1].mlp.c_proj.bias.data_ptr() == network.h[1].mlp.c_proj.bias.data_ptr()


def test_plain_weights_go_with_the_network_that_nobody_holds_any_more() -> None:
    network = build()
    values = np.zeros(network.h[1].mlp.c_fc.weight.shape, np.float32)
    network.h[1].mlp.c_fc.weight.data = torch.from_numpy(values)
    memory = weakref.ref(values)  # lives as long as any tensor on it
    copy = packed(network)
    del values
    gc.collect()
    assert memory() is not None
    del network
    gc.collect()
    assert memory() is None
    assert logits(copy).isfinite().all()


def test_a_layer_that_does_more_than_a_linear_one_is_left_alone(network: GPT2) -> None:
    adapted = add_lora(network, LoRA(rank=2, targets=("mlp.c_fc",)), torch.Generator().manual_seed(1))
    for parameter in adapted.parameters():
        parameter.data.add_(0.1)
    copy = packed(adapted)
    assert isinstance(copy.h[0].mlp.c_fc, LoRALinear)
    assert torch.allclose(logits(copy), logits(adapted.eval()), rtol=1e-4, atol=1e-4)
