"""Text files to one array of token ids, and random windows of it as training batches."""

import lzma
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.tokenizer import END_OF_TEXT, Tokenizer

Tokens = NDArray[np.uint16]


def read_documents(file: Path) -> list[str]:
    """The documents of a UTF-8 text (plain or .xz), which lines of `<|endoftext|>` part."""
    text = (lzma.decompress(file.read_bytes()) if file.suffix == ".xz" else file.read_bytes()).decode("utf-8")
    return [document for document in text.split(f"{END_OF_TEXT}\n") if document.strip()]


def encode_documents(documents: list[str], tokenizer: Tokenizer) -> Tokens:
    """All documents' ids in one row, each document after an end token, as GPT-2 was trained."""
    if tokenizer.eos_token_id is None:
        raise ValueError(f"the vocabulary has no {END_OF_TEXT}")
    if tokenizer.vocab_size > np.iinfo(np.uint16).max + 1:
        raise ValueError(f"a vocabulary of {tokenizer.vocab_size} does not fit 16 bits")
    pieces = [np.array([tokenizer.eos_token_id, *tokenizer.encode(text)], dtype=np.uint16) for text in documents]
    return np.concatenate(pieces)


class WindowSampler:
    """Draws batches of random windows: (B, T) inputs and, one position on, (B, T) targets."""

    def __init__(self, tokens: Tokens, seed: int) -> None:
        self._tokens = torch.from_numpy(tokens.astype(np.int64))
        self._generator = torch.Generator().manual_seed(seed)

    def batch(self, num_rows: int, length: int) -> tuple[Tensor, Tensor]:
        starts = torch.randint(len(self._tokens) - length, (num_rows, 1), generator=self._generator)
        windows = self._tokens[starts + torch.arange(length + 1)]  # (B, T + 1)
        return windows[:, :-1], windows[:, 1:]
