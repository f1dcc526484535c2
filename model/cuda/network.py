"""The network as the kernels take its weights."""

import torch
from torch import nn

from model.gpt2 import GPT2, LayerNorm


def for_kernels(model: GPT2, device: torch.device, dtype: torch.dtype) -> GPT2:
    """A copy in `dtype` on the device but for LayerNorm's weights, which stay float32.

    They are few and are not multiplied as matrices, so that 16 bits would save nothing.
    """
    network = model.for_inference(device, dtype)
    for copied, given in zip(network.modules(), model.modules(), strict=True):
        if isinstance(copied, LayerNorm) and isinstance(given, LayerNorm):
            for name in ("weight", "bias"):
                values = getattr(given, name).detach().to(device, torch.float32)
                setattr(copied, name, nn.Parameter(values, requires_grad=False))
    return network
