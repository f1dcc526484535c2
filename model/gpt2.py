"""The network of GPT-2, top to bottom. Knows tensors only: no files, no sampling, no requests.

Radford et al. 2019, "Language Models are Unsupervised Multitask Learners", section 2.3, a decoder-only Transformer (Vaswani et al.
2017) with layer normalisation moved to the input of each sub-block. Attributes carry the names of the published checkpoints.

Shapes: B rows, T tokens, H heads, D head size, C embedding (H * D), V vocabulary. A leading "..." is (B, T) in training and (T,)
when the runner sends the rows of many sequences through at once: only attention ever looks beyond its own row.
"""

import copy
import math
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.config import GPT2Config


class Attention(Protocol):
    """How queries meet keys and values: the one place where positions of a sequence see each other."""

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Map q, k, v, each (..., H, D), of one layer to the attended values (..., H, D)."""


class CausalAttention:
    """softmax(q kᵀ / sqrt(D) + mask) v over whole sequences, each position seeing itself and those before it.

    Vaswani et al. 2017, section 3.2.1, equation 1. Takes and returns (B, T, H, D); `dropout` applies to the softmax's weights.
    """

    def __init__(self, dropout: float = 0.0) -> None:
        self.dropout = dropout

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (x.transpose(-3, -2) for x in (q, k, v))  # (B, H, T, D)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, dropout_p=self.dropout)
        return y.transpose(-3, -2)  # (B, T, H, D)


def dropout_layer(rate: float) -> nn.Module:
    return nn.Dropout(rate) if rate else nn.Identity()


class LayerNorm(nn.Module):
    """y = (x - mean(x)) / sqrt(var(x) + eps) * weight + bias, over the last axis (Ba et al. 2016, equation 4)."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.bias = nn.Parameter(torch.zeros(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)


class SelfAttention(nn.Module):
    """[q, k, v] = x W_attn + b_attn; y = concat over heads of attention(q_h, k_h, v_h); out = y W_proj + b_proj.

    Multi-head attention, Vaswani et al. 2017, section 3.2.2. Who sees whom is the affair of the `Attention` that it is given.
    """

    def __init__(self, n_embd: int, n_head: int, layer: int, dropout: float) -> None:
        super().__init__()
        self.layer = layer
        self.n_embd, self.n_head, self.head_dim = n_embd, n_head, n_embd // n_head
        self.c_attn = nn.Linear(n_embd, 3 * n_embd)
        self.c_proj = nn.Linear(n_embd, n_embd)
        self.resid_dropout = dropout_layer(dropout)

    def forward(self, x: Tensor, attention: Attention) -> Tensor:
        heads = (*x.shape[:-1], self.n_head, self.head_dim)
        q, k, v = self.c_attn(x).split(self.n_embd, dim=-1)  # 3 x (..., C)
        y = attention(self.layer, q.view(heads), k.view(heads), v.view(heads))  # (..., H, D)
        return self.resid_dropout(self.c_proj(y.reshape(x.shape)))  # type: ignore[no-any-return]


class MLP(nn.Module):
    """out = act(x W_fc + b_fc) W_proj + b_proj: Vaswani et al. 2017, section 3.3; `act` is gelu in GPT-2 and relu there."""

    def __init__(self, n_embd: int, inner_size: int, act: nn.Module, dropout: float) -> None:
        super().__init__()
        self.c_fc = nn.Linear(n_embd, inner_size)
        self.act = act
        self.c_proj = nn.Linear(inner_size, n_embd)
        self.dropout = dropout_layer(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.c_proj(self.act(self.c_fc(x))))  # type: ignore[no-any-return]


class Block(nn.Module):
    """x = x + attn(ln_1(x)); x = x + mlp(ln_2(x)): the pre-LayerNorm residual block of GPT-2, section 2.3.

    The MLP's gelu(u) = u/2 (1 + tanh(sqrt(2/pi) (u + 0.044715 u³))) is the tanh form of Hendrycks and Gimpel 2016, "Gaussian Error
    Linear Units", section 2.
    """

    def __init__(self, config: GPT2Config, layer: int, dropout: float) -> None:
        super().__init__()
        self.ln_1 = LayerNorm(config.n_embd, config.layer_norm_epsilon)
        self.attn = SelfAttention(config.n_embd, config.n_head, layer, dropout)
        self.ln_2 = LayerNorm(config.n_embd, config.layer_norm_epsilon)
        self.mlp = MLP(config.n_embd, config.inner_size, nn.GELU(approximate="tanh"), dropout)

    def forward(self, x: Tensor, attention: Attention) -> Tensor:
        x = x + self.attn(self.ln_1(x), attention)
        return x + self.mlp(self.ln_2(x))  # type: ignore[no-any-return]


class GPT2(nn.Module):
    """h = wte[tokens] + wpe[positions]; h = block_i(h) for each layer; logits = ln_f(h) wteᵀ.

    The output embedding is the input embedding (Press and Wolf 2017, "Using the Output Embedding to Improve Language Models").
    `dropout` is the rate of all of GPT-2's dropouts; it acts in training mode alone.
    """

    def __init__(self, config: GPT2Config, dropout: float = 0.0) -> None:
        super().__init__()
        self.config = config
        self.attention_dropout = dropout
        self.wte = nn.Embedding(config.vocab_size, config.n_embd)
        self.wpe = nn.Embedding(config.n_positions, config.n_embd)
        self.drop = dropout_layer(dropout)
        self.h = nn.ModuleList(Block(config, layer, dropout) for layer in range(config.n_layer))
        self.ln_f = LayerNorm(config.n_embd, config.layer_norm_epsilon)
        self.lm_head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        self.lm_head.weight = self.wte.weight

    def init_weights(self, generator: torch.Generator | None = None) -> "GPT2":
        """Draw N(0, initializer_range²); residual projections scaled by 1/sqrt(2 * n_layer), GPT-2 section 2.3."""
        std = self.config.initializer_range
        for name, parameter in self.named_parameters():
            if name.endswith("c_proj.weight"):
                nn.init.normal_(parameter, std=std / math.sqrt(2 * self.config.n_layer), generator=generator)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)
            elif ".ln_" not in name and not name.startswith("ln_"):
                nn.init.normal_(parameter, std=std, generator=generator)
        return self

    def for_inference(self, device: torch.device, dtype: torch.dtype) -> "GPT2":
        """A copy in evaluation mode without gradients, on `device` in `dtype`; it shares the weights that are so already."""
        weights = {id(p): nn.Parameter(p.detach().to(device, dtype), requires_grad=False) for p in self.parameters()}
        return copy.deepcopy(self, dict[int, Any](weights)).eval()  # which takes these for copies made before

    def hidden_states(self, token_ids: Tensor, positions: Tensor, attention: Attention) -> Tensor:
        """Run all blocks and the final LayerNorm: token_ids and positions (...), result (..., C)."""
        return self.transform(self.embed(token_ids, positions), attention)

    def embed(self, token_ids: Tensor, positions: Tensor) -> Tensor:
        """wte[token_ids] + wpe[positions], both (...): (..., C)."""
        return self.drop(self.wte(token_ids) + self.wpe(positions))  # type: ignore[no-any-return]

    def transform(self, x: Tensor, attention: Attention) -> Tensor:
        """All blocks and the final LayerNorm: (..., C) to (..., C)."""
        for block in self.h:
            x = block(x, attention)
        return self.ln_f(x)  # type: ignore[no-any-return]

    def forward(self, token_ids: Tensor) -> Tensor:
        """Logits (B, T, V) of whole sequences token_ids (B, T); T at most n_positions."""
        positions = torch.arange(token_ids.shape[-1], device=token_ids.device)  # (T,)
        attention = CausalAttention(self.attention_dropout if self.training else 0.0)
        return self.lm_head(self.hidden_states(token_ids, positions, attention))  # type: ignore[no-any-return]
