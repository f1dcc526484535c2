"""What training minimises: the network with its loss, in the precision and with the operations that pay on the device."""

import shutil

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.gpt2 import GPT2, MLP, Attention, CausalAttention
from model.training.fused import IGNORED, FusedAttention, FusedGELU, linear_cross_entropy


class NextTokenLoss(nn.Module):
    """Sum of -log p(target) over rows, in nats: tokens and targets (B, T); targets of IGNORED count nothing.

    `bfloat16` multiplies matrices in it, by autocast; weights, sums and the residual stream stay float32. `compiled` fuses what
    lies between the products by torch.compile: half a minute at the start, for half as much speed again.
    """

    def __init__(self, model: GPT2, bfloat16: bool, compiled: bool) -> None:
        super().__init__()
        self.model, self._bfloat16 = model, bfloat16
        self._device = model.wte.weight.device
        self._fused = compiled and self._device.type == "cpu"
        self._hidden_states = torch.compile(self._run_blocks, dynamic=False) if compiled else self._run_blocks
        if self._fused:
            for mlp in (module for module in model.modules() if isinstance(module, MLP)):
                mlp.act = FusedGELU()

    def forward(self, tokens: Tensor, targets: Tensor) -> Tensor:
        hidden = self._hidden_states(tokens)  # (N, C)
        if self._fused:
            return linear_cross_entropy(hidden, self.model.wte.weight, targets.flatten())
        with self._autocast():
            logits = self.model.lm_head(hidden)  # (N, V)
        return F.cross_entropy(logits.float(), targets.flatten(), reduction="sum", ignore_index=IGNORED)

    def _run_blocks(self, tokens: Tensor) -> Tensor:
        positions = torch.arange(tokens.shape[1], device=tokens.device)
        with self._autocast():
            hidden = self.model.hidden_states(tokens, positions, self._attention()).flatten(0, 1)
            return hidden.bfloat16() if self._bfloat16 else hidden

    def _attention(self) -> Attention:
        dropout = self.model.attention_dropout if self.training else 0.0
        return FusedAttention() if self._fused and not dropout else CausalAttention(dropout)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self._device.type, dtype=torch.bfloat16, enabled=self._bfloat16)


def bfloat16_pays(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 matrices faster than float32's: in hardware, not by conversion."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu._is_avx512_bf16_supported())


def can_compile(device: torch.device) -> bool:
    """Whether torch.compile has its compiler: a C++ one for the CPU; for a GPU it brings its own."""
    return device.type == "cuda" or any(map(shutil.which, ("g++", "c++", "clang++")))
