"""CUDA's part of the choice: the runner with Triton's kernels, built and tested, or the reason why it is not to be had."""

from importlib.metadata import version
from typing import TYPE_CHECKING

import torch

from model.batch import RunnerLost
from model.choice import ChoiceError, Chosen, Report, Wanted
from model.config import GPT2Config
from model.gpt2 import GPT2

if TYPE_CHECKING:
    from model.cuda.runner import CudaRunner

MIN_CAPABILITY = (8, 0)  # the oldest that Triton compiles for, and the oldest with bfloat16
MARGIN_BYTES = 1 << 30  # for PyTorch's context, the graphs and a step's activations
NUM_SLOTS = 256
NUM_LOGITS = 4  # rows' logits, and what PyTorch's sampler makes of them


class KernelsFailed(Exception):
    """Triton's kernels cannot compute here; the message says why."""


def choose_precision(wanted: Wanted, capability: tuple[int, int], name: str, report: Report) -> torch.dtype:
    """bfloat16, or float16 on cards that are too old for it, unless asked otherwise; `name` is the card's."""
    is_old = capability < MIN_CAPABILITY
    if wanted.dtype == "bfloat16" and is_old:
        raise ChoiceError(
            f"dtype bfloat16 is asked for, but {name} is too old for it; leave GPT2_DTYPE at auto, which takes float16 there"
        )
    if wanted.dtype == "auto" and is_old:
        report(f"{name} is too old for bfloat16, computing in float16; GPT2_DTYPE=float32 is slower, and exact")
        return torch.float16
    return torch.float32 if wanted.dtype == "float32" else torch.bfloat16


def choose_slots(config: GPT2Config, wanted: int, dtype: torch.dtype, free_bytes: int, report: Report) -> int:
    """As many cache slots as are asked for, or where none are, at most what has room. Raises MemoryError, saying what would fit."""
    most = max_slots(config, dtype, free_bytes)
    if wanted > most or not most:
        fits = f"GPT2_MAX_RUNNING={most} would fit" if most else "the weights and one slot do not fit"
        raise MemoryError(f"{free_bytes / 1e9:,.1f} GB of the card's memory are free; {fits}")
    if not wanted and most < NUM_SLOTS:
        report(f"{free_bytes / 1e9:,.1f} GB of the card's memory are free, room for {most} cache slots")
    return wanted or min(NUM_SLOTS, most)


def max_slots(config: GPT2Config, dtype: torch.dtype, free_bytes: int) -> int:
    """How many cache slots have room beside the weights and what a step needs."""
    per_slot = 2 * config.n_layer * config.n_positions * config.n_embd * dtype.itemsize
    per_draw = NUM_LOGITS * config.vocab_size * torch.float32.itemsize
    left = free_bytes - MARGIN_BYTES - config.num_parameters * dtype.itemsize
    return max(0, left // (per_slot + per_draw) - 1)  # one more is for padding


def choose_cuda_runner(model: GPT2, num_slots: int, device: torch.device, dtype: torch.dtype, report: Report) -> Chosen:
    """CudaRunner with Triton's kernels. Raises KernelsFailed, MemoryError, and ChoiceError where nothing can compute any more."""
    capability = torch.cuda.get_device_capability(device)
    if capability < MIN_CAPABILITY:
        raise KernelsFailed(f"they need compute capability {_dotted(MIN_CAPABILITY)} or newer, and {_dotted(capability)} is here")
    report("testing the kernels; those that this machine has not compiled before take some seconds each")
    try:
        runner = _tested_runner(model, num_slots, device, dtype)
    except (MemoryError, ChoiceError):
        raise
    except Exception as error:  # Triton's own are of many kinds
        raise KernelsFailed(f"{type(error).__name__}: {error}") from error
    label = str(dtype).removeprefix("torch.")
    arithmetic = f"triton-{version('triton')}-{label}-sm_{capability[0]}{capability[1]}"
    return Chosen(runner, label, "cuda", "triton", arithmetic, runner.cache_bytes)


def _tested_runner(model: GPT2, num_slots: int, device: torch.device, dtype: torch.dtype) -> "CudaRunner":
    # Triton comes with PyTorch's builds for CUDA alone.
    from model.cuda.kernel_set import kernels_for
    from model.cuda.runner import CudaRunner
    from model.cuda.self_test import check_runner

    try:
        runner = CudaRunner(model, num_slots, device, dtype, kernels_for(device))
        runner.warm_up()  # so that what is tested is what will serve, graphs and all
        check_runner(runner, model, dtype)
    except RunnerLost as error:
        raise ChoiceError(f"Triton's kernels failed on this card, {error}; set GPT2_KERNELS to torch") from error
    return runner


def _dotted(capability: tuple[int, int]) -> str:
    return ".".join(map(str, capability))
