"""The summaries' figures, each against its definition written out for one number at a time, and where they are not defined."""

import math

import pytest
import torch
from torch import Tensor

from model.inspection.names import all_names
from model.inspection.network import InspectedNetwork, Run
from model.inspection.summaries import entropy, layer_norm, looks, norms, stacked
from tests.model.inspection.networks import LAYERS, random_network, random_tokens

POSITIONS = torch.tensor([5, 0, 11])


@pytest.fixture(scope="module")
def network() -> InspectedNetwork:
    return random_network()


@pytest.fixture(scope="module")
def run(network: InspectedNetwork) -> Run:
    return network.run(random_tokens(12), all_names(network.config))


def test_norms_are_those_of_the_chosen_rows_in_their_order(run: Run) -> None:
    found = norms(run.activations, LAYERS, POSITIONS)
    assert found["embed"].tolist() == pytest.approx([length(run, "hook_embed", row) for row in (5, 0, 11)])
    for name in ("resid_pre", "attn_out", "resid_mid", "mlp_out", "resid_post"):
        wanted = [[length(run, f"blocks.{layer}.hook_{name}", row) for row in (5, 0, 11)] for layer in range(LAYERS)]
        assert found[name].numpy() == pytest.approx(torch.tensor(wanted).numpy(), rel=1e-5)


def length(run: Run, name: str, row: int) -> float:
    return math.sqrt(sum(x * x for x in run.activations[name][row].tolist()))


def test_a_cosine_is_that_of_what_is_added_with_the_stream_it_is_added_to(run: Run) -> None:
    found = norms(run.activations, LAYERS, POSITIONS)
    for branch, stream in (("attn", "resid_pre"), ("mlp", "resid_mid")):
        x, y = run.activations[f"blocks.1.hook_{branch}_out"][5], run.activations[f"blocks.1.hook_{stream}"][5]
        wanted = float(x @ y) / length(run, f"blocks.1.hook_{branch}_out", 5) / length(run, f"blocks.1.hook_{stream}", 5)
        assert float(found[f"{branch}_cosine"][1, 0]) == pytest.approx(wanted, abs=1e-6)


def test_the_cosine_of_nothing_is_not_defined(run: Run) -> None:
    silent = {name: torch.zeros_like(x) if name.endswith("mlp_out") else x for name, x in run.activations.items()}
    assert norms(silent, LAYERS, POSITIONS)["mlp_cosine"].isnan().all()


def test_a_layer_norm_s_deviation_is_what_it_divides_by(network: InspectedNetwork, run: Run) -> None:
    found = layer_norm(run.activations, LAYERS, POSITIONS, network.config.layer_norm_epsilon)
    for layer in range(LAYERS):
        for name in ("ln1", "ln2"):
            scale = run.activations[f"blocks.{layer}.{name}.hook_scale"][POSITIONS, 0]
            assert torch.allclose(found[name]["deviation"][layer], scale, rtol=1e-5)
    assert torch.allclose(found["ln_final"]["deviation"], run.activations["ln_final.hook_scale"][POSITIONS, 0], rtol=1e-5)
    read = run.activations["blocks.1.hook_resid_mid"][5].tolist()
    assert float(found["ln2"]["mean"][1, 0]) == pytest.approx(sum(read) / len(read), abs=1e-6)


def pattern_of(*rows: list[float]) -> Tensor:
    """One head's, (1, T, T)."""
    return torch.tensor([[*row, *[0.0] * (len(rows) - len(row))] for row in rows])[None]


def test_where_a_head_looks_is_a_mean_over_the_positions_that_have_a_choice() -> None:
    pattern = pattern_of([1.0], [0.25, 0.75], [0.5, 0.25, 0.25])
    found = looks(pattern, torch.tensor([7, 8, 9]))
    assert float(found["previous"]) == pytest.approx((0.25 + 0.25) / 2)
    assert float(found["first"]) == pytest.approx((0.25 + 0.5) / 2)
    assert float(found["self"]) == pytest.approx((0.75 + 0.25) / 2)
    assert float(found["distance"]) == pytest.approx((0.25 + (2 * 0.5 + 0.25)) / 2)
    nats = [-sum(p * math.log(p) for p in row) for row in ([0.25, 0.75], [0.5, 0.25, 0.25])]
    assert float(found["entropy"]) == pytest.approx(sum(nats) / 2)


def test_no_weight_on_a_position_adds_no_entropy() -> None:
    assert float(looks(pattern_of([1.0], [0.0, 1.0]), torch.tensor([1, 2]))["entropy"]) == 0


def test_induction_is_the_weight_on_what_followed_the_token_before() -> None:
    # a b a c a: the second a may look at b; the third at b and c.
    pattern = pattern_of([1.0], [0.5, 0.5], [0.1, 0.6, 0.3], [0.25, 0.25, 0.25, 0.25], [0.1, 0.2, 0.1, 0.5, 0.1])
    assert float(looks(pattern, torch.tensor([1, 2, 1, 3, 1]))["induction"]) == pytest.approx((0.6 + (0.2 + 0.5)) / 2)


def test_a_repeated_token_s_look_at_itself_is_no_induction() -> None:
    """In a a, what follows the first a is the position itself."""
    assert looks(pattern_of([1.0], [0.5, 0.5]), torch.tensor([1, 1]))["induction"].isnan().all()


def test_induction_is_not_defined_where_no_token_has_come_before() -> None:
    assert looks(pattern_of([1.0], [0.5, 0.5]), torch.tensor([1, 2]))["induction"].isnan().all()


def test_a_single_token_has_nowhere_to_look() -> None:
    found = looks(pattern_of([1.0]), torch.tensor([1]))
    assert all(figure.isnan().all() for figure in found.values())


def test_layers_looks_are_stacked() -> None:
    layer = looks(torch.eye(3).repeat(4, 1, 1), torch.tensor([1, 2, 1]))
    assert {figure.shape for figure in stacked([layer, layer]).values()} == {(2, 4)}


def test_entropy_is_that_of_the_distribution_and_large_logits_do_not_overflow() -> None:
    logits = torch.tensor([[0.0, 0.0, 0.0, 0.0], [1000.0, 0.0, 0.0, 0.0], [300.0, 300.0, -300.0, -300.0]])
    assert entropy(logits).tolist() == pytest.approx([math.log(4), 0.0, math.log(2)], abs=1e-4)
