"""The filters that cut off a distribution's tail: logits (N, V) and a parameter a row (N, 1), both float64, to logits (N, V).

What is cut off becomes -inf. A sampler applies them in this order, each to what the one before has left.
"""

import torch
from torch import Tensor


def top_k(logits: Tensor, k: Tensor, largest: int) -> Tensor:
    """Keep a row's k likeliest tokens (Fan et al. 2018, section 5.4), and any as likely as the last; no k is above `largest`."""
    num_values = min(largest, logits.shape[-1])
    threshold = logits.topk(num_values).values.gather(-1, k.long().clamp(max=num_values) - 1)
    return logits.masked_fill(logits < threshold, -torch.inf)


def top_p(logits: Tensor, p: Tensor) -> Tensor:
    """Keep the smallest set of likeliest tokens whose probability reaches p (Holtzman et al. 2020, section 3.1)."""
    return _keep_mass(logits, -logits, p)


def min_p(logits: Tensor, p: Tensor) -> Tensor:
    """Keep the tokens at least p times as likely as the likeliest (Nguyen et al. 2024, section 3)."""
    return logits.masked_fill(logits < logits.amax(dim=-1, keepdim=True) + p.log(), -torch.inf)


def typical_p(logits: Tensor, p: Tensor) -> Tensor:
    """Keep the tokens whose surprise is nearest to the entropy, until they make up p (Meister et al. 2023, section 4)."""
    logprobs = logits.log_softmax(dim=-1)
    entropy = -(logprobs.exp() * logprobs).nan_to_num().sum(dim=-1, keepdim=True)
    return _keep_mass(logits, (-logprobs - entropy).abs(), p)


def _keep_mass(logits: Tensor, cost: Tensor, p: Tensor) -> Tensor:
    """Keep tokens in order of rising cost until their probability reaches p; the first always stays."""
    order = cost.argsort(dim=-1, stable=True)
    probabilities = logits.softmax(dim=-1).gather(-1, order)
    before = probabilities.cumsum(dim=-1) - probabilities
    dropped = torch.zeros_like(before, dtype=torch.bool).scatter_(-1, order, before >= p)
    return logits.masked_fill(dropped, -torch.inf)
