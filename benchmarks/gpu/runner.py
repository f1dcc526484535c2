"""The runner that the stages measure."""

import argparse

import torch

from benchmarks.gpu.on_device import dtype_of
from model.cuda.kernel_set import kernels_for
from model.cuda.runner import CudaRunner
from model.gpt2 import GPT2
from model.network_files import load_model

PREFILL_CHUNK = 256  # tokens of a prompt in one chunk


def build_runner(model: GPT2, num_slots: int, dtype: torch.dtype, device: torch.device) -> CudaRunner:
    """The CUDA runner as it serves; on a CPU, where the stages are tried, with its kernels' twins in PyTorch."""
    return CudaRunner(model, num_slots, device, dtype, kernels_for(device))


def load(options: argparse.Namespace, num_slots: int) -> tuple[GPT2, CudaRunner]:
    """The checkpoint's network on the CPU, and a runner for it that is warm."""
    model = load_model(options.checkpoint)
    runner = build_runner(model, num_slots, dtype_of(options.dtype), torch.device(options.device))
    runner.warm_up()
    return model, runner
