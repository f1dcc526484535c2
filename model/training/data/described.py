"""What a run's data is, in words for its model card and in bytes for its figures."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from model.tokenizer import Tokenizer
from model.training.data.shards import TokenShards
from model.training.data.source import DataSource
from model.training.recipe import Recipe

MAX_FILES = 20  # that are named


def data_story(paths: Sequence[Path], counts: str) -> tuple[str, ...]:
    """Lines on the data: what was counted, and the paths by the names given; folders of this machine are nobody's business."""
    names = tuple(f"`{path.name if path.is_absolute() else path}`" for path in paths[:MAX_FILES])
    return (counts, *names, *([f"and {len(paths) - MAX_FILES:,} more"] if len(paths) > MAX_FILES else []))


def counts_of_text(shards: TokenShards) -> str:
    held_out = sum(map(len, shards.validation))
    return f"{shards.num_bytes:,} bytes of text, {shards.num_tokens:,} tokens, of which {held_out:,} were held out"


def bits_per_nat(data: DataSource, recipe: Recipe, tokenizer: Tokenizer) -> float | None:
    """Bits per byte for each nat a token of what validation measures at a run's end; None where it has no bytes."""
    counts = np.zeros(tokenizer.vocab_size, dtype=np.int64)
    for _, targets in data.validation(recipe.max_steps - 1):
        counts += np.bincount(targets.flatten().numpy(), minlength=tokenizer.vocab_size)
    num_bytes = sum(
        int(count) * len(tokenizer.token_bytes(token))
        for token, count in enumerate(counts)
        if count and not tokenizer.is_special(token)
    )
    return int(counts.sum()) / num_bytes / math.log(2) if num_bytes else None
