"""An inspection can be ended in any of its parts, and its gradients are the same where they are computed block by block."""

from collections.abc import Callable

import pytest
import torch

from model.inspection import lens
from model.inspection.ablations import changes_of
from model.inspection.inspector import Inspector
from model.inspection.network import InspectedNetwork
from model.inspection.prompt_attribution import LEAF, prompt_attribution
from model.inspection.request import SUMMARIES, Ablation, HeadAblation, MLPAblation, NoResidual, Patch, Steering
from tests.model.inspection.small import PROMPT, SIZES, request, small_network

L = SIZES.n_layer


class Ended(Exception):
    """By who looked."""


def ending(at: int) -> tuple[Callable[[], None], list[int]]:
    """A look that ends the inspection the `at`-th time, and the times that it was taken."""
    looks: list[int] = []

    def look() -> None:
        looks.append(len(looks))
        if len(looks) == at:
            raise Ended

    return look, looks


@pytest.mark.parametrize(
    ("fields", "num_looks"),
    [
        ({}, L),
        ({"max_new_tokens": 3}, L + 2 * L),
        ({"summaries": ("lens",)}, L + 2),  # 4 streams of 7 rows, 16 at once
        ({"summaries": ("prompt_attribution",)}, 2 * L),
        ({"ablations": (Patch("hook_embed", prompt=(1, 2)),)}, 3 * L),
        ({"summaries": ("layer_norm_order",)}, L + 1 + 4 * (L + 12 * L) + 12 * L),
    ],
    ids=["a run", "a continuation", "the lens", "the backward pass", "other prompts", "the untrained networks"],
)
def test_it_can_be_ended_before_each_block_and_each_piece(
    fields: dict[str, object], num_looks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lens, "ROWS_AT_ONCE", 16)
    never, looks = ending(0)
    Inspector(small_network(), look=never).inspect(request(**fields))
    assert len(looks) == num_looks
    for at in range(1, num_looks + 1, 1 if num_looks < 50 else 17):
        look, looks = ending(at)
        with pytest.raises(Ended):
            Inspector(small_network(), look=look).inspect(request(**fields))
        assert len(looks) == at, "nothing is computed after it"


def test_who_is_ended_can_be_asked_again() -> None:
    look, _ = ending(2 * L)
    inspector = Inspector(small_network(), look=look)
    asked = request(summaries=SUMMARIES, max_new_tokens=3)
    with pytest.raises(Ended):
        inspector.inspect(asked)
    found, fresh = inspector.inspect(asked).run, Inspector(small_network()).inspect(asked).run
    assert found.continuation == fresh.continuation
    assert found.logprobs.equal(fresh.logprobs)


CHANGES: dict[str, tuple[Ablation, ...]] = {
    "as it is": (),
    "means and directions": (HeadAblation(0, 1, "mean"), MLPAblation(1, "mean"), Steering("blocks.1.hook_resid_pre", token=3)),
    "residuals left out and a patch": (NoResidual("attention", 1), Patch("blocks.2.hook_resid_mid", prompt=(1, 2, 3))),
    "a stream that is patched whole": (Patch("blocks.1.hook_resid_post", prompt=PROMPT[::-1]),),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_gradient_of_blocks_computed_anew_is_that_of_all_at_once(change: str) -> None:
    network = InspectedNetwork(small_network())
    changes = changes_of(network, request(ablations=CHANGES[change]))
    scores = [prompt_attribution(network.run(PROMPT, (LEAF,), changes, leaf=LEAF), 5, 9)]
    network.max_graph_bytes = 0
    seen: list[torch.Tensor] = []
    watches = {"blocks.1.attn.hook_pattern": [seen.append]}
    run = network.run(PROMPT, (LEAF, "blocks.2.hook_resid_post"), changes, leaf=LEAF, watches=watches)
    scores.append(prompt_attribution(run, 5, 9))
    torch.testing.assert_close(scores[0], scores[1])
    assert len(seen) == 1, "who watches sees a value once"
    assert not run.activations["blocks.2.hook_resid_post"].requires_grad


def test_a_large_gradient_needs_the_memory_of_a_block() -> None:
    """What autograd keeps at the end of a run, of the stream's size or more."""
    assert kept_by_autograd(0) < kept_by_autograd(1 << 40) / 5


def kept_by_autograd(max_graph_bytes: int) -> int:
    network, kept = InspectedNetwork(small_network()), list[int]()
    network.max_graph_bytes = max_graph_bytes

    def keep(x: torch.Tensor) -> torch.Tensor:
        kept.append(x.numel())
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        network.run(PROMPT, (), leaf=LEAF)
    return sum(numel for numel in kept if numel >= len(PROMPT) * SIZES.n_embd)
