"""The checkpoint that comes with the service."""

import re
from pathlib import Path

import pytest
import torch
from transformers import GPT2LMHeadModel, GPT2Tokenizer

from model.checkpoint import load_tokenizer
from model.network_files import load_model

DIRECTORY = Path(__file__).parents[2] / "model" / "default"


def test_transformers_reads_it_and_computes_the_same_logits() -> None:
    tokenizer = load_tokenizer(DIRECTORY)
    token_ids = torch.tensor([tokenizer.encode("The old man looked at the sea and")])
    theirs = GPT2LMHeadModel.from_pretrained(DIRECTORY, dtype=torch.float32).eval()
    assert GPT2Tokenizer.from_pretrained(DIRECTORY).encode("The old man looked at the sea and") == token_ids[0].tolist()
    with torch.inference_mode():
        ours, expected = load_model(DIRECTORY).eval()(token_ids), theirs(token_ids).logits
    assert ((ours - expected).norm() / expected.norm()).item() <= 1e-5


def test_it_fits_into_the_repository_and_has_room_for_a_page_of_text() -> None:
    assert sum(file.stat().st_size for file in DIRECTORY.iterdir()) <= 64_000_000
    assert load_model(DIRECTORY).config.n_positions >= 512


@pytest.mark.parametrize("seed_text", ["The old man", "In the morning", "She looked at"])
def test_it_predicts_english_far_better_than_chance(seed_text: str) -> None:
    tokenizer = load_tokenizer(DIRECTORY)
    model = load_model(DIRECTORY).eval()
    likely, unlikely = (torch.tensor([tokenizer.encode(seed_text + end)]) for end in (" and the other", " qxz vvk zzzr"))
    with torch.inference_mode():
        mean_logprobs = [
            model(ids)[0, :-1].log_softmax(-1).gather(-1, ids[0, 1:, None]).mean().item() for ids in (likely, unlikely)
        ]
    assert mean_logprobs[0] > mean_logprobs[1] + 1


def test_its_card_says_how_good_it_is_and_what_it_was_trained_on() -> None:
    card = (DIRECTORY / "README.md").read_text()
    match = re.search(r"bits per byte\*\* \| \*\*([\d.]+)\*\* on `books_eval`", card)
    assert match
    assert float(match[1]) <= 1.6
    assert "public-domain" in card
