"""What direct preference optimisation minimises. Knows the network and pairs of answers; not where they come from."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from model.gpt2 import GPT2, CausalAttention
from model.training.errors import TrainingError
from model.training.fused import IGNORED
from model.training.objective import Objective


@dataclass(frozen=True, slots=True)
class DPO:
    """How preferences are learned."""

    beta: float = 0.1  # the paper's, section 6: how dear it is to leave the reference

    def __post_init__(self) -> None:
        if not (math.isfinite(self.beta) and self.beta > 0):
            raise TrainingError(f"beta is {self.beta}; it must be above 0")


class DPOLoss(Objective):
    """Sum over pairs of -log sigmoid(beta * margin), margin = (log p(w) - log ref(w)) - (log p(l) - log ref(l)).

    Rafailov et al. 2023, "Direct Preference Optimization: Your Language Model is Secretly a Reward Model", equation 7: w is the
    chosen answer, l the rejected one, ref the network before training. The gradient raises the one and lowers the other, the more
    the more wrongly they are ordered, and beta says how dear it is to leave the reference.
    """

    def __init__(self, model: GPT2, beta: float, bfloat16: bool) -> None:
        super().__init__(model)
        self.beta, self._bfloat16 = beta, bfloat16

    def forward(self, *part: Tensor) -> Tensor:
        """tokens and targets (2P, T): the P chosen answers, then the P rejected ones; reference (P,): log ref(w) - log ref(l)."""
        tokens, targets, reference = part
        return -F.logsigmoid(self.beta * self.margins(tokens, targets, reference)).sum()

    def num_targets(self, *part: Tensor) -> int:
        """Pairs."""
        _, _, reference = part
        return len(reference)

    def margins(self, tokens: Tensor, targets: Tensor, reference: Tensor) -> Tensor:
        """How much more than the reference the network prefers the chosen answer, in nats: (P,)."""
        chosen, rejected = self.log_probabilities(tokens, targets).chunk(2)
        return chosen - rejected - reference

    def log_probabilities(self, tokens: Tensor, targets: Tensor) -> Tensor:
        """log p of each row's answer in nats, the sum over its targets: tokens and targets (B, T), result (B,)."""
        positions = torch.arange(tokens.shape[1], device=tokens.device)
        learned = targets != IGNORED
        attention = CausalAttention(self.model.attention_dropout if self.training else 0.0)
        with torch.autocast(tokens.device.type, dtype=torch.bfloat16, enabled=self._bfloat16):
            hidden = self.model.hidden_states(tokens, positions, attention)[learned]  # (N, C): no logits of what is given
            logits = self.model.lm_head(hidden)  # (N, V)
        each = -F.cross_entropy(logits.float(), targets[learned], reduction="none")  # (N,)
        rows = learned.nonzero()[:, 0]
        return torch.zeros(len(tokens), device=tokens.device).index_add(0, rows, each)
