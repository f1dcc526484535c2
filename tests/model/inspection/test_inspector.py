"""An inspection: both runs side by side, and of each what was asked for."""

from dataclasses import replace

import pytest
import torch

from model.gpt2 import GPT2
from model.inspection.inspector import Inspector
from model.inspection.names import all_names, token_axis
from model.inspection.request import DEFAULT_SUMMARIES, HeadAblation, InspectionError, NoResidual, Patch, Steering
from tests.model.inspection.small import PROMPT, SIZES, request, small_network


@pytest.fixture(scope="module")
def inspector() -> Inspector:
    return Inspector(small_network())


def test_loss_and_likeliest_tokens_are_those_of_the_logits(inspector: Inspector) -> None:
    run = inspector.inspect(request(top_n=3)).run
    logprobs = inspector.network.run(PROMPT).logits.log_softmax(-1)
    expected = torch.stack([logprobs[i, PROMPT[i + 1]] for i in range(len(PROMPT) - 1)])
    torch.testing.assert_close(run.logprobs, expected)
    assert run.loss == pytest.approx(-float(expected.mean()))
    assert run.next_ids.tolist() == logprobs[-1].argsort(descending=True)[:3].tolist()
    torch.testing.assert_close(run.next_logprobs, logprobs[-1, run.next_ids])
    assert run.continuation is None


def test_one_token_has_no_loss(inspector: Inspector) -> None:
    run = inspector.inspect(request(prompt=(3,), summaries=DEFAULT_SUMMARIES)).run
    assert run.loss is None
    assert len(run.logprobs) == 0


def test_the_ablated_run_stands_beside_one_that_knows_nothing_of_it(inspector: Inspector) -> None:
    asked = request(names=("*",), summaries=DEFAULT_SUMMARIES, max_new_tokens=4)
    plain = inspector.inspect(asked)
    both = Inspector(small_network()).inspect(replace(asked, ablations=(HeadAblation(0, 1), NoResidual("mlp", 2))))
    assert plain.ablated is None
    assert both.ablated is not None
    assert both.run.loss == plain.run.loss != both.ablated.loss
    assert both.run.continuation == plain.run.continuation
    for name in all_names(SIZES):
        assert both.run.activations[name].equal(plain.run.activations[name])
    assert not both.ablated.activations["blocks.0.attn.hook_z"][:, 1].any()


def test_one_ablation_after_the_other_takes_the_run_without_them_once() -> None:
    looks: list[None] = []
    inspector = Inspector(small_network(), look=lambda: looks.append(None))
    plain = inspector.inspect(request())
    first = inspector.inspect(request(ablations=(HeadAblation(0, 1),)))
    second = inspector.inspect(request(ablations=(NoResidual("mlp", 2),)))
    assert len(looks) == 3 * SIZES.n_layer
    assert plain.run is first.run is second.run
    inspector.inspect(request(top_n=2, ablations=(NoResidual("mlp", 2),)))
    assert len(looks) == 5 * SIZES.n_layer, "another question is computed anew"


def test_positions_choose_the_rows_that_are_sent_back(inspector: Inspector) -> None:
    whole = inspector.inspect(request(names=("*",))).run.activations
    rows = inspector.inspect(request(names=("*",), positions=(-1, 2))).run.activations
    for name in all_names(SIZES):
        assert rows[name].equal(whole[name].index_select(token_axis(name), torch.tensor([6, 2])))


def test_a_continuation_ends_with_the_context_or_with_an_end_token(inspector: Inspector) -> None:
    full = inspector.inspect(request(prompt=(5,) * SIZES.n_positions, max_new_tokens=5)).run
    assert full.continuation is None
    almost = inspector.inspect(request(prompt=(5,) * (SIZES.n_positions - 2), max_new_tokens=5)).run
    assert almost.continuation is not None
    assert 1 <= len(almost.continuation.token_ids) <= 2
    towards_the_end = Steering("ln_final.hook_normalized", token=SIZES.eos_token_id, scale=100.0)
    ended = inspector.inspect(request(max_new_tokens=5, ablations=(towards_the_end,))).ablated
    assert ended is not None
    assert ended.continuation is not None
    assert ended.continuation.token_ids == (SIZES.eos_token_id,)


def test_numbers_beyond_float32_are_refused_and_not_told(inspector: Inspector) -> None:
    huge = Steering("blocks.1.hook_resid_mid", token=1, scale=3e38)
    for ablation in (huge, Patch("blocks.0.ln1.hook_scale", values=((0.0,),) * len(PROMPT))):
        with pytest.raises(InspectionError, match="leave the range of float32") as refused:
            inspector.inspect(request(ablations=(ablation,)))
        assert refused.value.field == "ablations"


def test_inspecting_leaves_the_network_as_it_was() -> None:
    network: GPT2 = small_network()
    before = {name: parameter.clone() for name, parameter in network.named_parameters()}
    Inspector(network).inspect(request(summaries=DEFAULT_SUMMARIES, ablations=(HeadAblation(),), max_new_tokens=3))
    for name, parameter in network.named_parameters():
        assert parameter.equal(before[name])
        assert parameter.grad is None
