"""The encoder-decoder Transformer, top to bottom. Knows tensors only: no text, no search, no training.

Vaswani et al. 2017, "Attention Is All You Need". Self-attention, MLP and LayerNorm are those of `model.gpt2`, as are their names.

Shapes: B rows, S source tokens, T target tokens, H heads, D head size, C width of the model (H * D), V vocabulary.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.gpt2 import MLP, Attention, CausalAttention, LayerNorm, SelfAttention, dropout_layer
from model.transformer.config import TransformerConfig


def sinusoids(num_positions: int, size: int) -> Tensor:
    """PE[p, 2i] = sin(p / 10000^(2i/C)), PE[p, 2i+1] = cos(p / 10000^(2i/C)): (num_positions, C), section 3.5."""
    frequencies = torch.exp(torch.arange(0, size, 2, dtype=torch.float64) * (-math.log(10000) / size))  # (C/2,)
    angles = torch.arange(num_positions)[:, None] * frequencies  # (P, C/2)
    return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(1).float()  # (P, C)


class MaskedAttention:
    """softmax(q kᵀ / sqrt(D)) v over those keys that `mask` (B, 1, 1, S) allows, wherever a query stands."""

    def __init__(self, mask: Tensor) -> None:
        self.mask = mask

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))  # (B, H, T or S, D)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=self.mask).transpose(1, 2)  # (B, T, H, D)


@dataclass(frozen=True, slots=True)
class Memory:
    """A source as the decoder sees it: its mask, and its keys and values in each decoder layer, computed once."""

    mask: Tensor  # (B, 1, 1, S), true where there is a token
    keys_values: tuple[tuple[Tensor, Tensor], ...]  # a layer: 2 x (B, S, H, D)

    def rows(self, index: Tensor) -> "Memory":
        return Memory(self.mask[index], tuple((k[index], v[index]) for k, v in self.keys_values))


class CrossAttention(nn.Module):
    """q = x W_q + b_q of the target, [k, v] = y W_kv + b_kv of the encoded source: section 3.2.3, its first point."""

    def __init__(self, config: TransformerConfig, layer: int, dropout: float) -> None:
        super().__init__()
        self.layer, self.n_head = layer, config.n_head
        self.c_q = nn.Linear(config.d_model, config.d_model)
        self.c_kv = nn.Linear(config.d_model, 2 * config.d_model)
        self.c_proj = nn.Linear(config.d_model, config.d_model)
        self.resid_dropout = dropout_layer(dropout)

    def keys_values(self, source: Tensor) -> tuple[Tensor, Tensor]:
        k, v = self.c_kv(source).unflatten(-1, (2, self.n_head, -1)).unbind(2)  # 2 x (B, S, H, D)
        return k, v

    def forward(self, x: Tensor, k: Tensor, v: Tensor, attention: Attention) -> Tensor:
        q = self.c_q(x).unflatten(-1, (self.n_head, -1))  # (B, T, H, D)
        y = attention(self.layer, q, k, v)  # (B, T, H, D)
        return self.resid_dropout(self.c_proj(y.flatten(2)))  # type: ignore[no-any-return]


class Layer(nn.Module):
    """What both kinds of layer share: where LayerNorm stands in a sub-layer's residual sum."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.pre_norm = config.pre_norm

    def add(self, x: Tensor, norm: nn.Module, sublayer: Callable[[Tensor], Tensor]) -> Tensor:
        """norm(x + sublayer(x)) as published, section 3.1, or x + sublayer(norm(x)) as in GPT-2."""
        return x + sublayer(norm(x)) if self.pre_norm else norm(x + sublayer(x))


class EncoderLayer(Layer):
    """Self-attention over the whole source, then the MLP."""

    def __init__(self, config: TransformerConfig, layer: int, dropout: float) -> None:
        super().__init__(config)
        self.attn = SelfAttention(config.d_model, config.n_head, layer, dropout)
        self.ln_1 = LayerNorm(config.d_model, config.layer_norm_epsilon)
        self.mlp = MLP(config.d_model, config.d_ff, nn.ReLU(), dropout)
        self.ln_2 = LayerNorm(config.d_model, config.layer_norm_epsilon)

    def forward(self, x: Tensor, attention: Attention) -> Tensor:
        x = self.add(x, self.ln_1, lambda x: self.attn(x, attention))
        return self.add(x, self.ln_2, self.mlp)


class DecoderLayer(Layer):
    """Causal self-attention over the target so far, cross-attention to the source, then the MLP."""

    def __init__(self, config: TransformerConfig, layer: int, dropout: float) -> None:
        super().__init__(config)
        self.attn = SelfAttention(config.d_model, config.n_head, layer, dropout)
        self.ln_1 = LayerNorm(config.d_model, config.layer_norm_epsilon)
        self.cross = CrossAttention(config, layer, dropout)
        self.ln_2 = LayerNorm(config.d_model, config.layer_norm_epsilon)
        self.mlp = MLP(config.d_model, config.d_ff, nn.ReLU(), dropout)
        self.ln_3 = LayerNorm(config.d_model, config.layer_norm_epsilon)

    def forward(self, x: Tensor, keys_values: tuple[Tensor, Tensor], attention: Attention, cross: Attention) -> Tensor:
        x = self.add(x, self.ln_1, lambda x: self.attn(x, attention))
        x = self.add(x, self.ln_2, lambda x: self.cross(x, *keys_values, cross))
        return self.add(x, self.ln_3, self.mlp)


class Transformer(nn.Module):
    """memory = encoder(embed(source)); logits = decoder(embed(target), memory) wteᵀ.

    One matrix embeds source and target and makes the logits (section 3.4). A target needs no mask of its own: padding stands at its
    end, where the causal mask hides it from all before. `dropout` is the paper's, on each sub-layer's output and on the embeddings
    (section 5.4); it acts in training mode alone.
    """

    def __init__(self, config: TransformerConfig, dropout: float = 0.0) -> None:
        super().__init__()
        self.config = config
        self.wte = nn.Embedding(config.vocab_size, config.d_model)
        self.register_buffer("wpe", sinusoids(config.max_positions, config.d_model), persistent=False)
        self.drop = dropout_layer(dropout)
        self.encoder = nn.ModuleList(EncoderLayer(config, layer, dropout) for layer in range(config.num_encoder_layers))
        self.decoder = nn.ModuleList(DecoderLayer(config, layer, dropout) for layer in range(config.num_decoder_layers))
        # Behind a sum that no LayerNorm follows, as in GPT-2; the published layers end with one.
        self.encoder_ln_f = self._final_norm()
        self.decoder_ln_f = self._final_norm()

    def _final_norm(self) -> nn.Module:
        return LayerNorm(self.config.d_model, self.config.layer_norm_epsilon) if self.config.pre_norm else nn.Identity()

    def init_weights(self, generator: torch.Generator | None = None) -> "Transformer":
        """Glorot's uniform for matrices, N(0, 1/C) for the embedding, whose rows then have norm 1 where logits are made of them."""
        for name, parameter in self.named_parameters():
            if name == "wte.weight":
                nn.init.normal_(parameter, std=self.config.d_model**-0.5, generator=generator)
            elif parameter.dim() == 2:
                nn.init.xavier_uniform_(parameter, generator=generator)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)
        return self

    def embed(self, tokens: Tensor, first: int = 0) -> Tensor:
        """wte[tokens] sqrt(C) + PE[positions] for tokens (B, T), the first of them at position `first`."""
        num_positions = first + tokens.shape[1]
        if num_positions > self.config.max_positions:
            raise ValueError(f"a sequence has {num_positions} tokens; the model takes at most {self.config.max_positions}")
        positions = self.wpe[first:num_positions]  # type: ignore[index]  # (T, C)
        return self.drop(self.wte(tokens) * math.sqrt(self.config.d_model) + positions)  # type: ignore[no-any-return]

    def encode(self, source: Tensor) -> Memory:
        """What the decoder needs of source (B, S); rows are filled up with pad_id at their ends."""
        mask = (source != self.config.pad_id)[:, None, None, :]  # (B, 1, 1, S)
        x, attention = self.embed(source), MaskedAttention(mask)  # (B, S, C)
        for layer in self.encoder:
            x = layer(x, attention)
        x = self.encoder_ln_f(x)
        return Memory(mask, tuple(layer.cross.keys_values(x) for layer in self.decoder))  # type: ignore[operator, union-attr]

    def decode(
        self, target: Tensor, memory: Memory, attention: Attention, first: int = 0, cross: Attention | None = None
    ) -> Tensor:
        """Logits (B, T, V) of what follows each token of target (B, T), whose first stands at position `first`.

        `attention` is among the target's tokens; `cross`, to the source's, may be another than the masked one, to watch it.
        """
        cross = cross or MaskedAttention(memory.mask)
        x = self.embed(target, first)  # (B, T, C)
        for layer, keys_values in zip(self.decoder, memory.keys_values, strict=True):
            x = layer(x, keys_values, attention, cross)
        return F.linear(self.decoder_ln_f(x), self.wte.weight)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        """Logits (B, T, V) for source (B, S) and target (B, T), which begins with bos_id."""
        return self.decode(target, self.encode(source), CausalAttention())
