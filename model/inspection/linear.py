"""The network's linear layers computed by oneDNN, with their own weights as they are, and differentiable.

Measured with torch 2.13 on a Zen 4 with two cores, 64 rows: torch's own linear, which is MKL's, does 70 to 140 GFLOP/s, oneDNN's
150 to 180. Packed weights do 175 to 220 (model/packed_linear.py), but take as much memory again.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.gpt2 import GPT2
from model.packed_linear import padded_rows


class SharedLinear(nn.Module):
    """y = x Wᵀ + b with another layer's weights: x (T, in) to (T, out)."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.weight, self.bias = linear.weight, linear.bias

    def forward(self, x: Tensor) -> Tensor:
        return _Product.apply(x, self.weight, self.bias)  # type: ignore[no-any-return, no-untyped-call]


class _Product(torch.autograd.Function):
    """Differentiable by x alone: nobody learns here."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(weight)
        return _product(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (weight,) = ctx.saved_tensors
        return _product(gradient, weight.T, None), None, None


def _product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return F.linear(x, weight, bias)
    rows = len(x) if len(x) == 1 else padded_rows(len(x))
    padded = F.pad(x, (0, 0, 0, rows - len(x))) if rows > len(x) else x
    y: Tensor = torch.ops.mkldnn._linear_pointwise(padded, weight, bias, "none", [], "")
    return y[: len(x)]


def with_shared_linears(network: GPT2) -> GPT2:
    """A copy of the network in float32 on the CPU, of its modules alone: weights that are so already are shared."""
    copy = network.for_inference(torch.device("cpu"), torch.float32)
    for module in list(copy.modules()):
        for name, child in module.named_children():
            if type(child) is nn.Linear:  # not one that does more
                setattr(module, name, SharedLinear(child))
    return copy
