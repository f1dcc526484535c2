"""What the tests of the model share: a checkpoint to be changed, and for training a text and the smallest vocabulary."""

import shutil
from pathlib import Path

import pytest

from model.tokenizer import Tokenizer
from model.training.vocabulary import train_vocabulary


@pytest.fixture
def checkpoint(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    """A copy of the tiny checkpoint, to be damaged."""
    return Path(shutil.copytree(tiny_checkpoint, tmp_path / "checkpoint"))


@pytest.fixture(scope="session")
def shakespeare() -> str:
    """40 KB from the beginning of Coriolanus; public domain."""
    return (Path(__file__).parents[1] / "data" / "shakespeare.txt").read_text(encoding="utf-8")


@pytest.fixture(scope="session")
def byte_tokenizer() -> Tokenizer:
    """The 256 bytes and the end token."""
    return train_vocabulary([], 257)
