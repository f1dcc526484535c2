"""The summaries that a request asks for, of one run: which activations they need, and what they come to."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from model.inspection.attribution import NAMES as ATTRIBUTION_NAMES
from model.inspection.attribution import PARTS, Attribution, StreamChanges, attribution
from model.inspection.lens import Lens, lens
from model.inspection.names import block_name
from model.inspection.network import Changes, InspectedNetwork, Run, Watch
from model.inspection.prompt_attribution import LEAF, prompt_attribution
from model.inspection.request import InspectionRequest, Patch, Steering, counted
from model.inspection.summaries import Looks, entropy, layer_norm, looks, norms, stacked

STREAMS = tuple(f"blocks.*.hook_{name}" for name in ("resid_pre", "attn_out", "resid_mid", "mlp_out", "resid_post"))
NAMES = {
    "norms": ("hook_embed", "hook_pos_embed", *STREAMS),
    "layer_norm": STREAMS,
    "lens": STREAMS,
    "attribution": ATTRIBUTION_NAMES,
    "prompt_attribution": (LEAF,),
}


@dataclass(frozen=True, slots=True)
class Target:
    """The logit that is attributed: that of a token after a position."""

    position: int
    token_id: int
    last_id: int  # what is taken to come after the last position

    @staticmethod
    def of(request: InspectionRequest, run: Run) -> "Target":
        """As the request names it, or the token that came; after the last position the likeliest of the unchanged `run`."""
        prompt = request.prompt
        (position,) = counted((request.target_position,), len(prompt))
        likeliest = int(run.last_logits.argmax())
        came = prompt[position + 1] if position + 1 < len(prompt) else likeliest
        token_id = came if request.target_token is None else request.target_token
        return Target(position, token_id, token_id if position + 1 == len(prompt) else likeliest)


@dataclass(frozen=True, slots=True, eq=False)
class Summaries:
    """Those that were asked for; the others are None. Rows are those of the request's positions."""

    norms: dict[str, Tensor] | None
    layer_norm: dict[str, dict[str, Tensor]] | None
    attention: dict[str, Tensor] | None
    lens: Lens | None
    entropy: Tensor | None  # (T,), of what comes after each position
    attribution: Attribution | None
    prompt_attribution: Tensor | None  # (T,)


class Summarizer:
    """Of one run: `names`, `leaf` and `watches` are what it is to be made with, `of` what it comes to."""

    def __init__(self, network: InspectedNetwork, request: InspectionRequest, changes: Changes) -> None:
        self._network, self._request, self._changes = network, request, changes
        self._num_layers = network.config.n_layer
        self._positions = torch.tensor(counted(request.positions, len(request.prompt)))  # (P,)
        self._looks: list[Looks] = []

    @property
    def names(self) -> tuple[str, ...]:
        """Patterns over names, some of them more than once."""
        return tuple(name for summary in self._request.summaries for name in NAMES.get(summary, ()))

    @property
    def leaf(self) -> str | None:
        return LEAF if "prompt_attribution" in self._request.summaries else None

    @property
    def watches(self) -> dict[str, Watch]:
        """They look at attention's patterns as these pass, so that T² numbers a head need not be kept."""
        layers = range(self._num_layers) if "attention" in self._request.summaries else ()
        return {block_name(layer, "attn.hook_pattern"): self._look for layer in layers}

    def of(self, run: Run, target: Target) -> Summaries:
        asked = self._request.summaries
        return Summaries(
            norms=norms(run.activations, self._num_layers, self._positions) if "norms" in asked else None,
            layer_norm=self._layer_norm(run) if "layer_norm" in asked else None,
            attention=stacked(self._looks) if "attention" in asked else None,
            lens=self._lens(run, target) if "lens" in asked else None,
            entropy=entropy(run.logits) if "entropy" in asked else None,
            attribution=self._attribution(run, target) if "attribution" in asked else None,
            prompt_attribution=prompt_attribution(run, target.position, target.token_id) if "prompt_attribution" in asked else None,
        )

    def _look(self, pattern: Tensor) -> None:
        self._looks.append(looks(pattern, torch.tensor(self._request.prompt)))

    def _layer_norm(self, run: Run) -> dict[str, dict[str, Tensor]]:
        return layer_norm(run.activations, self._num_layers, self._positions, self._network.config.layer_norm_epsilon)

    def _lens(self, run: Run, target: Target) -> Lens:
        came = torch.tensor([*self._request.prompt[1:], target.last_id])[self._positions]
        top_n, unembed = self._request.top_n, self._network.network.lm_head
        return lens(run.activations, self._num_layers, self._positions, came, top_n, self._last_norm, unembed, self._network.look)

    def _last_norm(self, stream: Tensor) -> Tensor:
        """The last LayerNorm as it is in this run."""
        norm, mode = self._network.network.ln_f, self._changes.layer_norms.get("ln_final")
        if mode == "identity":
            return stream
        if mode == "mean_only":
            return (stream - stream.mean(dim=-1, keepdim=True)) * norm.weight + norm.bias
        return norm(stream)  # type: ignore[no-any-return]

    def _attribution(self, run: Run, target: Target) -> Attribution:
        logit = float(run.logits[target.position, target.token_id])
        changes = stream_changes(self._request, self._changes, target.position, run.activations)
        return attribution(self._network.network, run.activations, logit, target.position, target.token_id, changes)


def stream_changes(request: InspectionRequest, changes: Changes, position: int, activations: Mapping[str, Tensor]) -> StreamChanges:
    """What the request's ablations do to the stream at a position, in a run that had these activations."""
    branches = {"attention": "hook_attn_out", "mlp": "hook_mlp_out"}
    num_tokens, made = len(request.prompt), changes.at_points  # of which the run without changes has none
    patched = {x.name for x in request.ablations if isinstance(x, Patch) and position in _patched(x, num_tokens)}
    steered = {x.name for x in request.ablations if isinstance(x, Steering) and position in counted(x.positions, num_tokens)}
    touched = {name for name in patched | steered if name in made and PARTS.fullmatch(name)}
    return StreamChanges(
        alone=frozenset(block_name(layer, branches[branch]) for branch, layer in changes.without_residual),
        replaced=frozenset(patched & made.keys()),
        added_to=frozenset(steered & made.keys()),
        put_in={name: _put_in(changes, name, activations[name])[position] for name in touched},
        final_identity=changes.layer_norms.get("ln_final") == "identity",
    )


def _put_in(changes: Changes, name: str, activation: Tensor) -> Tensor:
    """What a point's changes make of nothing: all of them are affine, and but for patches and directions linear."""
    value = torch.zeros_like(activation)
    for change in changes.at_points[name]:
        value = copy.copy(change)(value, 0)  # a copy, for a mean is kept for the tokens that follow
    return value


def _patched(patch: Patch, num_tokens: int) -> list[int]:
    return counted(patch.positions, num_tokens, num_tokens if patch.prompt is None else min(num_tokens, len(patch.prompt)))
