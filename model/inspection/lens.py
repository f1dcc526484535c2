"""The logit lens: what the network would say if it ended at each layer (nostalgebraist 2020, "interpreting GPT: the logit lens").

The final LayerNorm and the unembedding read the residual stream before the first block and after each. Shapes: P positions, L + 1
streams, V vocabulary.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from model.inspection.network import no_look
from model.inspection.summaries import Activations, log_sum_and_mean

ROWS_AT_ONCE = 256  # 51 MB of logits over 50,257 tokens


@dataclass(frozen=True, slots=True, eq=False)
class Lens:
    """For each stream and position the likeliest tokens, and how the token that came does; `rank` 0 is the first."""

    names: list[str]  # of the streams, L + 1
    top_ids: Tensor  # (L + 1, P, N)
    top_probabilities: Tensor  # (L + 1, P, N)
    rank: Tensor  # (L + 1, P)
    probability: Tensor  # (L + 1, P)
    entropy: Tensor  # (L + 1, P), in nats


def stream_names(num_layers: int) -> list[str]:
    return ["blocks.0.hook_resid_pre", *(f"blocks.{i}.hook_resid_post" for i in range(num_layers))]


def lens(
    activations: Activations,
    num_layers: int,
    positions: Tensor,
    targets: Tensor,
    top_n: int,
    normalize: Callable[[Tensor], Tensor],
    unembed: Callable[[Tensor], Tensor],
    look: Callable[[], None] = no_look,
) -> Lens:
    """Of the chosen rows; `targets` (P,) are the tokens that came there.

    `normalize` is the run's last LayerNorm, and `unembed` maps what it makes (P, C) to logits (P, V). `look` is called before each
    piece of rows.

    A run whose last LayerNorm is replaced reads all its streams by what replaces it, so that the last of them is its own output.
    """
    names = stream_names(num_layers)
    rows = normalize(torch.cat([activations[name][positions] for name in names]))  # ((L + 1) * P, C)
    targets = targets.repeat(len(names))
    pieces = []
    for some, targets_of_some in zip(torch.split(rows, ROWS_AT_ONCE), torch.split(targets, ROWS_AT_ONCE), strict=True):
        look()
        pieces.append(_figures(unembed(some), targets_of_some, top_n))
    figures = (torch.cat(of_pieces) for of_pieces in zip(*pieces, strict=True))
    return Lens(names, *(figure.reshape(len(names), len(positions), *figure.shape[1:]) for figure in figures))


def _figures(logits: Tensor, targets: Tensor, top_n: int) -> tuple[Tensor, ...]:
    """In the order of Lens."""
    top = logits.topk(min(top_n, logits.shape[-1]))
    came = logits.gather(-1, targets[:, None])  # (P, 1)
    rank = (logits > came).sum(dim=-1)
    log_sum, expected = log_sum_and_mean(logits)
    return top.indices, (top.values - log_sum[:, None]).exp(), rank, (came.squeeze(-1) - log_sum).exp(), log_sum - expected
