"""How much each token of the prompt bears on a logit: its gradient by the token's embedding, times the embedding.

Gradient x input, after Shrikumar et al. 2016, "Not Just a Black Box", and Simonyan et al. 2013: a first-order account, through
attention and LayerNorm as they are, of what would be missing without the token. Positions' embeddings are no part of it.
"""

import torch
from torch import Tensor

from model.inspection.network import Run

LEAF = "hook_embed"


def prompt_attribution(run: Run, position: int, token_id: int) -> Tensor:
    """Scores (T,) for the logit of `token_id` after `position`; tokens behind it have none, 0. The run's leaf is LEAF, and kept."""
    embed = run.activations[LEAF]  # (T, C)
    with torch.enable_grad():
        logit = run.normalized[position] @ run.lm_head.weight[token_id]
    (gradient,) = torch.autograd.grad(logit, embed)
    return (gradient * embed.detach()).sum(dim=-1)
