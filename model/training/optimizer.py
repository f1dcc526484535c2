"""Which optimiser updates which parameter, and both as one."""

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from model.training.errors import Diverged
from model.training.muon import Muon
from model.training.recipe import Recipe

BETAS = (0.9, 0.95)  # Brown et al. 2020, appendix B


class Optimizers:
    """AdamW with decay on matrices only or, with recipe.optimizer "muon", Muon for the blocks' matrices and AdamW for the rest."""

    def __init__(self, model: nn.Module, recipe: Recipe) -> None:
        self._names: dict[Tensor, str] = {
            parameter: name for name, parameter in model.named_parameters() if parameter.requires_grad
        }
        muon = [p for p, name in self._names.items() if recipe.optimizer == "muon" and p.ndim == 2 and name.startswith("h.")]
        rest = [p for p in self._names if p not in set(muon)]
        groups = [
            {"params": [p for p in rest if p.ndim >= 2], "weight_decay": recipe.weight_decay},
            {"params": [p for p in rest if p.ndim < 2], "weight_decay": 0.0},
        ]
        groups = [group for group in groups if group["params"]]
        self._optimizers: list[Optimizer] = []
        if groups:
            self._optimizers.append(torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=BETAS, fused=True))
        if muon:
            dtype = torch.bfloat16 if recipe.bfloat16 else torch.float32
            self._optimizers.append(Muon(muon, lr=recipe.muon_learning_rate, weight_decay=recipe.weight_decay, dtype=dtype))
        self._rates = [(group, group["lr"]) for optimizer in self._optimizers for group in optimizer.param_groups]
        # Muon's steps have the same size whatever the gradient's.
        self._clipped, self._orthogonalized = rest, muon
        self._max_grad_norm = recipe.max_grad_norm

    def step(self, learning_rate_factor: float) -> None:
        """Clip the gradients, update the parameters and forget the gradients. Raises Diverged where these are no numbers."""
        for group, rate in self._rates:
            group["lr"] = rate * learning_rate_factor
        norm = nn.utils.clip_grad_norm_(self._clipped, self._max_grad_norm)
        # By LoRA there may be no others than Muon's, so that these are looked at, too.
        others = nn.utils.get_total_norm([p.grad for p in self._orthogonalized if p.grad is not None])
        if not (norm + others).isfinite():
            raise Diverged("the gradients are no longer finite")
        for optimizer in self._optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    def state(self) -> dict[str, Tensor]:
        """All averages, each under its parameter's name and its own."""
        return {
            f"{self._names[parameter]}.{key}": value
            for optimizer in self._optimizers
            for parameter, values in optimizer.state.items()
            for key, value in values.items()
        }

    def load_state(self, state: dict[str, Tensor]) -> None:
        for optimizer in self._optimizers:
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    prefix = f"{self._names[parameter]}."
                    values = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
                    optimizer.state[parameter] = {
                        key: value.clone() if key == "step" else value.to(parameter.device, copy=True)
                        for key, value in values.items()
                        if "." not in key
                    }
