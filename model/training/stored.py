"""The checkpoint that a model is made of, with the type in which it has its weights: what is made of it is written in the same."""

from pathlib import Path

import torch

from model.checkpoint import open_checkpoint
from model.gpt2 import GPT2
from model.network_files import network_of

DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def load_stored(directory: Path) -> tuple[GPT2, torch.dtype]:
    """The network with its weights in float32 on the CPU, and the type of those in the files, float32 where they have several."""
    checkpoint = open_checkpoint(directory)
    found = {DTYPES[weight.dtype] for weight in checkpoint.weights.values()}
    return network_of(checkpoint), found.pop() if len(found) == 1 else torch.float32
