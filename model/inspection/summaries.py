"""What a run's activations say in figures: norms, LayerNorm's mean and deviation, where heads look, entropy.

Pure functions of activations by their hook names, which have no batch axis; `positions` (P,) chooses rows. Shapes: T tokens,
H heads, L layers. NaN stands where a figure is not defined: the cosine of nothing, a mean over no position.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

Activations = Mapping[str, Tensor]
Looks = dict[str, Tensor]  # where a layer's heads look, a figure a head

# What is added to the stream, and the stream that it is added to.
ADDED = {"attn": ("attn_out", "resid_pre"), "mlp": ("mlp_out", "resid_mid")}
ROWS_AT_ONCE = 128  # whose exponentials, 26 MB over 50,257 tokens, are in memory together
STREAMS = ("resid_pre", "attn_out", "resid_mid", "mlp_out", "resid_post")


def norms(activations: Activations, num_layers: int, positions: Tensor) -> dict[str, Tensor]:
    """L2 norms of the embeddings (P,) and of the stream and what each branch adds to it (L, P), with the cosines of the two."""
    result = {name: activations[f"hook_{name}"][positions].norm(dim=-1) for name in ("embed", "pos_embed")}
    for name in STREAMS:
        streams = _of_layers(activations, f"hook_{name}", num_layers)
        result[name] = torch.stack([stream[positions].norm(dim=-1) for stream in streams])
    for branch, (added, before) in ADDED.items():
        pairs = zip(*(_of_layers(activations, f"hook_{name}", num_layers) for name in (added, before)), strict=True)
        result[f"{branch}_cosine"] = torch.stack([_cosine(x[positions], y[positions]) for x, y in pairs])
    return result


def _of_layers(activations: Activations, name: str, num_layers: int) -> list[Tensor]:
    return [activations[f"blocks.{i}.{name}"] for i in range(num_layers)]


def _cosine(x: Tensor, y: Tensor) -> Tensor:
    """(P,) of two (P, C); torch's own calls that of nothing 0."""
    cosine: Tensor = (x * y).sum(dim=-1) / (x.norm(dim=-1) * y.norm(dim=-1))
    return cosine


def layer_norm(activations: Activations, num_layers: int, positions: Tensor, eps: float) -> dict[str, dict[str, Tensor]]:
    """Mean and deviation, sqrt(var + eps), over the features of what each LayerNorm reads: (L, P), of the last one (P,)."""
    blocks = {"ln1": "hook_resid_pre", "ln2": "hook_resid_mid"}
    result = {}
    for name, read in blocks.items():
        of_layers = [_mean_and_deviation(x[positions], eps) for x in _of_layers(activations, read, num_layers)]
        mean, deviation = (torch.stack(rows) for rows in zip(*of_layers, strict=True))
        result[name] = {"mean": mean, "deviation": deviation}
    last = activations[f"blocks.{num_layers - 1}.hook_resid_post"][positions]
    mean, deviation = _mean_and_deviation(last, eps)
    return result | {"ln_final": {"mean": mean, "deviation": deviation}}


def _mean_and_deviation(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    return x.mean(dim=-1), (x.var(dim=-1, correction=0) + eps).sqrt()


def looks(pattern: Tensor, token_ids: Tensor) -> Looks:
    """One layer's weight on the previous token, the first and its own, its entropy in nats, and its distance in tokens: (H,) each.

    Means over the positions that have a choice, which the first has not. `induction` is the weight on tokens that follow an earlier
    occurrence of the position's own token (Olsson et al. 2022, "In-context Learning and Induction Heads"), over the positions that
    have one: in "the cat ... the", what the second "the" gives to "cat".
    """
    T = pattern.shape[-1]
    places = torch.arange(T, device=pattern.device)
    distances = (places[:, None] - places).to(pattern.dtype)  # (T, T)
    chosen = pattern[:, 1:]  # (H, T - 1, T)
    return {
        "previous": pattern.diagonal(-1, 1, 2).mean(dim=-1),
        "first": chosen[:, :, 0].mean(dim=-1),
        "self": pattern.diagonal(0, 1, 2)[:, 1:].mean(dim=-1),
        "entropy": -torch.special.xlogy(chosen, chosen).sum(dim=-1).mean(dim=-1),
        "distance": (chosen * distances[1:]).sum(dim=-1).mean(dim=-1),
        "induction": _induction(pattern, token_ids),
    }


def stacked(layers: Sequence[Looks]) -> Looks:
    """The layers' looks as one, (L, H) each."""
    return {name: torch.stack([layer[name] for layer in layers]) for name in layers[0]}


def _induction(pattern: Tensor, token_ids: Tensor) -> Tensor:
    """(H,): NaN where no token has occurred before; the position itself, as in "a a", is no earlier one."""
    follows = torch.zeros_like(pattern[0], dtype=torch.bool)  # (T, T): [query, key]
    follows[:, 1:] = token_ids[:, None] == token_ids[:-1]
    follows = follows.tril(diagonal=-1)
    queries = follows.any(dim=-1)
    return (pattern * follows).sum(dim=-1)[:, queries].mean(dim=-1)


def entropy(logits: Tensor) -> Tensor:
    """Of softmax(logits), in nats: (T,) of (T, V)."""
    pieces = (log_sum_and_mean(rows) for rows in torch.split(logits, ROWS_AT_ONCE))
    return torch.cat([log_sum - expected for log_sum, expected in pieces])


def log_sum_and_mean(logits: Tensor) -> tuple[Tensor, Tensor]:
    """log Σ exp(logits) and the logits' mean under softmax, (T,) each of (T, V), for one exp a logit."""
    highest = logits.amax(dim=-1, keepdim=True)
    powers = (logits - highest).exp_()  # (T, V)
    total = powers.sum(dim=-1)
    return total.log() + highest.squeeze(-1), torch.linalg.vecdot(powers, logits) / total
