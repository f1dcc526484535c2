"""What the native step's precisions cost in accuracy: errors against float64, and perplexity on held-out text beside float32's.

    python -m benchmarks.native_precision books_eval.txt.xz

The default checkpoint, and random weights of GPT-2 124M's shape for the errors. Perplexity is over windows of the whole context,
each token but a window's first predicted from those before it.
"""

import argparse
import lzma
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from app.settings import DEFAULT_MODEL
from benchmarks.machine import random_gpt2, write_result
from model.batch import Chunk, ForwardBatch
from model.checkpoint import load_tokenizer
from model.gpt2 import GPT2
from model.machine import num_cores
from model.native.library import Precision
from model.native.runner import NativeRunner
from model.network_files import load_model, weights_of

NUM_ERROR_TOKENS = 256


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("text", type=Path, help="held-out text, .txt or .txt.xz")
    parser.add_argument("--max-tokens", type=int, default=200_000)
    options = parser.parse_args()
    contents = options.text.read_bytes()
    text = (lzma.decompress(contents) if options.text.suffix == ".xz" else contents).decode("utf-8")
    token_ids = load_tokenizer(DEFAULT_MODEL).encode(text)[: options.max_tokens]
    default = load_model(DEFAULT_MODEL, lambda done, total: None)
    directory = random_gpt2(Path(tempfile.gettempdir()) / "gpt2-124m-random")
    large = load_model(directory, lambda done, total: None)
    result = {
        "tokens": len(token_ids),
        "perplexity": _perplexities(default, token_ids),
        "errors_in_standard_deviations": {
            "default checkpoint": _errors(default, token_ids[:NUM_ERROR_TOKENS]),
            "random weights, 124M": _errors(large, load_tokenizer(directory).encode(text[:4000])[:NUM_ERROR_TOKENS]),
        },
    }
    print(result)
    write_result("native_precision", f"python -m benchmarks.native_precision {options.text.name}", result)


def _perplexities(model: GPT2, token_ids: list[int]) -> dict[str, Any]:
    losses = {precision.label: _loss(model, precision, token_ids) for precision in Precision}
    exact = losses[Precision.FLOAT32.label]
    return {
        label: {"perplexity": float(np.exp(loss)), "over_float32": float(np.exp(loss - exact))} for label, loss in losses.items()
    }


def _loss(model: GPT2, precision: Precision, token_ids: list[int]) -> float:
    """Mean cross-entropy in nats."""
    runner = NativeRunner(model.config, weights_of(model), 1, precision, num_cores())
    losses = [
        torch.nn.functional.cross_entropy(
            torch.from_numpy(_logits(runner, window)[:-1]), torch.tensor(window[1:]), reduction="none"
        )
        for window in _windows(token_ids, model.config.n_positions)
    ]
    return float(torch.cat(losses).double().mean())


def _windows(token_ids: list[int], size: int) -> Iterator[list[int]]:
    yield from (token_ids[i : i + size] for i in range(0, len(token_ids) - size + 1, size))


def _errors(model: GPT2, token_ids: list[int]) -> dict[str, dict[str, float]]:
    """Of the logits, against the plain network in float64; PyTorch's own float32 beside them."""
    config, weights = model.config, weights_of(model)
    logits = {precision.label: _logits(NativeRunner(config, weights, 1, precision, 2), token_ids) for precision in Precision}
    with torch.inference_mode():
        logits["PyTorch float32"] = model.eval()(torch.tensor([token_ids]))[0].numpy()
        exact = model.double()(torch.tensor([token_ids]))[0].numpy()
    errors = {label: (values - exact) / exact.std() for label, values in logits.items()}
    return {label: {"rms": float(np.sqrt((e**2).mean())), "max": float(np.abs(e).max())} for label, e in errors.items()}


def _logits(runner: NativeRunner, token_ids: list[int]) -> NDArray[np.float32]:
    return runner.logits(ForwardBatch((Chunk(0, 0, tuple(token_ids)),)), range(len(token_ids)))


if __name__ == "__main__":
    main()
