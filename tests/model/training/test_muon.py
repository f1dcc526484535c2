"""Muon and AdamW: which parameter each updates, by how much, and what they need to go on."""

import pytest
import torch

from model.config import GPT2Config
from model.gpt2 import GPT2
from model.training.errors import TrainingError
from model.training.lora import LoRA, add_lora
from model.training.muon import Muon, orthogonalize
from model.training.optimizer import Optimizers
from model.training.recipe import Recipe

CONFIG = GPT2Config(vocab_size=40, n_positions=8, n_embd=16, n_layer=2, n_head=2, eos_token_ids=(0,))


PRECISIONS = (torch.float32, torch.bfloat16)


@pytest.mark.parametrize("dtype", PRECISIONS)
@pytest.mark.parametrize("shape", [(1, 16, 16), (2, 16, 48), (2, 48, 16), (1, 1, 8)])
def test_orthogonalizing_makes_all_singular_values_about_one_and_keeps_the_directions(shape, dtype):
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    result = orthogonalize(matrices, dtype)
    assert (result.shape, result.dtype) == (matrices.shape, dtype)
    result = result.float()
    u, values, v = torch.linalg.svd(matrices, full_matrices=False)
    significant = values > 0.05 * values.amax(-1, keepdim=True)
    singular = torch.diagonal(u.mT @ result @ v.mT, dim1=-2, dim2=-1)
    assert ((singular > 0.6) & (singular < 1.3))[significant].all()


@pytest.mark.parametrize("dtype", PRECISIONS)
def test_no_gradient_is_no_direction(dtype):
    assert torch.equal(orthogonalize(torch.zeros(1, 4, 8), dtype), torch.zeros(1, 4, 8, dtype=dtype))


@pytest.mark.parametrize("dtype", PRECISIONS)
def test_a_run_orthogonalizes_in_its_own_precision(monkeypatch, dtype):
    """A processor without instructions for bfloat16 took fifteen seconds for it in a step of one."""
    model = GPT2(CONFIG).init_weights(torch.Generator().manual_seed(0))
    optimizers, seen = Optimizers(model, Recipe(max_steps=1, bfloat16=dtype == torch.bfloat16)), set()

    def watched(matrices, precision):
        seen.add(precision)
        return orthogonalize(matrices, precision)

    monkeypatch.setattr("model.training.muon.orthogonalize", watched)
    with_gradients(model)
    optimizers.step(1.0)
    assert seen == {dtype}


def moved_by_muon(parameter, gradients, **options):
    parameter = torch.nn.Parameter(parameter.clone())
    muon = Muon([parameter], **options)
    for gradient in gradients:
        parameter.grad = gradient
        muon.step()
    return parameter.detach()


def test_a_step_is_that_of_its_definition():
    """Momentum m = 0.95 m + 0.05 g, then the Nesterov mean of g and m, made orthogonal, times sqrt(max(1, rows / columns)) * lr."""
    weight, gradients = torch.randn(32, 8), torch.randn(3, 32, 8)
    expected, momentum = weight.clone(), torch.zeros(32, 8)
    for gradient in gradients:
        momentum = 0.95 * momentum + 0.05 * gradient
        [update] = orthogonalize((0.05 * gradient + 0.95 * momentum)[None])
        expected = expected * (1 - 0.02 * 0.1) - 0.02 * 2.0 * update
    torch.testing.assert_close(moved_by_muon(weight, gradients, lr=0.02, weight_decay=0.1), expected, rtol=0, atol=5e-4)


def test_queries_keys_and_values_are_orthogonal_apart():
    weight, gradient = torch.randn(48, 16), torch.randn(1, 48, 16)
    together = moved_by_muon(weight, gradient, lr=0.02)
    apart = [moved_by_muon(weight[i : i + 16], gradient[:, i : i + 16], lr=0.02) for i in (0, 16, 32)]
    torch.testing.assert_close(together, torch.cat(apart), rtol=0, atol=2e-4)


def test_parameters_of_one_shape_are_updated_as_each_alone():
    weights, gradients = torch.randn(3, 16, 16), torch.randn(3, 16, 16)
    parameters = [torch.nn.Parameter(weight.clone()) for weight in weights]
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient
    Muon(parameters, lr=0.02).step()
    alone = [moved_by_muon(weight, gradient[None], lr=0.02) for weight, gradient in zip(weights, gradients, strict=True)]
    torch.testing.assert_close([parameter.detach() for parameter in parameters], alone, rtol=0, atol=2e-4)


def groups(optimizer):
    model = GPT2(CONFIG)
    names = {parameter: name for name, parameter in model.named_parameters()}
    optimizers = Optimizers(model, Recipe(max_steps=1, optimizer=optimizer, weight_decay=0.1))
    return [
        (type(one).__name__, group["weight_decay"], {names[parameter] for parameter in group["params"]})
        for one in optimizers._optimizers
        for group in one.param_groups
    ]


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_each_parameter_has_one_optimizer_and_matrices_alone_decay(optimizer):
    model = GPT2(CONFIG)
    all_groups = groups(optimizer)
    updated = [name for _, _, names in all_groups for name in names]
    assert sorted(updated) == sorted(name for name, _ in model.named_parameters())
    for kind, decay, names in all_groups:
        assert {model.get_parameter(name).ndim for name in names} == ({2} if decay else {1})
        assert (kind == "Muon") == (optimizer == "muon" and decay > 0 and not names & {"wte.weight", "wpe.weight"})


def with_gradients(model, scale=1.0):
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        parameter.grad = scale * torch.randn(parameter.shape, generator=generator)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_averages_that_were_saved_and_loaded_go_on_to_the_same_weights(optimizer):
    recipe = Recipe(max_steps=1, optimizer=optimizer)
    model, copy = (GPT2(CONFIG).init_weights(torch.Generator().manual_seed(0)) for _ in range(2))
    optimizers = Optimizers(model, recipe)
    for _ in range(2):
        with_gradients(model)
        optimizers.step(1.0)
    copy.load_state_dict(model.state_dict())
    resumed = Optimizers(copy, recipe)
    resumed.load_state({name: tensor.clone() for name, tensor in optimizers.state().items()})
    for one, its in ((model, optimizers), (copy, resumed)):
        with_gradients(one)
        its.step(0.5)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), copy.parameters(), strict=True))


def test_gradients_are_clipped_and_forgotten():
    small, large = (GPT2(CONFIG).init_weights(torch.Generator().manual_seed(0)) for _ in range(2))
    for model, scale in ((small, 1e3), (large, 1e6)):
        with_gradients(model, scale)
        Optimizers(model, Recipe(max_steps=1, optimizer="adamw")).step(1.0)
        assert all(parameter.grad is None for parameter in model.parameters())
    torch.testing.assert_close(small.state_dict(), large.state_dict(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("where", ["wte.weight", "h.0.mlp.c_fc.weight", "lora"])
def test_gradients_that_are_no_numbers_change_nothing(broken, optimizer, where):
    model = GPT2(CONFIG).init_weights()
    if where == "lora":
        add_lora(model, LoRA(2), torch.Generator())
        where = "h.0.mlp.c_fc.lora_A"
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    with_gradients(model)
    model.get_parameter(where).grad[1, 3] = broken
    with pytest.raises(TrainingError, match="the gradients are no longer finite; a smaller --learning-rate helps"):
        Optimizers(model, Recipe(max_steps=1, optimizer=optimizer)).step(1.0)
    assert all(torch.equal(before[name], parameter) for name, parameter in model.named_parameters())
