"""Two networks and three pairs of answers, for which tests/data/dpo_trl.json has a loss and its gradients: read by the test of ours
and by benchmarks/dpo_reference.py, which has `trl` compute them.
"""

from collections.abc import Sequence

import torch

from model.config import GPT2Config
from model.gpt2 import GPT2

CONFIG = GPT2Config(vocab_size=40, n_positions=16, n_embd=12, n_layer=2, n_head=3, eos_token_ids=(39,))
BETA = 0.3
Pair = tuple[
    list[int], list[int], list[int]
]  # tokens given, tokens chosen, tokens rejected; of three lengths, as collators meet them
PAIRS: tuple[Pair, ...] = (
    ([5, 9, 2], [7, 7, 1, 39], [8, 39]),
    ([3], [30, 31, 39], [1, 2, 3, 4, 5, 39]),
    ([11, 12, 13, 14, 15], [39], [16, 39]),
)


def network(phase: float) -> GPT2:
    """A network whose weights are sines: the same on every machine, with every release of torch."""
    model = GPT2(CONFIG)
    with torch.no_grad():
        for number, (name, parameter) in enumerate(sorted(model.named_parameters())):
            waves = torch.sin(0.7 * torch.arange(parameter.numel(), dtype=torch.float64) + phase + number)
            parameter.copy_((0.4 * waves + (name.endswith("weight") and parameter.ndim == 1)).view(parameter.shape))
    return model


def rows(pairs: Sequence[Pair] = PAIRS) -> list[tuple[list[int], list[int]]]:
    """What was given with one answer to it, in trl's order and ours: all chosen, then all rejected."""
    return [(pair[0], pair[which]) for which in (1, 2) for pair in pairs]
