"""Pre- and post-LayerNorm on an untrained network of the same sizes: why GPT-2 moved it.

Vaswani et al. 2017 normalise the sum, x = ln(x + attn(x)); GPT-2 normalises what a branch reads, x = x + attn(ln(x)), and leaves
the stream alone. Xiong et al. 2020, "On Layer Normalization in the Transformer Architecture", show what follows at initialisation:
with post-LayerNorm the gradients near the output are large whatever the depth, hence the warm-up that such networks need; with
pre-LayerNorm they shrink with the root of the number of layers. GPT-2 has up to 48.

That holds where a branch writes about as much as the stream holds: for Xavier's initialisation (Glorot and Bengio 2010) and
embeddings of unit variance, which the 2017 Transformer and that paper have. With GPT-2's own, N(0, 0.02²), branches are small
beside a normalised stream, and post-LayerNorm looks harmless at the start. So the figures are told for both.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.config import GPT2Config
from model.gpt2 import GPT2, Attention, Block, CausalAttention
from model.inspection.network import Look, no_look

SEED = 0
Initialization = Literal["xavier", "gpt2"]


@dataclass(frozen=True, slots=True)
class OrderFigures:
    """Of one order at initialisation: the loss on the text, and the L2 norm of its gradient over each block's parameters."""

    loss: float
    gradient_norms: list[float]  # L


@dataclass(frozen=True, slots=True)
class Orders:
    pre: OrderFigures
    post: OrderFigures


def orders(config: GPT2Config, token_ids: Tensor, look: Look = no_look) -> dict[Initialization, Orders]:
    """Both orders with the same weights, on a text (T,) of at least two tokens; `look` is called before each block, both ways."""
    look()
    generator = torch.Generator().manual_seed(SEED)
    network = GPT2(config).init_weights(generator)
    for module in (network.wte, network.wpe, network.ln_f):  # The blocks' gradients are asked for.
        module.requires_grad_(False)
    gpt2 = Orders(_figures(network, token_ids, _pre, look), _figures(network, token_ids, _post, look))
    _draw_as_xavier(network, generator, look)
    unit = config.n_embd**0.5  # The unembedding being the same matrix, embeddings are multiplied: Vaswani et al. 2017, section 3.4.
    xavier = Orders(_figures(network, token_ids, _pre, look, unit), _figures(network, token_ids, _post, look, unit))
    return {"xavier": xavier, "gpt2": gpt2}


@torch.no_grad()
def _draw_as_xavier(network: GPT2, generator: torch.Generator, look: Look) -> None:
    """N(0, 2 / (in + out)) for each of a block's matrices, N(0, 1 / C) for the embeddings."""
    for embedding in (network.wte, network.wpe):
        nn.init.normal_(embedding.weight, std=network.config.n_embd**-0.5, generator=generator)
    for name, parameter in network.h.named_parameters():
        look()
        if parameter.ndim == 2:
            for matrix in parameter.chunk(3 if name.endswith("c_attn.weight") else 1):  # q, k and v are three
                nn.init.xavier_normal_(matrix, generator=generator)


def _pre(network: GPT2, x: Tensor, attention: Attention, look: Look) -> Tensor:
    for block in network.h:
        look()
        x = block(x, attention)
    return network.ln_f(x)  # type: ignore[no-any-return]


def _post(network: GPT2, x: Tensor, attention: Attention, look: Look) -> Tensor:
    """The stream leaves each block normalised: there is no LayerNorm at the end."""
    for block in cast("Iterable[Block]", network.h):
        look()
        x = block.ln_1(x + block.attn(x, attention))
        x = block.ln_2(x + block.mlp(x))
    return x


def _figures(
    network: GPT2, token_ids: Tensor, run: Callable[[GPT2, Tensor, Attention, Look], Tensor], look: Look, scale: float = 1.0
) -> OrderFigures:
    x = scale * (network.wte(token_ids) + network.wpe(torch.arange(len(token_ids))))  # (T, C)
    logits = network.lm_head(run(network, x[None], CausalAttention(), look)[0])  # (T, V)
    loss = F.cross_entropy(logits[:-1], token_ids[1:])
    with _squares_of_gradients(network, look) as squares:
        loss.backward()  # type: ignore[no-untyped-call]
    return OrderFigures(loss.item(), [square**0.5 for square in squares])


@contextmanager
def _squares_of_gradients(network: GPT2, look: Look) -> Iterator[list[float]]:
    """Each block's sum of squares, by a backward pass within; a gradient is let go once it is counted, to need no memory."""
    squares = [0.0] * len(network.h)

    def count(layer: int, parameter: Tensor) -> None:
        look()
        assert parameter.grad is not None
        squares[layer] += float(parameter.grad.square().sum())
        parameter.grad = None

    hooks = [
        parameter.register_post_accumulate_grad_hook(partial(count, layer))  # type: ignore[no-untyped-call]
        for layer, block in enumerate(network.h)
        for parameter in block.parameters()
    ]
    try:
        yield squares
    finally:
        for hook in hooks:
            hook.remove()
