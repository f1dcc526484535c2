"""Gradient x input, against finite differences: what a small step along each token's own embedding does to the logit."""

import pytest
import torch

from model.inspection.inspector import Inspector
from model.inspection.network import Changes, InspectedNetwork
from model.inspection.prompt_attribution import LEAF, prompt_attribution
from model.inspection.request import HeadAblation, InspectionRequest, Steering
from tests.model.inspection.networks import random_network, random_tokens

TOKENS = random_tokens(9)
STEP = 1e-2


@pytest.fixture(scope="module")
def network() -> InspectedNetwork:
    return random_network()


def test_a_score_is_how_the_logit_moves_with_the_token_s_embedding(network: InspectedNetwork) -> None:
    scores = prompt_attribution(network.run(TOKENS, (LEAF,), leaf=LEAF), 7, 5)
    for token in range(9):
        up, down = (logit_with_scaled_embedding(network, token, 1 + sign * STEP) for sign in (1, -1))
        assert float(scores[token]) == pytest.approx((up - down) / (2 * STEP), abs=2e-2)
    assert scores[:8].abs().min() > 0
    assert scores[8] == 0, "a token behind the position has no part in it"


def logit_with_scaled_embedding(network: InspectedNetwork, token: int, factor: float) -> float:
    def scale(value: torch.Tensor, start: int) -> torch.Tensor:
        value = value.clone()
        value[token] *= factor
        return value

    return float(network.run(TOKENS, changes=Changes({"hook_embed": [scale]})).logits[7, 5])


def test_it_is_of_the_network_as_a_request_changes_it() -> None:
    ablations = (HeadAblation(0), HeadAblation(1, mode="mean"), Steering("blocks.1.hook_resid_pre", token=3))
    request = InspectionRequest(TOKENS, summaries=("prompt_attribution",), ablations=ablations, max_new_tokens=3)
    found = Inspector(random_network().network).inspect(request)
    assert found.ablated is not None
    plain, ablated = found.run.summaries.prompt_attribution, found.ablated.summaries.prompt_attribution
    assert plain is not None
    assert ablated is not None
    assert not torch.allclose(plain, ablated)
    assert not plain.requires_grad
    assert found.ablated.continuation is not None
    assert len(found.ablated.continuation.token_ids) > 0


def test_the_weights_keep_no_gradient(network: InspectedNetwork) -> None:
    prompt_attribution(network.run(TOKENS, (LEAF,), leaf=LEAF), 7, 5)
    assert all(parameter.grad is None for parameter in network.network.parameters())
