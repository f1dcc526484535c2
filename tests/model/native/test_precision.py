"""What a checkpoint loses in a precision: measured token by token, and seen where weights are wrong."""

import pytest
import torch

from model.checkpoint import load_tokenizer, open_checkpoint
from model.native.library import Precision
from model.native.precision import loss_of, reference_runner, sample_ids, score
from model.native.runner import NativeRunner
from model.network_files import load_model
from tests.model.changes import changed

native = pytest.mark.usefixtures("needs_native")


@native
@pytest.mark.parametrize("length", [1, 2, 5, 8, 9, 256])
def test_the_measurement_takes_each_token_once_as_a_prompt_and_then_one_by_one(tiny_checkpoint, length):
    chunks = []

    class Watched:
        def __init__(self, runner):
            self.runner = runner

        def logits(self, batch, of_rows):
            chunks.extend(batch.chunks)
            return self.runner.logits(batch, of_rows)

        def launch(self, batch):
            chunks.extend(batch.chunks)
            return self.runner.launch(batch)

    checkpoint, token_ids = open_checkpoint(tiny_checkpoint), sample_ids(load_tokenizer(tiny_checkpoint), length)
    exact = reference_runner(checkpoint.config, checkpoint.weights, 1, "auto")
    scores = score(Watched(exact), token_ids)
    assert tuple(token_id for chunk in chunks for token_id in chunk.token_ids) == token_ids
    assert [chunk.start for chunk in chunks[1:]] == [chunk.end for chunk in chunks[:-1]]
    num_decoded, num_first = min(3, length - 1), max(length - 8, 0)
    sizes = [num_first] * bool(num_first) + [length - num_decoded - num_first] + [1] * num_decoded
    assert [len(chunk.token_ids) for chunk in chunks] == sizes
    network = load_model(tiny_checkpoint)
    with torch.inference_mode():
        expected = network(torch.tensor([token_ids]))[0].double()
    logprobs = expected.log_softmax(dim=-1)[range(length - 1), token_ids[1:]]
    assert scores.logprobs == pytest.approx(logprobs.numpy(), abs=1e-4)
    assert scores.logits == pytest.approx(expected[num_first:].numpy(), abs=1e-4 * float(expected.std()) + 1e-4)


@native
def test_a_loss_of_nothing_is_none(tiny_checkpoint):
    checkpoint, token_ids = open_checkpoint(tiny_checkpoint), sample_ids(load_tokenizer(tiny_checkpoint), 40)
    scores = score(reference_runner(checkpoint.config, checkpoint.weights, 1, "auto"), token_ids)
    assert loss_of(scores, scores) == (0.0, 1.0)


@native
@pytest.mark.parametrize("precision", Precision)
def test_the_self_test_finds_wrong_weights(tiny_checkpoint, precision):
    token_ids = sample_ids(load_tokenizer(tiny_checkpoint), 8)

    def scores(change, precision):
        checkpoint = changed(tiny_checkpoint, change)
        return score(NativeRunner(checkpoint.config, checkpoint.weights, 1, precision, 1), token_ids)

    def flip(network):
        network.h[1].attn.c_proj.weight.mul_(-1)

    exact = scores(lambda network: None, Precision.FLOAT32)
    assert loss_of(scores(lambda network: None, precision), exact).is_sane(precision)
    assert not loss_of(scores(flip, precision), exact).is_sane(precision)
