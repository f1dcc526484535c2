"""Inspects: the network as it is and as a request changes it, side by side. In token ids; texts are others' business."""

from dataclasses import dataclass, replace
from functools import lru_cache, partial

import torch
from torch import Tensor

from model.gpt2 import GPT2
from model.inspection.ablations import changes_of
from model.inspection.checks import check, check_size
from model.inspection.continuation import Continuation, go_on
from model.inspection.names import expand_all, token_axis
from model.inspection.network import Changes, InspectedNetwork, Look, Past, Run, Watch, no_look
from model.inspection.order import Initialization, Orders, orders
from model.inspection.request import InspectionError, InspectionRequest, counted
from model.inspection.summaries import ROWS_AT_ONCE
from model.inspection.summarizer import Summaries, Summarizer, Target

# Runs without ablations that are kept for the next request: who tries one ablation after the other asks for the same one each
# time, and the page in two parts, numbers first.
NUM_KEPT = 2


@dataclass(frozen=True, slots=True, eq=False)
class InspectedRun:
    """What one run came to. Shapes: T tokens of the prompt, N likeliest tokens; activations have the chosen positions alone."""

    logprobs: Tensor  # (T - 1,), of each token after the first
    next_ids: Tensor  # (N,), the likeliest after the prompt
    next_logprobs: Tensor  # (N,)
    continuation: Continuation | None
    activations: dict[str, Tensor]
    summaries: Summaries

    @property
    def loss(self) -> float | None:
        """Mean negative log-probability of the tokens, in nats; None of a single token."""
        return -float(self.logprobs.mean()) if len(self.logprobs) else None


@dataclass(frozen=True, slots=True, eq=False)
class Inspection:
    """A request answered; `ablated` is None where it has no ablations, and `orders` where they are not asked for."""

    request: InspectionRequest
    target: Target
    run: InspectedRun
    ablated: InspectedRun | None
    orders: dict[Initialization, Orders] | None


class Inspector:
    """`look` is called before each step that may take long, and may raise, to end the inspection there."""

    def __init__(self, network: GPT2, look: Look = no_look) -> None:
        self.network = InspectedNetwork(network, look)
        self.config, self._look = network.config, look
        self._unchanged = lru_cache(NUM_KEPT)(self._run_unchanged)

    def inspect(self, request: InspectionRequest) -> Inspection:
        """Raises InspectionError for what this network cannot answer."""
        check(request, self.config)
        check_size(request, self.config)
        target, run = self._unchanged(replace(request, ablations=()))
        ablated = None
        if request.ablations:
            ablated = _View(self.network, request, changes_of(self.network, request)).result(target)
        asked = "layer_norm_order" in request.summaries
        found = orders(self.config, torch.tensor(request.prompt), self._look) if asked else None
        return Inspection(request, target, run, ablated, found)

    def _run_unchanged(self, request: InspectionRequest) -> tuple[Target, InspectedRun]:
        view = _View(self.network, request, Changes())
        target = Target.of(request, view.run)
        return target, view.result(target)


class _View:
    """Of one run of the prompt, made when this is."""

    def __init__(self, network: InspectedNetwork, request: InspectionRequest, changes: Changes) -> None:
        self.network, self.request, self.changes = network, request, changes
        self.activations: dict[str, Tensor] = {}
        self.num_new = min(request.max_new_tokens, network.config.n_positions - len(request.prompt))
        self.past = Past(network.config, len(request.prompt) + self.num_new)
        self.summarizer = Summarizer(network, request, changes)
        self.run = self._run()

    def _run(self) -> Run:
        names = expand_all(self.summarizer.names, self.network.config)
        watches: dict[str, list[Watch]] = {
            name: [partial(self._keep, name)] for name in expand_all(self.request.names, self.network.config)
        }
        for name, watch in self.summarizer.watches.items():
            watches.setdefault(name, []).append(watch)
        return self.network.run(self.request.prompt, names, self.changes, self.past, self.summarizer.leaf, watches)

    def _keep(self, name: str, value: Tensor) -> None:
        """The chosen positions."""
        chosen = self.request.positions
        if chosen is not None:
            value = value.index_select(token_axis(name), torch.tensor(counted(chosen, len(self.request.prompt))))
        self.activations[name] = value

    @torch.no_grad()
    def result(self, target: Target) -> InspectedRun:
        logits = self.run.logits  # (T, V)
        if not logits.isfinite().all():
            field, cause = ("ablations", "with these ablations") if self.request.ablations else ("prompt", "with this prompt")
            raise InspectionError(field, f"{cause} the network's numbers leave the range of float32")
        log_sums = torch.cat([rows.logsumexp(dim=-1) for rows in torch.split(logits, ROWS_AT_ONCE)])  # (T,)
        came = torch.tensor(self.request.prompt[1:], dtype=torch.int64)[:, None]  # (T - 1, 1)
        likeliest = (logits[-1] - log_sums[-1]).topk(min(self.request.top_n, logits.shape[-1]))
        return InspectedRun(
            logits[:-1].gather(-1, came).squeeze(-1) - log_sums[:-1],
            likeliest.indices,
            likeliest.values,
            go_on(self.network, self.run, self.past, self.changes, self.num_new) if self.num_new else None,
            self.activations,
            self.summarizer.of(self.run, target),
        )
