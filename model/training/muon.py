"""Muon: momentum whose matrices are made orthogonal before each step; the other parameters go to AdamW.

Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks". On the same tokens it reaches a loss for which AdamW
needs about half as many again, and its matrix products are cheap beside the backward pass.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

# Coefficients and number of the quintic Newton-Schulz iterations, from the same source.
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
NUM_ITERATIONS = 5


def orthogonalize(matrices: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Approximate U Vᵀ of each matrix U S Vᵀ: (B, M, N) to (B, M, N) in `dtype`, singular values between about 0.7 and 1.2.

    bfloat16 is precise enough, but slower than all of the backward pass where the processor has no instructions for it.
    """
    a, b, c = COEFFICIENTS
    x = matrices.to(dtype)
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x  # the products below are over the shorter side
    x = (x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)).contiguous()
    for _ in range(NUM_ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


class Muon(Optimizer):
    """Nesterov momentum, then `orthogonalize`; a step's size is that of its matrix's shape, sqrt(max(1, M / N)) * lr.

    Parameters are (out, in) matrices; one of three times as many rows as columns is queries, keys and values, taken apart. `dtype`
    is that of the matrix products alone.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        self._dtype = dtype

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            for shape in dict.fromkeys(parameter.shape for parameter in parameters):
                self._update([parameter for parameter in parameters if parameter.shape == shape], group)

    def _update(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        """Update parameters of one shape together: one batched product takes half the time of as many small ones."""
        rows, columns = parameters[0].shape
        parts = 3 if rows == 3 * columns else 1
        updates = torch.stack(self._momenta(parameters, group["momentum"]))
        updates = orthogonalize(updates.view(-1, rows // parts, columns), self._dtype).reshape(updates.shape)
        # Each in a few launches for all of them: on a GPU a step's would otherwise take longer to start than to run.
        torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
        scale = -group["lr"] * max(1.0, rows / parts / columns) ** 0.5
        torch._foreach_add_(parameters, list(updates.to(parameters[0].dtype)), alpha=scale)

    def _momenta(self, parameters: list[Tensor], momentum: float) -> list[Tensor]:
        for parameter in parameters:
            if not self.state[parameter]:
                self.state[parameter]["momentum"] = torch.zeros_like(parameter)
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        averages = [self.state[parameter]["momentum"] for parameter in parameters]
        torch._foreach_lerp_(averages, gradients, 1 - momentum)
        return list(torch._foreach_lerp(gradients, averages, momentum))
