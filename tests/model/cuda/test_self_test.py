"""The self-test lets right kernels through and stops any that is wrong, whichever it is and however it is wrong."""

from collections.abc import Callable

import pytest
import torch

from model.config import GPT2Config
from model.cuda.kernel_set import KernelSet, kernels_for
from model.cuda.runner import CudaRunner
from model.cuda.self_test import SelfTestFailed, check_runner
from tests.model.cuda.running import CONFIG, network

SMALLEST = GPT2Config(vocab_size=2, n_positions=3, n_embd=2, n_layer=1, n_head=2, n_inner=1, eos_token_ids=(0,))
ONE_POSITION = GPT2Config(vocab_size=7, n_positions=1, n_embd=4, n_layer=1, n_head=1, eos_token_ids=(0,))


def check(device: torch.device, kernels: KernelSet, config: GPT2Config = CONFIG, dtype: torch.dtype = torch.float32) -> None:
    model = network(config)
    check_runner(CudaRunner(model, 3, device, dtype, kernels), model, dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_right_kernels_pass_in_each_precision(device, dtype):
    check(device, kernels_for(device), dtype=dtype)


@pytest.mark.parametrize("config", [SMALLEST, ONE_POSITION], ids=["smallest", "one_position"])
def test_right_kernels_pass_for_the_smallest_models(device, config):
    check(device, kernels_for(device), config)


def changed(kernel: Callable[..., None], change: Callable[[torch.Tensor], None]) -> Callable[..., None]:
    """The kernel, and then a change of what it wrote first of all."""

    def run(*arguments: object) -> None:
        kernel(*arguments)
        change(arguments[0])

    return run


def with_the_rows(x: torch.Tensor) -> None:
    """What depends on how many rows there are."""
    x *= 1 + len(x) * 1e-6


@pytest.mark.parametrize("name", ["embed", "norm", "qkv", "attention", "residual", "fc", "head"])
@pytest.mark.parametrize(
    "change", [lambda x: x.mul_(1.2), lambda x: x.fill_(torch.nan), with_the_rows], ids=["other", "nan", "crowd"]
)
def test_a_kernel_of_the_network_that_is_wrong_is_found(device, name, change):
    kernels = kernels_for(device)
    with pytest.raises(SelfTestFailed):
        check(device, kernels._replace(**{name: changed(getattr(kernels, name), change)}))


def test_draws_that_are_not_those_of_their_filters_are_found(device):
    kernels = kernels_for(device)._replace(filters=lambda *_: None)
    with pytest.raises(SelfTestFailed, match="PyTorch's sampler"):
        check(device, kernels)


def test_penalties_that_are_left_out_are_found(device):
    kernels = kernels_for(device)._replace(adjust=lambda *_: None)
    with pytest.raises(SelfTestFailed):
        check(device, kernels)
