"""The logit lens, against the last LayerNorm and the unembedding applied to each stream one by one."""

import pytest
import torch
from torch import Tensor

from model.inspection.inspector import Inspector
from model.inspection.lens import ROWS_AT_ONCE, Lens, lens, stream_names
from model.inspection.network import InspectedNetwork, Run
from model.inspection.request import InspectionRequest, LayerNormAblation
from tests.model.inspection.networks import LAYERS, VOCABULARY, random_network, random_tokens

TOKENS = random_tokens(12)


@pytest.fixture(scope="module")
def network() -> InspectedNetwork:
    return random_network()


@pytest.fixture(scope="module")
def run(network: InspectedNetwork) -> Run:
    return network.run(TOKENS, stream_names(LAYERS))


def looked_through(network: InspectedNetwork, run: Run, positions: Tensor, targets: Tensor, top_n: int = 4) -> Lens:
    model = network.network
    return lens(run.activations, LAYERS, positions, targets, top_n, model.ln_f, model.lm_head)


def test_each_stream_is_read_by_the_last_layer_norm_and_the_unembedding(network: InspectedNetwork, run: Run) -> None:
    positions, targets = torch.tensor([3, 11, 0]), torch.tensor([5, 6, 7])
    found = looked_through(network, run, positions, targets)
    assert found.names == ["blocks.0.hook_resid_pre", *(f"blocks.{i}.hook_resid_post" for i in range(LAYERS))]
    for row, name in enumerate(found.names):
        logits = network.network.lm_head(network.network.ln_f(run.activations[name][positions]))  # (P, V)
        probabilities = logits.softmax(dim=-1)
        order = logits.argsort(dim=-1, descending=True)
        assert torch.equal(found.top_ids[row], order[:, :4])
        assert torch.allclose(found.top_probabilities[row], probabilities.gather(-1, order[:, :4]), rtol=1e-4)
        assert torch.allclose(found.probability[row], probabilities[range(3), targets], rtol=1e-4)
        assert [order[i].tolist().index(int(target)) for i, target in enumerate(targets)] == found.rank[row].tolist()
        assert torch.allclose(found.entropy[row], -(probabilities * probabilities.log()).sum(dim=-1), rtol=1e-4)


def test_the_last_stream_says_what_the_run_says(network: InspectedNetwork, run: Run) -> None:
    found = looked_through(network, run, torch.arange(12), torch.zeros(12, dtype=torch.long))
    assert torch.allclose(found.probability[-1], run.logits.softmax(dim=-1)[:, 0], rtol=1e-4)


def test_more_rows_than_are_read_at_once_come_out_in_their_order(network: InspectedNetwork, run: Run) -> None:
    positions = torch.arange(12).repeat(ROWS_AT_ONCE // 12)
    found = looked_through(network, run, positions, torch.zeros_like(positions))
    few = looked_through(network, run, torch.arange(12), torch.zeros(12, dtype=torch.long))
    assert torch.equal(found.rank, few.rank.repeat(1, ROWS_AT_ONCE // 12))


def test_no_more_tokens_are_told_than_there_are(network: InspectedNetwork, run: Run) -> None:
    assert looked_through(network, run, torch.tensor([0]), torch.tensor([1]), 1000).top_ids.shape[-1] == VOCABULARY


@pytest.mark.parametrize("mode", ["identity", "mean_only"])
def test_a_run_whose_last_layer_norm_is_replaced_is_read_by_what_replaces_it(mode: str) -> None:
    request = InspectionRequest(TOKENS, ablations=(LayerNormAblation("ln_final", mode),), max_new_tokens=0)  # type: ignore[arg-type]
    found = Inspector(random_network().network).inspect(request)
    for run in (found.run, found.ablated):
        assert run is not None
        assert run.summaries.lens is not None
        assert run.summaries.lens.top_ids[-1, -1].tolist() == run.next_ids.tolist()
        assert torch.allclose(run.summaries.lens.probability[-1, :-1].log(), run.logprobs, atol=1e-4)


def test_the_token_that_came_is_the_next_one_and_after_the_last_the_target() -> None:
    inspector = Inspector(random_network().network)
    named = inspector.inspect(InspectionRequest(TOKENS, target_token=9, max_new_tokens=0)).run.summaries.lens
    likeliest = inspector.inspect(InspectionRequest(TOKENS, max_new_tokens=0)).run.summaries.lens
    assert named is not None
    assert likeliest is not None
    assert torch.equal(named.rank[:, :-1], likeliest.rank[:, :-1])
    assert likeliest.rank[-1, -1] == 0
    wanted = inspector.network.run(TOKENS).logits[-1].softmax(dim=-1)[9]
    assert float(named.probability[-1, -1]) == pytest.approx(float(wanted), rel=1e-4)
