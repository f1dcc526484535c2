"""How well a checkpoint predicts a held-out text, and the same as `transformers` alone computes it on the text's first 64 KB.

python -m benchmarks.bits_per_byte books_eval.txt.xz

The two must agree: of ours, text reading, vocabulary, network and windows are all our own; of the other side, nothing is.
"""

import argparse
import json
import lzma
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from transformers import GPT2LMHeadModel, GPT2Tokenizer

from benchmarks.machine import ROOT, write_result

SAMPLE_BYTES = 65536


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=Path, help="held-out text, .txt or .txt.xz; lines of <|endoftext|> do not count")
    parser.add_argument("--model", type=Path, default=ROOT / "model" / "default")
    options = parser.parse_args()
    whole = _ours(options.text, options.model)
    sample = _ours(options.text, options.model, "--max-bytes", str(SAMPLE_BYTES))
    theirs = _transformers_bits_per_byte(options.text, options.model)
    print(f"{'whole text':24} {whole['bits_per_byte']:.4f} bits per byte, {whole['tokens_per_second']:,.0f} tokens/s")
    print(f"{'64 KB of it':24} {sample['bits_per_byte']:.4f}")
    print(f"{'transformers, the same':24} {theirs:.4f}, {abs(theirs - sample['bits_per_byte']):.4f} apart")
    result = {
        "text": options.text.name,
        "bits_per_byte": whole["bits_per_byte"],
        "perplexity": whole["perplexity"],
        "tokens": whole["tokens"],
        "bytes": whole["bytes"],
        "tokens_per_second": whole["tokens_per_second"],
        "sample_bits_per_byte": sample["bits_per_byte"],
        "sample_bits_per_byte_transformers": theirs,
    }
    write_result("bits_per_byte", f"python -m benchmarks.bits_per_byte {options.text.name}", result)


def _ours(text: Path, model: Path, *options: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "app", "eval", str(text), "--model", str(model), *options]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GPT2_")}
    output = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout
    return json.loads(output)  # type: ignore[no-any-return]


@torch.inference_mode()
def _transformers_bits_per_byte(text: Path, directory: Path) -> float:
    """Windows of the whole context, one by one, the second half of each new; an end token before the text."""
    raw = lzma.decompress(text.read_bytes()) if text.suffix == ".xz" else text.read_bytes()
    sample = raw.replace(b"<|endoftext|>\n", b"")[:SAMPLE_BYTES].decode("utf-8", errors="ignore")
    tokenizer = GPT2Tokenizer.from_pretrained(directory)
    model = GPT2LMHeadModel.from_pretrained(directory, dtype=torch.float32).eval()
    context, ids = model.config.n_positions, torch.tensor([tokenizer.eos_token_id, *tokenizer.encode(sample)])
    nats, scored = 0.0, 1
    while scored < len(ids):
        end = min(len(ids), context if scored == 1 else scored + context // 2)
        window = ids[max(0, end - context) : end][None]
        labels = window.clone()
        labels[:, : -(end - scored)] = -100
        nats += model(window, labels=labels).loss.item() * (end - scored)
        scored = end
    return nats / math.log(2) / len(sample.encode())


if __name__ == "__main__":
    main()
