"""The kernels of a step as one value: Triton's, or their twins in plain PyTorch, the oracle in whose terms a step can be read."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch

from model.cuda.kernels.adjust import adjust, adjust_twin
from model.cuda.kernels.attention import attention, attention_twin
from model.cuda.kernels.choose import choose, choose_twin
from model.cuda.kernels.early import MIN_CAPABILITY
from model.cuda.kernels.embed import embed, embed_twin
from model.cuda.kernels.fc import fc, fc_twin
from model.cuda.kernels.filters import filters, filters_twin
from model.cuda.kernels.head import head, head_twin
from model.cuda.kernels.log_sums import log_sums, log_sums_twin
from model.cuda.kernels.norm import norm, norm_twin
from model.cuda.kernels.parts import parts, parts_twin
from model.cuda.kernels.qkv import qkv, qkv_twin
from model.cuda.kernels.residual import residual, residual_twin


class KernelSet(NamedTuple):
    """One function a kernel, as described where it is defined; they write into what they are given first."""

    embed: Callable[..., None]
    norm: Callable[..., None]
    qkv: Callable[..., None]
    attention: Callable[..., None]
    residual: Callable[..., None]
    fc: Callable[..., None]
    head: Callable[..., None]
    log_sums: Callable[..., None]
    adjust: Callable[..., None]
    filters: Callable[..., None]
    parts: Callable[..., None]
    choose: Callable[..., None]


TRITON = KernelSet(embed, norm, qkv, attention, residual, fc, head, log_sums, adjust, filters, parts, choose)
EARLY = KernelSet(*(partial(kernel, early=True) for kernel in TRITON))  # each starts while the one before ends: see kernels.early
TWINS = KernelSet(
    embed_twin,
    norm_twin,
    qkv_twin,
    attention_twin,
    residual_twin,
    fc_twin,
    head_twin,
    log_sums_twin,
    adjust_twin,
    filters_twin,
    parts_twin,
    choose_twin,
)


def kernels_for(device: torch.device) -> KernelSet:
    """Those that a device computes with: Triton's on a card, early where it can, and the twins on a CPU."""
    if device.type == "cpu":
        return TWINS
    return EARLY if torch.cuda.get_device_capability(device) >= MIN_CAPABILITY else TRITON
