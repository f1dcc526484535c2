"""Pre- and post-LayerNorm at initialisation, against the network's own backward pass, and what Xiong et al. 2020 show of them."""

import pytest
import torch
import torch.nn.functional as F

from model.config import GPT2Config
from model.gpt2 import GPT2
from model.inspection.order import SEED, orders

TOKENS = torch.randint(97, (24,), generator=torch.Generator().manual_seed(3))


def sizes(num_layers: int) -> GPT2Config:
    return GPT2Config(vocab_size=97, n_positions=32, n_embd=64, n_layer=num_layers, n_head=4, eos_token_ids=(0,))


def test_pre_layer_norm_is_the_network_as_it_stands() -> None:
    network = GPT2(sizes(3)).init_weights(torch.Generator().manual_seed(SEED))
    loss = F.cross_entropy(network(TOKENS[None])[0, :-1], TOKENS[1:])
    loss.backward()  # type: ignore[no-untyped-call]
    found = orders(sizes(3), TOKENS)["gpt2"].pre
    assert found.loss == pytest.approx(loss.item(), rel=1e-5)
    for norm, block in zip(found.gradient_norms, network.h, strict=True):
        squares = [float(p.grad.square().sum()) for p in block.parameters() if p.grad is not None]
        assert len(squares) == 12
        assert norm == pytest.approx(sum(squares) ** 0.5, rel=1e-4)


def test_each_layer_has_its_norm_and_they_are_the_same_again() -> None:
    first, second = orders(sizes(4), TOKENS), orders(sizes(4), TOKENS)
    assert first == second
    for both in first.values():
        for figures in (both.pre, both.post):
            assert len(figures.gradient_norms) == 4
            assert min(figures.gradient_norms) > 0
    assert first["xavier"].pre != first["xavier"].post


def test_near_the_output_gradients_shrink_with_depth_before_and_not_after_the_sum() -> None:
    """Theorem 1 of Xiong et al.: of order 1 / sqrt(L) with pre-LayerNorm, and of order 1 with post-LayerNorm."""
    shallow, deep = (orders(sizes(num_layers), TOKENS)["xavier"] for num_layers in (3, 48))
    assert deep.pre.gradient_norms[-1] < shallow.pre.gradient_norms[-1] / 2
    assert deep.post.gradient_norms[-1] > shallow.post.gradient_norms[-1] / 1.5
    assert deep.post.gradient_norms[-1] > 2 * deep.pre.gradient_norms[-1]
