"""CUDA's runner as its tests have it: with the kernels that serve on a card, with their twins on a CPU."""

import functools

import torch

from model.config import GPT2Config
from model.cuda.kernel_set import kernels_for
from model.cuda.runner import CudaRunner
from model.gpt2 import GPT2

CONFIG = GPT2Config(vocab_size=301, n_positions=100, n_embd=72, n_layer=2, n_head=3, n_inner=200, eos_token_ids=(0,))
NUM_SLOTS = 12


@functools.cache
def network(config: GPT2Config = CONFIG) -> GPT2:
    """Random weights, large enough that attention is far from uniform."""
    model = GPT2(config).init_weights(torch.Generator().manual_seed(0)).eval().requires_grad_(False)
    for parameter in model.parameters():
        parameter.data.mul_(4 if parameter.ndim == 2 else 1)
    return model


def cuda_runner(
    device: torch.device, num_slots: int = NUM_SLOTS, model: GPT2 | None = None, dtype: torch.dtype = torch.float32
) -> CudaRunner:
    return CudaRunner(model or network(), num_slots, device, dtype, kernels_for(device))
