"""How large an answer is, and what it takes to hold, told before anything is computed. Knows no tensors.

T tokens, P of them chosen, L layers, H heads, C embedding, I width of the MLP, V vocabulary. Every number is counted as a float32.
"""

import math
from dataclasses import dataclass

from model.config import GPT2Config
from model.inspection.names import expand_all, shape, token_axis
from model.inspection.request import InspectionRequest, Patch

NUMBER_BYTES = 4
TOKEN_BYTES = 32  # of a token that is told: id, text and probability, under their names; a third of what JSON takes, as numbers are


@dataclass(frozen=True, slots=True)
class Size:
    """Of an activation in an answer."""

    shape: tuple[int, ...]
    num_bytes: int


def sizes(request: InspectionRequest, config: GPT2Config) -> dict[str, Size]:
    """What the answer's activations would have, by name; once for each run. The request has been checked."""
    num_tokens, result = len(request.prompt), {}
    for name in expand_all(request.names, config):
        dimensions = list(shape(name, config, num_tokens))
        dimensions[token_axis(name)] = _num_rows(request)
        result[name] = Size(tuple(dimensions), NUMBER_BYTES * math.prod(dimensions))
    return result


def summaries_bytes(request: InspectionRequest, config: GPT2Config) -> int:
    """At most so many have the answer's summaries, once for each run. The request has been checked."""
    T, P, L, H = len(request.prompt), _num_rows(request), config.n_layer, config.n_head
    numbers = {
        "norms": (2 + 7 * L) * P,
        "layer_norm": 2 * (2 * L + 1) * P,
        "attention": 6 * L * H,
        "lens": 3 * (L + 1) * P,
        "entropy": T,
        "attribution": L * (H + 2) + 8,
        "prompt_attribution": T + 2,
        "layer_norm_order": 5 * L + 4,
    }
    told = min(request.top_n, config.vocab_size) * (L + 1) * P if "lens" in request.summaries else 0
    return NUMBER_BYTES * sum(numbers[summary] for summary in request.summaries) + TOKEN_BYTES * told


def num_bytes(request: InspectionRequest, config: GPT2Config) -> int:
    """Of the answer's activations and summaries, in both runs if there are two."""
    of_one = sum(size.num_bytes for size in sizes(request, config).values()) + summaries_bytes(request, config)
    return of_one * (2 if request.ablations else 1)


def graph_bytes(config: GPT2Config, num_tokens: int) -> int:
    """Of what a backward pass through all blocks needs."""
    return config.n_layer * _block_graph_bytes(config, num_tokens)


def _block_graph_bytes(config: GPT2Config, num_tokens: int) -> int:
    """A head's scores and patterns; what goes into LayerNorms, centred and scaled; q, k, v, z; the MLP before and after."""
    a_token = 2 * config.n_head * num_tokens + 14 * config.n_embd + 2 * config.inner_size
    return NUMBER_BYTES * num_tokens * a_token


def patches_bytes(request: InspectionRequest, config: GPT2Config) -> int:
    """Of what is taken from other prompts. The request has been checked."""
    return sum(_taken_bytes(patch, len(request.prompt), config) for patch in request.ablations if isinstance(patch, Patch))


def _taken_bytes(patch: Patch, num_tokens: int, config: GPT2Config) -> int:
    if patch.prompt is None:
        return 0
    dimensions = list(shape(patch.name, config, len(patch.prompt)))
    rows = min(num_tokens, len(patch.prompt)) if patch.positions is None else len(patch.positions)
    dimensions[token_axis(patch.name)] = rows
    return NUMBER_BYTES * math.prod(dimensions) // (1 if patch.head is None else config.n_head)


def _num_rows(request: InspectionRequest) -> int:
    return len(request.prompt) if request.positions is None else len(request.positions)
