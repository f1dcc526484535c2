"""The score of a text: what the definition says, window by window, and what `transformers` computes alone."""

import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from transformers import GPT2LMHeadModel

from model.config import GPT2Config
from model.gpt2 import GPT2
from model.network_files import load_model, save_checkpoint
from model.packed_linear import PackedLinear
from model.tokenizer import Tokenizer
from model.training import evaluation
from model.training.errors import TrainingError
from model.training.evaluation import evaluate

VOCAB_SIZE, CONTEXT = 500, 32
LENGTHS = [1, 2, 30, 31, 32, 33, 47, 48, 49, 100, 500]


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a few hundred tokens make several batches and several parts of logits, the last of them incomplete."""
    monkeypatch.setattr(evaluation, "BATCH_TOKENS", 3 * CONTEXT)
    monkeypatch.setattr(evaluation, "LOGIT_ROWS", 20)


def build_model(context: int = CONTEXT) -> GPT2:
    """Random weights, large enough that the tokens' probabilities differ clearly and depend on all that was before."""
    config = GPT2Config(VOCAB_SIZE, n_positions=context, n_embd=32, n_layer=2, n_head=4, eos_token_ids=(VOCAB_SIZE - 1,))
    model = GPT2(config).init_weights(torch.Generator().manual_seed(0))
    for parameter in model.parameters():
        parameter.data.mul_(4 if parameter.ndim == 2 else 1)
    return model.eval()


@pytest.fixture(scope="module")
def model() -> GPT2:
    return build_model()


def text_of(num_tokens: int) -> list[int]:
    return torch.randint(VOCAB_SIZE - 1, (num_tokens,), generator=torch.Generator().manual_seed(num_tokens)).tolist()


@torch.inference_mode()
def nats_window_by_window(model: GPT2, token_ids: list[int]) -> float:
    """The definition, as plainly as it can be written."""
    context, stride = model.config.n_positions, model.config.n_positions // 2
    ids = torch.tensor([model.config.eos_token_id, *token_ids])
    nats, scored = 0.0, 1
    while scored < len(ids):
        end = min(len(ids), context if scored == 1 else scored + stride)
        window = ids[max(0, end - context) : end]
        losses = F.cross_entropy(model(window[None, :-1])[0], window[1:], reduction="none")
        nats += losses[-(end - scored) :].double().sum().item()
        scored = end
    return nats


@pytest.mark.parametrize("num_tokens", LENGTHS)
def test_a_text_scores_what_it_scores_window_by_window(model: GPT2, num_tokens: int, device: torch.device) -> None:
    token_ids = text_of(num_tokens)
    result = evaluate(build_model().to(device), token_ids, num_bytes=1)
    assert result.nats == pytest.approx(nats_window_by_window(model, token_ids), rel=1e-6 if device.type == "cpu" else 1e-4)


@pytest.mark.parametrize("context", [2, 3, 17])
def test_a_context_that_cannot_be_halved_or_hardly_so_does_as_well(context: int) -> None:
    model, token_ids = build_model(context), text_of(50)
    assert evaluate(model, token_ids, 1).nats == pytest.approx(nats_window_by_window(model, token_ids), rel=1e-6)


@pytest.mark.parametrize("num_tokens", LENGTHS)
def test_every_token_is_scored_once(num_tokens: int) -> None:
    """A model that gives every token the same probability needs log2 V bits a token, however the windows fall."""
    model = build_model()
    model.ln_f.weight.data.zero_()
    counted: list[int] = []
    result = evaluate(model, text_of(num_tokens), num_bytes=10, on_progress=counted.append)
    assert sum(counted) == result.num_tokens == num_tokens
    assert result.bits_per_byte == pytest.approx(num_tokens * math.log2(VOCAB_SIZE) / 10, rel=1e-5)
    assert result.perplexity == pytest.approx(VOCAB_SIZE, rel=1e-5)
    assert result.tokens_per_second == num_tokens / result.seconds


@pytest.mark.parametrize("bfloat16", [False, True])
def test_the_model_stays_as_it_is_and_can_be_trained_on(device: torch.device, bfloat16: bool) -> None:
    here = build_model().to(device).train()
    weights = {name: parameter.clone() for name, parameter in here.named_parameters()}
    evaluate(here, text_of(50), 1, bfloat16)
    assert here.training
    assert all(torch.equal(parameter, weights[name]) for name, parameter in here.named_parameters())
    here(torch.tensor([[1, 2, 3]], device=device)).sum().backward()


def test_on_a_cpu_the_faster_packed_layers_compute(model: GPT2, monkeypatch: pytest.MonkeyPatch) -> None:
    used = []
    monkeypatch.setattr(PackedLinear, "forward", lambda self, x, forward=PackedLinear.forward: used.append(x) or forward(self, x))
    evaluate(model, text_of(50), 1, bfloat16=True)
    assert not used
    evaluate(model, text_of(50), 1)
    assert used


def test_bfloat16_scores_about_the_same(model: GPT2, device: torch.device) -> None:
    here = build_model().to(device)
    assert evaluate(here, text_of(200), 1, bfloat16=True).nats == pytest.approx(evaluate(model, text_of(200), 1).nats, rel=0.02)


def test_dropout_does_not_act(model: GPT2) -> None:
    dropping = GPT2(model.config, dropout=0.5)
    dropping.load_state_dict(model.state_dict())
    assert evaluate(dropping.train(), text_of(100), 1).nats == evaluate(model, text_of(100), 1).nats


@torch.inference_mode()
def test_transformers_alone_comes_to_the_same_bits_per_byte(
    tiny_checkpoint: Path, small_tokenizer: Tokenizer, tmp_path: Path
) -> None:
    text = " ".join(f"{number} windows of the sea, and the naïve reader" for number in range(60))
    ids = [VOCAB_SIZE - 1, *small_tokenizer.encode(text)]
    config = GPT2Config(VOCAB_SIZE, n_positions=64, n_embd=32, n_layer=2, n_head=4, eos_token_ids=(VOCAB_SIZE - 1,))
    save_checkpoint(tmp_path, GPT2(config).init_weights(torch.Generator().manual_seed(1)), small_tokenizer, torch.float32)
    theirs = GPT2LMHeadModel.from_pretrained(tmp_path, dtype=torch.float32).eval()
    nats, scored = 0.0, 1
    for begin in range(0, len(ids), 32):
        window = torch.tensor([ids[begin : begin + 64]])
        num_new = begin + window.shape[1] - scored
        if num_new:
            labels = window.clone()
            labels[:, :-num_new] = -100
            nats += theirs(window, labels=labels).loss.item() * num_new
            scored += num_new
    num_bytes = len(text.encode())
    ours = evaluate(load_model(tmp_path), ids[1:], num_bytes).bits_per_byte
    assert ours == pytest.approx(nats / math.log(2) / num_bytes, abs=1e-3)


def test_what_cannot_be_scored_is_refused(model: GPT2) -> None:
    with pytest.raises(TrainingError, match="no token"):
        evaluate(model, [], 1)
    with pytest.raises(TrainingError, match="context is 1"):
        evaluate(build_model(context=1), [1, 2], 1)


@pytest.mark.parametrize("weight", [math.nan, 1e30])
def test_damaged_weights_are_told_and_not_reported_as_a_score(weight: float) -> None:
    model = build_model()
    model.wte.weight.data[7] = weight
    with pytest.raises(TrainingError, match="damaged"):
        evaluate(model, [7] * 10 + text_of(10), 1)
