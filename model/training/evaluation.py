"""Bits per byte of a model on a text: comparable between vocabularies, unlike perplexity a token.

python -m model.training.evaluation CHECKPOINT TEXT
"""

import argparse
import math
from pathlib import Path

import torch
import torch.nn.functional as F

from model.checkpoint import load_model, load_tokenizer
from model.gpt2 import GPT2
from model.training.data import read_documents


@torch.inference_mode()
def bits_per_byte(model: GPT2, token_ids: list[int], num_bytes: int) -> float:
    """-log2 p(text) / bytes: windows of the whole context, half of it new each time; the first token goes unscored.

    `token_ids` begins with the end token, which stands for the empty context, so that every token of the text is scored.
    """
    context = model.config.n_positions
    stride = context // 2
    ids = torch.tensor(token_ids, device=model.wte.weight.device)
    nats, scored = 0.0, 1
    while scored < len(ids):
        end = min(len(ids), context if scored == 1 else scored + stride)
        window = ids[max(0, end - context) : end]
        logits = model(window[None, :-1])[0].float()  # (T, V)
        losses = F.cross_entropy(logits, window[1:], reduction="none")
        nats += losses[-(end - scored) :].double().sum().item()
        scored = end
    return nats / math.log(2) / num_bytes


def main() -> None:
    parser = argparse.ArgumentParser(description="Print the bits per byte of a checkpoint on a UTF-8 text, plain or .xz.")
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("text", type=Path)
    arguments = parser.parse_args()
    tokenizer = load_tokenizer(arguments.checkpoint)
    text = "".join(read_documents(arguments.text))
    model = load_model(arguments.checkpoint).eval()
    token_ids = [model.config.eos_token_id, *tokenizer.encode(text)]
    print(f"{bits_per_byte(model, token_ids, len(text.encode())):.4f} bits per byte")


if __name__ == "__main__":
    main()
