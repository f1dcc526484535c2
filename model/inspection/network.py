"""The network of model/gpt2.py as it stands, run step by step so that one can look in: every value with a name passes `point`.

A point hands a value on after what a request changes there, and keeps it where it is asked for: what is kept is what went on. The
modules and their weights are the network's own. Names are TransformerLens'; shapes: T tokens of this run, S of all since the start,
H heads, D head size, C embedding, I width of the MLP, V vocabulary.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from model.config import GPT2Config
from model.gpt2 import GPT2, MLP, Block, LayerNorm
from model.inspection.linear import with_shared_linears
from model.inspection.names import block_name
from model.inspection.sizes import graph_bytes

# Of the value at a point, and the position of its first token.
Change = Callable[[Tensor, int], Tensor]
# Of the value that a point hands on.
Watch = Callable[[Tensor], None]
# Of the positions of queries (T, 1) and keys (1, S): what a head may see of those before, (T, S).
Sight = Callable[[Tensor, Tensor], Tensor]
# Called now and then in what takes long; it may raise, to end it.
Look = Callable[[], None]

MAX_GRAPH_BYTES = 256 << 20  # of what a backward pass needs; where it would be more, each block is computed anew for it


def no_look() -> None:
    """Nobody ends it."""


@dataclass(slots=True, eq=False)
class Changes:
    """What is done to the network: nothing, unless something is put here."""

    at_points: dict[str, list[Change]] = field(default_factory=dict)
    without_residual: set[tuple[str, int]] = field(default_factory=set)  # branch and layer
    layer_norms: dict[str, str] = field(default_factory=dict)  # "identity" or "mean_only", by name as in "blocks.0.ln1"
    sights: dict[int, list[tuple[list[int], Sight]]] = field(default_factory=dict)  # of some heads of a layer


@dataclass(frozen=True, eq=False)
class Run:
    """What the network has made of tokens: the values asked for, and the logits, computed when they are first looked at."""

    activations: dict[str, Tensor]
    normalized: Tensor  # (T, C), what the output embedding reads
    lm_head: nn.Linear

    @cached_property
    def logits(self) -> Tensor:
        return self.lm_head(self.normalized)  # type: ignore[no-any-return]  # (T, V)

    @property
    def last_logits(self) -> Tensor:
        return self.lm_head(self.normalized[-1:])[0]  # type: ignore[no-any-return]  # (V,)


class Past:
    """Keys and values of the tokens run so far, so that those that follow are run alone."""

    def __init__(self, config: GPT2Config, max_tokens: int) -> None:
        self._keys_and_values = torch.empty(config.n_layer, 2, max_tokens, config.n_head, config.head_dim)
        self.num_tokens = 0

    def extend(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Put those of new tokens (T, H, D) behind the layer's others; all of them, (S, H, D)."""
        keys, values = self._keys_and_values[layer, :, : self.num_tokens + len(k)]
        keys[self.num_tokens :], values[self.num_tokens :] = k.detach(), v.detach()
        return (keys, values) if self.num_tokens else (k, v)


class InspectedNetwork:
    """Runs a GPT2 in float32 on the CPU, sharing its weights where they are so already; never changes it.

    `look` is called before each block, in the backward pass too.
    """

    def __init__(self, network: GPT2, look: Look = no_look) -> None:
        self.network, self.look = with_shared_linears(network), look
        self.config = network.config
        self.max_graph_bytes = MAX_GRAPH_BYTES

    def run(
        self,
        token_ids: Iterable[int],
        names: Iterable[str] = (),
        changes: Changes | None = None,
        past: Past | None = None,
        leaf: str | None = None,
        watches: Mapping[str, Sequence[Watch]] | None = None,
    ) -> Run:
        """Run tokens, the first of a text or those that follow `past`, which then has them too.

        With a `leaf`, the name of a point, everything after it can be differentiated by its value, once. `watches` see what is not
        to be kept whole.
        """
        ids = torch.tensor(list(token_ids))  # (T,)
        is_large = leaf is not None and graph_bytes(self.config, len(ids)) > self.max_graph_bytes
        steps = _Pass(self.network, frozenset(names), changes or Changes(), past, leaf, watches or {}, self.look, is_large)
        with torch.set_grad_enabled(leaf is not None):
            return steps.run(ids)


class _Pass:
    """One way through the network, from top to bottom."""

    def __init__(
        self,
        network: GPT2,
        names: frozenset[str],
        changes: Changes,
        past: Past | None,
        leaf: str | None,
        watches: Mapping[str, Sequence[Watch]],
        look: Look,
        recomputes: bool = False,
    ) -> None:
        self.network, self.names, self.changes, self.past, self.leaf = network, names, changes, past, leaf
        self.watches, self.look, self.recomputes = watches, look, recomputes
        self.start = past.num_tokens if past else 0
        self.activations: dict[str, Tensor] = {}

    def run(self, ids: Tensor) -> Run:
        positions = torch.arange(self.start, self.start + len(ids))
        embed = self.point("hook_embed", self.network.wte(ids))  # (T, C)
        x = embed + self.point("hook_pos_embed", self.network.wpe(positions))
        for layer, block in enumerate(self.network.h):
            assert isinstance(block, Block)
            recomputed = self.recomputes and x.requires_grad
            x = _Recomputed.apply(x, self, layer, block) if recomputed else self.block(layer, block, x)  # type: ignore[no-untyped-call]
        if self.past:
            self.past.num_tokens += len(ids)
        return Run(self.activations, self.layer_norm("ln_final", self.network.ln_f, x), self.network.lm_head)

    def block(self, layer: int, block: Block, x: Tensor) -> Tensor:
        """x = x + attn(ln_1(x)); x = x + mlp(ln_2(x))."""

        def at(hook: str) -> str:
            return block_name(layer, hook)

        look = self.look
        look()
        if x.requires_grad:
            x.register_hook(lambda _: look())  # type: ignore[no-untyped-call]
        x = self.point(at("hook_resid_pre"), x)
        attn_out = self.point(at("hook_attn_out"), block.attn(self.layer_norm(at("ln1"), block.ln_1, x), self.attention))
        x = self.point(at("hook_resid_mid"), self.add("attention", layer, x, attn_out))
        mlp_out = self.point(at("hook_mlp_out"), self.mlp(at("mlp"), block.mlp, self.layer_norm(at("ln2"), block.ln_2, x)))
        return self.point(at("hook_resid_post"), self.add("mlp", layer, x, mlp_out))

    def add(self, branch: str, layer: int, x: Tensor, out: Tensor) -> Tensor:
        """The residual connection, unless it is left out."""
        return out if (branch, layer) in self.changes.without_residual else x + out

    def layer_norm(self, name: str, norm: LayerNorm, x: Tensor) -> Tensor:
        """y = (x - mean(x)) / sqrt(var(x) + eps) * weight + bias, the scale being what is divided by."""
        mode = self.changes.layer_norms.get(name)
        centred = x - x.mean(-1, keepdim=True)  # (T, C)
        scale = (centred.square().mean(-1, keepdim=True) + norm.eps).sqrt()  # (T, 1)
        scale = self.point(f"{name}.hook_scale", torch.ones_like(scale) if mode else scale)
        y = x if mode == "identity" else centred / scale * norm.weight + norm.bias
        return self.point(f"{name}.hook_normalized", y)

    def attention(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """softmax(q kᵀ / sqrt(D) + mask) v, written out; q, k, v and the result are (T, H, D)."""
        at = block_name(layer, "attn")
        q, k, v = (self.point(f"{at}.hook_{name}", x) for name, x in (("q", q), ("k", k), ("v", v)))
        if self.past:
            k, v = self.past.extend(layer, k, v)  # (S, H, D)
        scores = q.transpose(0, 1) @ k.permute(1, 2, 0) / math.sqrt(q.shape[-1])  # (H, T, S)
        scores = self.point(f"{at}.hook_attn_scores", scores.masked_fill(~self.visible(layer, len(q), len(k)), -math.inf))
        pattern = self.point(f"{at}.hook_pattern", scores.softmax(dim=-1))
        return self.point(f"{at}.hook_z", (pattern @ v.transpose(0, 1)).transpose(0, 1))

    def visible(self, layer: int, num_queries: int, num_keys: int) -> Tensor:
        """Which keys each query sees, (1 or H, T, S): its own position and those before it, or fewer where that is changed."""
        keys = torch.arange(num_keys)[None, :]  # (1, S)
        queries = keys[:, num_keys - num_queries :].T  # (T, 1)
        causal = keys <= queries  # (T, S)
        if layer not in self.changes.sights:
            return causal[None]
        visible = causal.repeat(self.network.config.n_head, 1, 1)  # (H, T, S)
        for heads, sight in self.changes.sights[layer]:
            visible[heads] &= sight(queries, keys)
        return visible | ((keys == queries) & ~visible.any(-1, keepdim=True))  # who sees nothing else sees itself

    def mlp(self, name: str, mlp: MLP, x: Tensor) -> Tensor:
        """out = gelu(x W_fc + b_fc) W_proj + b_proj."""
        hidden = self.point(f"{name}.hook_pre", mlp.c_fc(x))  # (T, I)
        return mlp.c_proj(self.point(f"{name}.hook_post", mlp.act(hidden)))  # type: ignore[no-any-return]

    def point(self, name: str, value: Tensor) -> Tensor:
        """Change the value, keep it if it is asked for, and hand it on."""
        for change in self.changes.at_points.get(name, ()):
            value = change(value, self.start)
        if name == self.leaf:
            value = value.detach().requires_grad_()
        if name in self.names:
            self.activations[name] = value if name == self.leaf else value.detach()
        for watch in self.watches.get(name, ()):
            watch(value.detach())
        return value

    def again(self) -> "_Pass":
        """The same steps over the prompt, seen by nobody."""
        return _Pass(self.network, frozenset(), self.changes, None, None, {}, self.look)


class _Recomputed(torch.autograd.Function):
    """A block of which the backward pass keeps only what it read, and computes the rest anew (Chen et al. 2016, "Training Deep Nets
    with Sublinear Memory Cost").
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, steps: _Pass, layer: int, block: Block) -> Tensor:
        ctx.save_for_backward(x)
        ctx.steps, ctx.layer, ctx.block = steps, layer, block
        return steps.block(layer, block, x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        (saved,) = ctx.saved_tensors
        with torch.enable_grad():
            x = saved.detach().requires_grad_()
            y = ctx.steps.again().block(ctx.layer, ctx.block, x)
        (of_x,) = torch.autograd.grad(y, x, gradient)
        return of_x, None, None, None
