"""LoRA: a frozen network that learns by small matrices beside its projections (Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large
Language Models"). Knows the network; not files.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.config import GPT2Config
from model.gpt2 import GPT2
from model.training.errors import TrainingError

# All projections of a block: many of them at a low rank learn more than few at a high one (section 7.1 of the paper).
TARGETS = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")


@dataclass(frozen=True, slots=True)
class LoRA:
    """Which projections of each block are adapted, and by how much: W + alpha / rank * B A."""

    rank: int = 8
    alpha: float = 16.0
    targets: tuple[str, ...] = TARGETS

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise TrainingError(f"the rank of LoRA is {self.rank}; it must be at least 1")
        if not (math.isfinite(self.alpha) and self.alpha > 0):
            raise TrainingError(f"alpha of LoRA is {self.alpha}; it must be above 0")
        if unknown := [target for target in self.targets if target not in TARGETS]:
            raise TrainingError(f"{unknown[0]!r} is no projection of GPT-2's blocks; they are {','.join(TARGETS)}")
        if not self.targets:
            raise TrainingError(f"LoRA has no projection to adapt; choose of {','.join(TARGETS)}")

    @property
    def scale(self) -> float:
        return self.alpha / self.rank


class LoRALinear(nn.Linear):
    """y = x Wᵀ + b + scale (x Aᵀ) Bᵀ: W and b of the layer that it replaces, A (r, in) random, B (out, r) zero at first."""

    def __init__(self, base: nn.Linear, lora: LoRA, generator: torch.Generator | None = None) -> None:
        super().__init__(base.in_features, base.out_features, device="meta")
        self.weight, self.bias, self.scale = base.weight, base.bias, lora.scale
        # Drawn on the CPU, so that a seed means the same everywhere; uniform up to 1/sqrt(in), as in the paper's own code.
        a = torch.empty(lora.rank, base.in_features)
        nn.init.kaiming_uniform_(a, a=math.sqrt(5), generator=generator)
        self.lora_A = nn.Parameter(a.to(base.weight.device))
        self.lora_B = nn.Parameter(torch.zeros(base.out_features, lora.rank, device=base.weight.device))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + F.linear(F.linear(x, self.lora_A), self.lora_B) * self.scale

    def merged_weight(self) -> Tensor:
        """W + scale B A, (out, in)."""
        return self.weight + self.scale * (self.lora_B @ self.lora_A)


def add_lora(model: GPT2, lora: LoRA, generator: torch.Generator | None = None) -> GPT2:
    """Freeze the network and put LoRA beside the chosen projections of each block; its outputs are as before."""
    if lora.rank > model.config.n_embd:
        raise TrainingError(f"the rank of LoRA is {lora.rank}; beyond the model's width of {model.config.n_embd} it adds nothing")
    model.requires_grad_(False)
    for block in model.h:
        for target in lora.targets:
            parent, _, name = target.partition(".")
            module = block.get_submodule(parent)
            projection = getattr(module, name)
            setattr(module, name, LoRALinear(projection, lora, generator))
    return model


def lora_layers(model: GPT2) -> dict[str, LoRALinear]:
    """The adapted projections by their names, as in `h.0.attn.c_attn`."""
    return {name: module for name, module in model.named_modules() if isinstance(module, LoRALinear)}


@torch.no_grad()
def merge(model: GPT2) -> GPT2:
    """A plain network that computes what `model` does; it shares the weights that are not adapted."""
    weights = {name: tensor for name, tensor in model.state_dict().items() if "lora_" not in name}
    weights |= {f"{name}.weight": layer.merged_weight() for name, layer in lora_layers(model).items()}
    return build_network(model.config, weights)


def build_network(config: GPT2Config, weights: dict[str, Tensor], dropout: float = 0.0) -> GPT2:
    """A network on these very tensors; nothing is copied."""
    with torch.device("meta"):
        model = GPT2(config, dropout)
    model.load_state_dict(weights, assign=True)
    model.lm_head.weight = model.wte.weight  # assigning has parted the two
    return model
