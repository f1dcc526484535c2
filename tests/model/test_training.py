"""From texts to a vocabulary, to windows of ids, to a model that has learned something."""

import lzma
import math
from pathlib import Path

import numpy as np
import pytest
import tokenizers
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import GPT2TokenizerFast

from model.checkpoint import load_model, load_tokenizer, save_checkpoint
from model.config import GPT2Config
from model.gpt2 import GPT2
from model.tokenizer import Tokenizer
from model.training.data import WindowSampler, encode_documents, read_documents
from model.training.evaluation import bits_per_byte
from model.training.trainer import Recipe, Trainer, parameter_groups
from model.training.vocabulary import train_vocabulary

# Words with shared beginnings and ends, runs, other scripts: what makes merges compete.
TEXT = " ".join(
    f"{a}{b}{c}"
    for a in ("", "un", "re", "日本")
    for b in ("do", "doing", "aaa", "bababa", "naïve")
    for c in ("", "s", "'ll", "!!", " 12\n")
)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_vocabulary([TEXT] * 3, 300)


@pytest.fixture(scope="module")
def checkpoint(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("trained")
    save_checkpoint(directory, GPT2(config_for(tokenizer)).init_weights(), tokenizer, torch.float32)
    return directory


@pytest.fixture(scope="module")
def readers(checkpoint: Path) -> tuple[Tokenizer, GPT2TokenizerFast, tokenizers.Tokenizer]:
    files = str(checkpoint / "vocab.json"), str(checkpoint / "merges.txt")
    library = tokenizers.Tokenizer(tokenizers.models.BPE.from_file(*files))
    library.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    return load_tokenizer(checkpoint), GPT2TokenizerFast.from_pretrained(checkpoint), library


def config_for(tokenizer: Tokenizer) -> GPT2Config:
    assert tokenizer.eos_token_id is not None
    return GPT2Config(tokenizer.vocab_size, n_positions=32, n_embd=24, n_layer=2, n_head=3, eos_token_id=tokenizer.eos_token_id)


def test_a_trained_vocabulary_has_the_bytes_first_and_the_end_token_last(tokenizer: Tokenizer) -> None:
    assert tokenizer.vocab_size == len(tokenizer.vocab) == 300
    assert tokenizer.eos_token_id == 299
    assert all(len(tokenizer.token_bytes(i)) == 1 for i in range(256))
    assert len(tokenizer.encode(TEXT)) < len(TEXT.encode()) / 3


@settings(deadline=None)
@given(
    text=st.text(st.sampled_from(sorted(set(TEXT))))
    | st.lists(st.sampled_from(TEXT.split(" "))).map(" ".join)
    | st.text(max_size=20)
)
def test_a_trained_vocabulary_is_read_alike_by_all_who_read_its_files(
    readers: tuple[Tokenizer, GPT2TokenizerFast, tokenizers.Tokenizer], text: str
) -> None:
    ours, transformers, library = readers
    ids = ours.encode(text)
    assert ids == transformers.encode(text)
    assert ids == library.encode(text).ids
    assert text == ours.decode(ids) == transformers.decode(ids, clean_up_tokenization_spaces=False)


def test_documents_are_parted_by_lines_of_the_end_token(tmp_path: Path) -> None:
    text = "First.\n<|endoftext|>\nSecond,\nnaïve.\n<|endoftext|>\n\n"
    (tmp_path / "corpus.txt").write_text(text, encoding="utf-8")
    (tmp_path / "corpus.txt.xz").write_bytes(lzma.compress(text.encode("utf-8")))
    assert read_documents(tmp_path / "corpus.txt") == ["First.\n", "Second,\nnaïve.\n"]
    assert read_documents(tmp_path / "corpus.txt.xz") == read_documents(tmp_path / "corpus.txt")


def test_each_document_follows_an_end_token(tokenizer: Tokenizer) -> None:
    tokens = encode_documents(["redo", "undo"], tokenizer)
    assert tokens.dtype == np.uint16
    assert tokens.tolist() == [299, *tokenizer.encode("redo"), 299, *tokenizer.encode("undo")]


def test_a_vocabulary_that_cannot_mark_documents_is_refused(tokenizer: Tokenizer) -> None:
    ordinary = {token: i for token, i in tokenizer.vocab.items() if i != tokenizer.eos_token_id}
    with pytest.raises(ValueError, match=r"has no <\|endoftext\|>"):
        encode_documents(["redo"], Tokenizer(ordinary, tokenizer.merges))
    with pytest.raises(ValueError, match="a vocabulary of 70001 does not fit 16 bits"):
        encode_documents(["redo"], Tokenizer(tokenizer.vocab | {"zz": 70_000}, tokenizer.merges))


def test_windows_lie_anywhere_in_the_tokens_and_targets_are_one_on() -> None:
    tokens = np.arange(40, dtype=np.uint16)
    inputs, targets = WindowSampler(tokens, seed=0).batch(500, 8)
    assert inputs.shape == targets.shape == (500, 8)
    assert torch.equal(inputs + 1, targets)
    assert (inputs.min(), targets.max()) == (0, 39)
    again, _ = WindowSampler(tokens, seed=0).batch(500, 8)
    assert torch.equal(inputs, again)


def test_only_matrices_decay(tokenizer: Tokenizer) -> None:
    model = GPT2(config_for(tokenizer))
    matrices, vectors = parameter_groups(model, 0.1)
    assert (matrices["weight_decay"], vectors["weight_decay"]) == (0.1, 0.0)
    assert {p.ndim for p in matrices["params"]} == {2}
    assert {p.ndim for p in vectors["params"]} == {1}
    assert len(matrices["params"]) + len(vectors["params"]) == len(list(model.parameters()))


def test_training_lowers_the_loss_and_the_bits_per_byte(tokenizer: Tokenizer, tmp_path: Path, device: torch.device) -> None:
    torch.manual_seed(0)
    model = GPT2(config_for(tokenizer)).init_weights().to(device)
    ids = [299, *tokenizer.encode(TEXT)]
    before = bits_per_byte(model, ids, len(TEXT.encode()))
    recipe = Recipe(max_seconds=1, batch_tokens=256, windows=((0.0, 16), (0.5, 32)), learning_rate=1e-2)
    trainer = Trainer(model, WindowSampler(encode_documents([TEXT] * 2, tokenizer), seed=0), recipe)
    losses = [trainer.step(i / 20) for i in range(20)]
    assert losses[0] == pytest.approx(math.log(300), rel=0.02)
    assert losses[-1] < 0.7 * losses[0]
    assert trainer.tokens_seen == 20 * 256
    assert bits_per_byte(model.eval(), ids, len(TEXT.encode())) < 0.7 * before
    save_checkpoint(tmp_path, model, tokenizer, torch.float32)
    assert torch.equal(load_model(tmp_path).wte.weight, model.wte.weight.cpu())


def test_a_run_ends_in_time_and_saves(tokenizer: Tokenizer) -> None:
    model = GPT2(config_for(tokenizer)).init_weights()
    data = WindowSampler(encode_documents([TEXT] * 2, tokenizer), seed=0)
    recipe = Recipe(max_seconds=0.3, batch_tokens=64, windows=((0.0, 16),))
    fractions, saves = [], []
    Trainer(model, data, recipe).run(lambda fraction, loss: fractions.append(fraction), lambda: saves.append(1), save_seconds=0.1)
    assert fractions == sorted(fractions)
    assert all(0 <= fraction < 1 for fraction in fractions)
    assert len(saves) >= 2


@torch.inference_mode()
@pytest.mark.parametrize("num_tokens", [2, 31, 32, 33, 34, 48, 49, 100])
def test_bits_per_byte_score_every_token_once(tokenizer: Tokenizer, num_tokens: int) -> None:
    """A model that gives every token the same probability needs log2 V bits a token, however the windows fall."""
    model = GPT2(config_for(tokenizer)).init_weights()
    model.ln_f.weight.zero_()
    bits = bits_per_byte(model, [299, *range(1, num_tokens)], num_bytes=10)
    assert bits == pytest.approx((num_tokens - 1) * math.log2(300) / 10, rel=1e-5)
