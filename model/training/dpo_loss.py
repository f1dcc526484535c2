"""What direct preference optimisation minimises. Knows the network and pairs of answers; not where they come from."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from model.gpt2 import GPT2, CausalAttention
from model.training.data.examples import IGNORED
from model.training.errors import TrainingError
from model.training.objective import Objective

CHUNK_ROWS = 512  # of logits at a time


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
        return self._loss(self.margins(tokens, targets, reference))

    def measure(self, *part: Tensor) -> tuple[Tensor, int]:
        """A pair is right whose chosen answer has gained on the rejected one: what trl calls the accuracy of rewards."""
        margins = self.margins(*part)
        return self._loss(margins), int((margins > 0).sum())

    def _loss(self, margins: Tensor) -> Tensor:
        return -F.logsigmoid(self.beta * margins).sum()

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
        chunks = zip(torch.split(hidden, CHUNK_ROWS), torch.split(targets[learned], CHUNK_ROWS), strict=True)
        # The logits of all would be most of a step's memory: the backward pass makes each chunk's again.
        each = torch.cat([checkpoint(self._each, *chunk, use_reentrant=False) for chunk in chunks])  # (N,)
        rows = learned.nonzero()[:, 0]
        return torch.zeros(len(tokens), device=tokens.device).index_add(0, rows, each)

    def _each(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """log p of each target (N,) behind its hidden state (N, C)."""
        with torch.autocast(hidden.device.type, dtype=torch.bfloat16, enabled=self._bfloat16):
            logits = self.model.lm_head(hidden)  # (N, V)
        return -F.cross_entropy(logits.float(), targets, reduction="none")
