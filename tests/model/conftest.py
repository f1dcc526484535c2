"""What the tests of training share: a text, the smallest vocabulary, and a text that a network learns within a few steps."""

from pathlib import Path

import pytest

from model.tokenizer import Tokenizer
from model.training.vocabulary import train_vocabulary


@pytest.fixture(scope="session")
def shakespeare() -> str:
    """40 KB from the beginning of Coriolanus; public domain."""
    return (Path(__file__).parents[1] / "data" / "shakespeare.txt").read_text(encoding="utf-8")


@pytest.fixture(scope="session")
def byte_tokenizer() -> Tokenizer:
    """The 256 bytes and the end token."""
    return train_vocabulary([], 257)
