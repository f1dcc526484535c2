"""What training minimises: the network with its loss, in the precision and with the operations that pay on the device."""

import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from model.gpt2 import GPT2, MLP, Attention, CausalAttention
from model.training.data.examples import IGNORED
from model.training.distributed import Processes
from model.training.fused import FusedAttention, FusedGELU, linear_cross_entropy

MEASURED_TOKENS = 2048  # at a time, on a CPU: what validation holds stays below what a step does
COMPILED_CODE = "TORCHINDUCTOR_CACHE_DIR"


class Objective(nn.Module, ABC):
    """What is minimised: a network's loss on a part of a batch, given as the tensors that the objective knows."""

    def __init__(self, model: GPT2) -> None:
        super().__init__()
        self.model = model

    @property
    def device(self) -> torch.device:
        return self.model.wte.weight.device

    @abstractmethod
    def forward(self, *part: Tensor) -> Tensor:
        """The loss, summed over the part's targets: a scalar."""

    @abstractmethod
    def num_targets(self, *part: Tensor) -> int: ...

    def measure(self, *part: Tensor) -> tuple[Tensor, int | None]:
        """The loss of a part held out, as `forward` gives it, and how many of its targets are right, where that has a meaning."""
        return self(*part), None


@dataclass(frozen=True, slots=True)
class Measured:
    """A network on what is held out: the mean loss, in nats a target, and the share of right targets, where that has a meaning."""

    loss: float
    accuracy: float | None


@torch.no_grad()
def measure(objective: Objective, parts: Iterable[tuple[Tensor, ...]], processes: Processes) -> Measured:
    """All processes' parts together, without dropout."""
    objective.eval()
    total, has_meaning = torch.zeros(3, dtype=torch.float64, device=objective.device), False
    for part in parts:
        loss, num_right = objective.measure(*(tensor.to(objective.device) for tensor in part))
        has_meaning = num_right is not None
        total += torch.tensor([loss.item(), objective.num_targets(*part), num_right or 0], device=objective.device)
    loss_sum, count, right = processes.sum(total).tolist()
    return Measured(loss_sum / count, right / count if has_meaning else None)


class NextTokenLoss(Objective):
    """Sum of -log p(target) over rows, in nats: tokens and targets (B, T); targets of IGNORED count nothing.

    `bfloat16` multiplies matrices in it, by autocast; weights, sums and the residual stream stay float32. `compiled` fuses what
    lies between the products by torch.compile: half a minute at the start of each length of windows, for a fifth of a step's time.
    On a GPU it fuses the loss too, whose float32 logits would cost a tenth of a step. Validation stays as it is: it is short, and
    would be compiled for each length once more.
    `checkpointed` blocks keep their input alone for the backward pass, which computes the rest again.
    """

    def __init__(self, model: GPT2, bfloat16: bool, compiled: bool, checkpointed: bool = False) -> None:
        super().__init__(model)
        self._bfloat16, self._checkpointed = bfloat16, checkpointed
        self._fused = compiled and self.device.type == "cpu"
        # Not with the embedding: in compiled code two threads add to a token's row in whichever order they come.
        self._blocks = torch.compile(self._transform, dynamic=False) if self._fused else self._transform
        self._learned = self._loss if self._fused or not compiled else torch.compile(self._loss, dynamic=False)
        if self._fused:
            _keep_compiled_code_apart()
            for mlp in (module for module in model.modules() if isinstance(module, MLP)):
                mlp.act = FusedGELU()

    def forward(self, *part: Tensor) -> Tensor:
        tokens, targets = part
        if not self.training:
            return self._measured(tokens, targets)
        if self.device.type == "cpu":  # where all logits of a part would be most of its memory
            return linear_cross_entropy(self._hidden_states(tokens), self.model.wte.weight, targets.flatten(), self._fused)
        return self._learned(tokens, targets)

    def _measured(self, tokens: Tensor, targets: Tensor) -> Tensor:
        rows = max(1, MEASURED_TOKENS // tokens.shape[1]) if self.device.type == "cpu" else len(tokens)
        parts = zip(torch.split(tokens, rows), torch.split(targets, rows), strict=True)
        return torch.stack([self._loss(*part) for part in parts]).sum()

    def num_targets(self, *part: Tensor) -> int:
        _, targets = part
        return int((targets != IGNORED).sum())

    def _loss(self, tokens: Tensor, targets: Tensor) -> Tensor:
        hidden = self._hidden_states(tokens)  # (N, C)
        with self._autocast():
            logits = self.model.lm_head(hidden)  # (N, V)
        return F.cross_entropy(logits.float(), targets.flatten(), reduction="sum", ignore_index=IGNORED)

    def _hidden_states(self, tokens: Tensor) -> Tensor:
        """Of all tokens (B, T) in one row: (N, C)."""
        transform = self._blocks if self.training else self._transform
        return transform(self.model.embed(tokens, torch.arange(tokens.shape[1], device=tokens.device)))

    def _transform(self, x: Tensor) -> Tensor:
        with self._autocast():
            transform = self._checkpointed_transform if self._checkpointed and self.training else self.model.transform
            hidden = transform(x, self._attention()).flatten(0, 1)
            return hidden.bfloat16() if self._bfloat16 else hidden

    def _checkpointed_transform(self, x: Tensor, attention: Attention) -> Tensor:
        """`GPT2.transform`, each block by activation checkpointing (Chen et al. 2016): the same bits, dropout's as well."""
        for block in self.model.h:
            x = checkpoint(block, x, attention, use_reentrant=False)
        return self.model.ln_f(x)  # type: ignore[no-any-return]

    def _attention(self) -> Attention:
        dropout = self.model.attention_dropout if self.training else 0.0
        return FusedAttention() if self._fused and self.training and not dropout else CausalAttention(dropout)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self._bfloat16)


def compiling_may_pay(bfloat16: bool, device: torch.device) -> bool:
    """Whether to think of compiling: with a compiler, and not in float32 on a CPU.

    There the products take so much of a step that fusing the rest saved 0 to 8 % of it (a Zen 4 held to AVX2, 7 and 14 M
    parameters): the compilation, 30 to 50 s for each length of windows, would take half an hour to come back. In bfloat16 it
    saves 14 to 22 %.
    """
    return can_compile(device) and (bfloat16 or device.type == "cuda")


def can_compile(device: torch.device) -> bool:
    """Whether torch.compile has its compiler: a C++ one for the CPU; for a GPU it brings its own."""
    return device.type == "cuda" or any(map(shutil.which, ("g++", "c++", "clang++")))


def _keep_compiled_code_apart() -> None:
    """Give each vector length a cache of its own: torch 2.13 takes code from its cache whatever it was compiled for.

    A machine that came up on another processor, its /tmp kept, would run loops for AVX-512's vectors on those of AVX2: half the
    loss, and gradients that are no numbers.
    """
    from torch._inductor.runtime.cache_dir_utils import default_cache_dir

    usual = os.path.abspath(default_cache_dir())  # noqa: PTH100 - as torch itself writes it into the environment
    if os.environ.get(COMPILED_CODE, usual) == usual:  # whoever has named another keeps it
        os.environ[COMPILED_CODE] = str(Path(usual) / torch.backends.cpu.get_cpu_capability())
