"""The held-out text as token ids, to measure bits per byte on: packed here, read where nothing of the service is installed."""

import json
from pathlib import Path

import numpy as np

from model.tokenizer import PLAIN_TEXT, Tokenizer
from model.training.data.corpus import documents

TOKENS, SIZES = "held_out.bin", "held_out.json"


def write_held_out(text: Path, tokenizer: Tokenizer, directory: Path) -> None:
    contents = "".join(documents(text))
    np.array(tokenizer.encode(contents, PLAIN_TEXT), dtype="<u4").tofile(directory / TOKENS)
    (directory / SIZES).write_text(json.dumps({"file": text.name, "num_bytes": len(contents.encode())}))


def read_held_out(directory: Path) -> tuple[list[int], int]:
    """Token ids, and the bytes of the text that they are."""
    sizes = json.loads((directory / SIZES).read_text())
    return np.fromfile(directory / TOKENS, dtype="<u4").tolist(), sizes["num_bytes"]
