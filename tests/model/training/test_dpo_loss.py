"""The loss of direct preference optimisation: as the paper has it, and as `trl` computes it."""

import json
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from model.gpt2 import GPT2
from model.training.data.examples import IGNORED
from model.training.dpo_loss import DPOLoss
from tests.model.training.dpo_case import BETA, PAIRS, network, rows

RECORDED = json.loads((Path(__file__).parents[2] / "data" / "dpo_trl.json").read_text())  # by benchmarks.dpo_reference


def batch(pairs=PAIRS, padding: int = 0) -> tuple[Tensor, Tensor]:
    answers = rows(pairs)
    length = max(len(given) + len(answer) for given, answer in answers) - 1 + padding
    tokens, targets = torch.zeros(len(answers), length, dtype=torch.long), torch.full((len(answers), length), IGNORED)
    for row, (given, answer) in enumerate(answers):
        ids = torch.tensor(given + answer)
        tokens[row, : len(ids) - 1] = ids[:-1]
        targets[row, len(given) - 1 : len(ids) - 1] = torch.tensor(answer)
    return tokens, targets


@torch.no_grad()
def reference_of(model: GPT2, tokens: Tensor, targets: Tensor) -> Tensor:
    chosen, rejected = DPOLoss(model, BETA, bfloat16=False).log_probabilities(tokens, targets).chunk(2)
    return chosen - rejected


def test_loss_and_gradients_are_those_that_trl_computes():
    policy, (tokens, targets) = network(0.0), batch()
    loss = DPOLoss(policy, BETA, bfloat16=False)(tokens, targets, reference_of(network(0.1), tokens, targets)) / len(PAIRS)
    loss.backward()
    assert loss.item() == pytest.approx(RECORDED["loss"], rel=1e-5)
    parameters = dict(policy.named_parameters())
    for name, expected in RECORDED["gradients"].items():
        assert parameters[name].grad.flatten()[:8].tolist() == pytest.approx(expected, rel=1e-3, abs=1e-6), name


def test_a_network_that_is_still_its_reference_has_no_preference():
    policy, (tokens, targets) = network(0.0), batch()
    loss = DPOLoss(policy, BETA, bfloat16=False)(tokens, targets, reference_of(policy, tokens, targets))
    assert loss.item() == pytest.approx(len(PAIRS) * math.log(2), rel=1e-6)


def test_an_answers_log_probability_is_the_sum_over_its_tokens():
    model, (tokens, targets) = network(0.0), batch()
    together = DPOLoss(model, BETA, bfloat16=False).log_probabilities(tokens, targets)
    log_probs = model(tokens).log_softmax(dim=-1)
    for row in range(len(tokens)):
        places = [place for place in range(tokens.shape[1]) if targets[row, place] != IGNORED]
        alone = sum(log_probs[row, place, targets[row, place]] for place in places)
        assert together[row].item() == pytest.approx(alone.item(), rel=1e-5)


def test_padding_changes_nothing():
    policy, reference = network(0.0), network(0.1)
    losses = []
    for padding in (0, 5):
        tokens, targets = batch(padding=padding)
        objective = DPOLoss(policy, BETA, bfloat16=False)
        losses.append(objective(tokens, targets, reference_of(reference, tokens, targets)).item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_a_step_against_the_gradient_prefers_the_chosen_answers_more():
    policy, (tokens, targets) = network(0.0), batch()
    objective, reference = DPOLoss(policy, BETA, bfloat16=False), reference_of(policy, tokens, targets)
    objective(tokens, targets, reference).backward()
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter -= 1e-3 * parameter.grad
        assert (objective.margins(tokens, targets, reference) > 0).all()
