"""A small random network to look into, whose biases and LayerNorms are far from what they start with, and tokens for it."""

import torch

from model.config import GPT2Config
from model.gpt2 import GPT2
from model.inspection.network import InspectedNetwork

LAYERS, HEADS, VOCABULARY = 3, 5, 97


def random_network(seed: int = 0) -> InspectedNetwork:
    config = GPT2Config(vocab_size=VOCABULARY, n_positions=33, n_embd=35, n_layer=LAYERS, n_head=HEADS, eos_token_ids=(0,))
    generator = torch.Generator().manual_seed(seed)
    model = GPT2(config).init_weights(generator).requires_grad_(False)
    for parameter in model.parameters():
        parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return InspectedNetwork(model)


def random_tokens(num_tokens: int, seed: int = 1) -> tuple[int, ...]:
    return tuple(torch.randint(VOCABULARY, (num_tokens,), generator=torch.Generator().manual_seed(seed)).tolist())
