"""Which part of the network speaks for a token: direct logit attribution, after Elhage et al. 2021, "A Mathematical Framework for
Transformer Circuits".

The stream that the last LayerNorm reads is a sum: the embeddings, what each head writes, the biases of attention's projections,
what each MLP writes. With the LayerNorm's scale frozen at what the run divided by, a logit is linear in that sum: each part has a
share of its own, and the shares add up to it. Weights are as they are: nothing is folded, nothing centred but by the LayerNorm.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from model.gpt2 import GPT2
from model.inspection.summaries import Activations

FINAL = "ln_final.hook_normalized"
NAMES = (
    "hook_embed",
    "hook_pos_embed",
    *(f"blocks.*.hook_{name}" for name in ("resid_pre", "attn_out", "resid_mid", "mlp_out", "resid_post")),
    "blocks.*.attn.hook_z",
    "ln_final.*",
)

# Of which each has a share of its own.
PARTS = re.compile(r"hook_embed|hook_pos_embed|blocks\.\d+\.(hook_mlp_out|attn\.hook_z)")


@dataclass(frozen=True, slots=True)
class StreamChanges:
    """What a run's switches did to the stream at the position, by hooks' names.

    What a patch or a residual left out takes out of the stream has no share: only what is still in it at the end counts.
    """

    alone: frozenset[str] = frozenset()  # attn_out and mlp_out that stand in place of the stream, not added to it
    replaced: frozenset[str] = frozenset()  # whose activation was patched
    added_to: frozenset[str] = frozenset()  # to whose activation a direction was added
    put_in: Mapping[str, Tensor] = field(default_factory=dict)  # of what PARTS have there, what patches and directions put in
    final_identity: bool = False  # the last LayerNorm is left out, bias and all


@dataclass(slots=True, eq=False)
class Attribution:
    """Shares of one logit, of L layers of H heads; `interventions` is what patches and directions put in themselves."""

    logit: float
    heads: Tensor  # (L, H), as the others in float64
    attention_biases: Tensor  # (L,)
    mlps: Tensor  # (L,)
    embed: float = 0.0
    pos_embed: float = 0.0
    ln_final_bias: float = 0.0
    interventions: float = 0.0

    @property
    def sum(self) -> float:
        tensors = self.heads, self.attention_biases, self.mlps
        return self.embed + self.pos_embed + self.ln_final_bias + self.interventions + sum(float(x.sum()) for x in tensors)

    def drop(self) -> None:
        """Nothing of what was written so far is in the stream any more."""
        self.embed = self.pos_embed = self.ln_final_bias = self.interventions = 0.0
        for shares in (self.heads, self.attention_biases, self.mlps):
            shares.zero_()


UNCHANGED = StreamChanges()


def attribution(
    network: GPT2, activations: Activations, logit: float, position: int, token_id: int, changes: StreamChanges = UNCHANGED
) -> Attribution:
    """The shares of `logit`, which a run with these activations gave `token_id` after `position`; they add up to it within 1e-4."""
    stream = _Stream(network, activations, position, token_id, changes, logit)
    stream.shares.embed = stream.part("hook_embed")
    stream.shares.pos_embed = stream.part("hook_pos_embed")
    for layer in range(network.config.n_layer):
        stream.pass_block(layer)
    stream.end()
    return stream.shares


class _Stream:
    """Follows one position's stream to the end. In float64, so that only the run itself rounds."""

    def __init__(
        self, network: GPT2, activations: Activations, position: int, token_id: int, changes: StreamChanges, logit: float
    ) -> None:
        self._activations, self._position, self._changes = activations, position, changes
        self._unembedding = network.wte.weight[token_id].double()  # (C,)
        self._network = network
        self._direction = self._linear_norm()  # (C,): a part's share is its product with it
        config = network.config
        none = torch.zeros(config.n_layer, config.n_head, dtype=torch.float64)
        self.shares = Attribution(logit, none, none[:, 0].clone(), none[:, 0].clone())

    def share(self, name: str) -> float:
        return float(self._at(name) @ self._direction)

    def part(self, name: str) -> float:
        """What the network itself writes there; what was put in is an intervention."""
        put_in = self._changes.put_in.get(name)
        if put_in is None:
            return self.share(name)
        self.shares.interventions += float(put_in.double() @ self._direction)
        return float((self._at(name) - put_in.double()) @ self._direction)

    def pass_block(self, layer: int) -> None:
        """The block's parts join the stream, in which a residual left out or a patch leaves nothing of those before."""
        prefix = f"blocks.{layer}.hook_"
        self._settle(prefix + "resid_pre", self.share(prefix + "resid_pre"))
        if prefix + "attn_out" in self._changes.alone:
            self.shares.drop()
        self._attend(layer)
        self._settle(prefix + "resid_mid", self.share(prefix + "resid_mid"))
        if prefix + "mlp_out" in self._changes.alone:
            self.shares.drop()
        self.shares.mlps[layer] = self.part(prefix + "mlp_out")
        self._settle(prefix + "resid_post", self.share(prefix + "resid_post"))

    def end(self) -> None:
        if not self._changes.final_identity:
            self.shares.ln_final_bias = float(self._network.ln_f.bias.double() @ self._unembedding)
        self._settle(FINAL, float(self._at(FINAL) @ self._unembedding))

    def _at(self, name: str) -> Tensor:
        return self._activations[name][self._position].double()

    def _linear_norm(self) -> Tensor:
        """The unembedding through the last LayerNorm, which is linear for a scale that is given; its bias is a share of its own."""
        if self._changes.final_identity:
            return self._unembedding
        direction = self._network.ln_f.weight.double() * self._unembedding
        direction = direction - direction.mean()  # (x - mean(x)) · d = x · (d - mean(d))
        return direction / self._at("ln_final.hook_scale")

    def _attend(self, layer: int) -> None:
        """Each head writes through its own columns of the projection's weight (out, in)."""
        name, name_of_z, shares = f"blocks.{layer}.hook_attn_out", f"blocks.{layer}.attn.hook_z", self.shares
        weight, bias = (self._network.get_parameter(f"h.{layer}.attn.c_proj.{kind}").double() for kind in ("weight", "bias"))
        z = self._at(name_of_z) - self._changes.put_in.get(name_of_z, torch.zeros(())).double()  # (H, D)
        shares.heads[layer] = (z * (self._direction @ weight).view_as(z)).sum(dim=-1)
        shares.attention_biases[layer] = bias @ self._direction
        if name in self._changes.replaced:
            shares.heads[layer] = shares.attention_biases[layer] = 0.0
        if {name, name_of_z} & (self._changes.replaced | self._changes.added_to):
            shares.interventions += self.share(name) - float(shares.heads[layer].sum() + shares.attention_biases[layer])

    def _settle(self, name: str, share: float) -> None:
        """Where a switch changed the stream at this hook, the difference is what the switch put in."""
        if name in self._changes.replaced:
            self.shares.drop()
        if name in self._changes.replaced | self._changes.added_to:
            self.shares.interventions += share - self.shares.sum
