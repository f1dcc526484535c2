"""What each ablation of a request does to the network, and where. Their exact meanings are in model/inspection/request.py.

Ablations of one point act in the order in which the request has them. "All positions" are those of the tokens after the prompt too;
a mean is taken over the prompt's positions, in this run, and kept for the tokens that follow. Patches act on the prompt alone. A
prompt is always run at once.
"""

import math
from collections.abc import Callable
from functools import partial, singledispatchmethod
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from model.inspection.names import block_name, token_axis
from model.inspection.network import Change, Changes, InspectedNetwork, Sight, Watch
from model.inspection.request import (
    Ablation,
    AttentionPosition,
    AttentionWindow,
    HeadAblation,
    InspectionRequest,
    LayerNormAblation,
    MLPAblation,
    NoResidual,
    Numbers,
    Patch,
    PositionEmbeddings,
    Steering,
    Values,
    chosen,
    counted,
)

Prompt = tuple[int, ...]
Sources = dict[tuple[Prompt, Patch | Steering], Tensor]  # what an ablation takes of another prompt's activations, tokens first


def changes_of(network: InspectedNetwork, request: InspectionRequest) -> Changes:
    """Everything that the ablations of a request do, which has been checked; other prompts are run for what is taken from them."""
    builder = _Builder(network, len(request.prompt), _sources(network, request))
    for ablation in request.ablations:
        builder.add(ablation)
    return builder.changes


def _sources(network: InspectedNetwork, request: InspectionRequest) -> Sources:
    """Each other prompt is run once, and of its activations no more is kept than is taken, as it passes."""
    readers: dict[Prompt, dict[Patch | Steering, None]] = {}
    for ablation in request.ablations:
        if isinstance(ablation, Patch | Steering):
            prompts = [ablation.prompt] if isinstance(ablation, Patch) else [ablation.plus, ablation.minus]
            for prompt in prompts:
                if prompt is not None:
                    readers.setdefault(prompt, {})[ablation] = None
    sources: Sources = {}

    def keep(prompt: Prompt, ablation: Patch | Steering, value: Tensor) -> None:
        sources[prompt, ablation] = _taken(value, ablation, len(prompt), len(request.prompt))

    for prompt, ablations in readers.items():
        watches: dict[str, list[Watch]] = {}
        for ablation in ablations:
            watches.setdefault(ablation.name, []).append(partial(keep, prompt, ablation))
        network.run(prompt, watches=watches)
    return sources


def _taken(value: Tensor, ablation: Patch | Steering, num_tokens: int, num_prompt: int) -> Tensor:
    """A copy of the rows that a patch takes, or of the last row, which a direction is made of."""
    if isinstance(ablation, Steering):
        return value[-1].clone()
    positions = ablation.positions if ablation.from_positions is None else ablation.from_positions
    return _tokens_first(value, ablation)[counted(positions, num_tokens, min(num_tokens, num_prompt))]


class _Builder:
    """Gathers the changes, ablation by ablation."""

    def __init__(self, network: InspectedNetwork, num_prompt: int, sources: Sources) -> None:
        self.network, self.config, self.num_prompt, self.sources = network, network.config, num_prompt, sources
        self.changes = Changes()

    @singledispatchmethod
    def add(self, ablation: Ablation) -> None:
        raise NotImplementedError(type(ablation).__name__)

    @add.register
    def _(self, ablation: NoResidual) -> None:
        self.changes.without_residual |= {(ablation.branch, layer) for layer in self._layers(ablation.layer)}

    @add.register
    def _(self, ablation: LayerNormAblation) -> None:
        last = ablation.name == "ln_final"
        names = ["ln_final"] if last else [block_name(layer, ablation.name) for layer in self._layers(ablation.layer)]
        self.changes.layer_norms |= dict.fromkeys(names, ablation.mode)

    @add.register
    def _(self, ablation: HeadAblation) -> None:
        heads = chosen(ablation.head, self.config.n_head)
        for layer in self._layers(ablation.layer):
            self._change(block_name(layer, "attn.hook_z"), self._blank(ablation.mode, heads))

    @add.register
    def _(self, ablation: MLPAblation) -> None:
        for layer in self._layers(ablation.layer):
            self._change(block_name(layer, "hook_mlp_out"), self._blank(ablation.mode, slice(None)))

    @add.register
    def _(self, ablation: AttentionWindow) -> None:
        self._narrow(ablation.layer, ablation.head, lambda queries, keys: keys > queries - ablation.size)

    @add.register
    def _(self, ablation: AttentionPosition) -> None:
        (position,) = counted((ablation.position,), self.num_prompt)
        self._narrow(ablation.layer, ablation.head, lambda queries, keys: keys == position)

    @add.register
    def _(self, ablation: PositionEmbeddings) -> None:
        self._change("hook_pos_embed", _no_value if ablation.mode == "none" else self._shuffled(ablation.seed))

    @add.register
    def _(self, ablation: Patch) -> None:
        self._change(ablation.name, self._patch(ablation))

    @add.register
    def _(self, ablation: Steering) -> None:
        self._change(ablation.name, self._steering(ablation))

    def _layers(self, layers: Numbers) -> list[int]:
        return chosen(layers, self.config.n_layer)

    def _change(self, name: str, change: Change) -> None:
        self.changes.at_points.setdefault(name, []).append(change)

    def _narrow(self, layers: Numbers, heads: Numbers, sight: Sight) -> None:
        for layer in self._layers(layers):
            self.changes.sights.setdefault(layer, []).append((chosen(heads, self.config.n_head), sight))

    def _blank(self, mode: Literal["zero", "mean"], where: list[int] | slice) -> Change:
        return _Mean(where, self.num_prompt) if mode == "mean" else partial(_zero, where)

    def _shuffled(self, seed: int) -> Change:
        order = torch.randperm(self.num_prompt, generator=torch.Generator().manual_seed(seed))

        def shuffle(value: Tensor) -> None:
            value[: self.num_prompt] = value[order]

        return _on_prompt(shuffle)

    def _patch(self, patch: Patch) -> Change:
        rows, positions = self._rows(patch)
        unseen = -math.inf if patch.name.endswith("scores") else 0.0  # keys that the other prompt's row does not reach

        def put(value: Tensor) -> None:
            target = _tokens_first(value, patch)
            width = min(rows.shape[-1], target.shape[-1])
            target[positions] = unseen
            target[positions, ..., :width] = rows[..., :width]

        return _on_prompt(put)

    def _rows(self, patch: Patch) -> tuple[Tensor, list[int]]:
        """What is put in, tokens first, and at which positions."""
        if patch.prompt is None:
            assert patch.values is not None
            rows = _tensor(patch.values)
            return rows if patch.head is not None else _tokens_first(rows, patch), counted(patch.positions, self.num_prompt)
        common = min(self.num_prompt, len(patch.prompt))
        return self.sources[patch.prompt, patch], counted(patch.positions, self.num_prompt, common)

    def _steering(self, steering: Steering) -> Change:
        step = steering.scale * self._direction(steering)
        if steering.positions is None:
            return lambda value, start: value + step
        positions = counted(steering.positions, self.num_prompt)

        def add(value: Tensor) -> None:
            value[positions] += step

        return _on_prompt(add)

    def _direction(self, steering: Steering) -> Tensor:
        """(C,)."""
        if steering.direction is not None:
            return torch.tensor(steering.direction)
        if steering.token is not None:
            return self.network.network.wte.weight[steering.token]
        assert steering.plus is not None
        assert steering.minus is not None
        return self.sources[steering.plus, steering] - self.sources[steering.minus, steering]


def _no_value(value: Tensor, start: int) -> Tensor:
    return torch.zeros_like(value)


def _zero(where: list[int] | slice, value: Tensor, start: int) -> Tensor:
    value = value.clone()
    value[:, where] = 0
    return value


class _Mean:
    """In place of every row the mean of the prompt's."""

    def __init__(self, where: list[int] | slice, num_prompt: int) -> None:
        self.where, self.num_prompt = where, num_prompt

    def __call__(self, value: Tensor, start: int) -> Tensor:
        if start == 0:
            self.mean = value[: self.num_prompt, self.where].mean(0)
        value = value.clone()
        value[:, self.where] = self.mean
        return value


def _on_prompt(change: Callable[[Tensor], None]) -> Change:
    """The change, made in a copy of what the prompt's tokens have; those after it are left alone."""

    def changed(value: Tensor, start: int) -> Tensor:
        if start:
            return value
        value = value.clone()
        change(value)
        return value

    return changed


def _tokens_first(value: Tensor, patch: Patch) -> Tensor:
    """A view whose first axis is that of tokens or queries, and the second that of heads unless one is chosen."""
    view = value.movedim(token_axis(patch.name), 0)
    return view if patch.head is None else view[:, patch.head]


def _tensor(values: Values) -> Tensor:
    """Of nested numbers; those left out, None, are masked scores."""
    return torch.from_numpy(np.array(values, dtype=np.float32)).nan_to_num(nan=-math.inf)  # of None numpy makes NaN
