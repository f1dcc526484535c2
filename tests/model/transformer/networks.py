"""Small random encoder-decoders, and a batch for them: the second row is shorter on both sides."""

import torch

from model.transformer.config import TransformerConfig
from model.transformer.network import Transformer

SOURCE = torch.tensor([[5, 3, 9, 4, 2], [8, 6, 2, 0, 0]])  # (B, S)
TARGET = torch.tensor([[1, 4, 4, 10], [1, 3, 0, 0]])  # (B, T)


def sizes(**other: int | bool) -> TransformerConfig:
    chosen = {"vocab_size": 11, "max_positions": 24, "d_model": 20, "n_head": 5, "num_encoder_layers": 3, "num_decoder_layers": 2}
    return TransformerConfig(**{"d_ff": 28, "layer_norm_epsilon": 1e-3} | chosen | other)


def random_transformer(config: TransformerConfig, seed: int = 0) -> Transformer:
    """Weights, biases and LayerNorms all far from what they start with."""
    generator = torch.Generator().manual_seed(seed)
    model = Transformer(config).init_weights(generator).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model
