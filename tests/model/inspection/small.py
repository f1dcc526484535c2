"""A network small enough for hundreds of runs, whose numbers are all far from what they start with."""

from typing import Any

import torch

from model.config import GPT2Config
from model.gpt2 import GPT2
from model.inspection.request import InspectionRequest

# No two sizes are alike, so that a mistaken axis cannot pass for the right one.
SIZES = GPT2Config(vocab_size=97, n_positions=24, n_embd=20, n_layer=3, n_head=4, n_inner=33, eos_token_ids=(0,))
PROMPT = (5, 17, 5, 42, 8, 17, 91)


def small_network() -> GPT2:
    generator = torch.Generator().manual_seed(3)
    network = GPT2(SIZES).init_weights(generator)
    for parameter in network.parameters():
        parameter.data.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return network


def request(**fields: Any) -> InspectionRequest:
    """Without summaries and continuation, unless they are asked for."""
    return InspectionRequest(**{"prompt": PROMPT, "summaries": (), "max_new_tokens": 0} | fields)
