"""Trains a small GPT-2 from text files within a time limit: `python -m model.training.pretrain CORPUS... --out DIRECTORY`."""

import argparse
import csv
from pathlib import Path

import torch

from model.checkpoint import save_checkpoint
from model.config import GPT2Config
from model.gpt2 import GPT2
from model.tokenizer import Tokenizer
from model.training.data import WindowSampler, encode_documents, read_documents
from model.training.trainer import Recipe, Trainer
from model.training.vocabulary import train_vocabulary


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="+", type=Path, help="UTF-8 texts, plain or .xz; documents parted by <|endoftext|> lines")
    parser.add_argument("--out", type=Path, required=True, help="directory of the checkpoint; an existing one is replaced")
    parser.add_argument("--minutes", type=float, default=50)
    parser.add_argument("--vocab-size", type=int, default=4096)
    parser.add_argument("--n-positions", type=int, default=512)
    parser.add_argument("--n-embd", type=int, default=320)
    parser.add_argument("--n-layer", type=int, default=7)
    parser.add_argument("--n-head", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    documents = [document for file in arguments.files for document in read_documents(file)]
    num_bytes = sum(len(document.encode()) for document in documents)
    print(f"{len(documents)} documents, {num_bytes:,} bytes; training a vocabulary of {arguments.vocab_size}")
    # Every eighth paragraph knows the same words, in an eighth of the time.
    paragraphs = [paragraph for document in documents for paragraph in document.split("\n\n")[::8]]
    tokenizer = train_vocabulary(paragraphs, arguments.vocab_size)
    tokens = encode_documents(documents, tokenizer)
    print(f"{len(tokens):,} tokens, {num_bytes / len(tokens):.2f} bytes each")

    torch.manual_seed(arguments.seed)
    model = GPT2(_config(arguments, tokenizer)).init_weights()
    print(f"{model.num_parameters:,} parameters")
    recipe = Recipe(max_seconds=60 * arguments.minutes)
    trainer = Trainer(model, WindowSampler(tokens, arguments.seed), recipe)
    arguments.out.mkdir(parents=True, exist_ok=True)
    with (arguments.out / "loss.csv").open("w", newline="", buffering=1) as file:
        writer = csv.writer(file)
        writer.writerow(("tokens", "loss"))
        trainer.run(
            on_progress=lambda fraction, loss: writer.writerow((trainer.tokens_seen, f"{loss:.4f}")),
            save=lambda: save_checkpoint(arguments.out, model, tokenizer, torch.bfloat16),
        )


def _config(arguments: argparse.Namespace, tokenizer: Tokenizer) -> GPT2Config:
    assert tokenizer.eos_token_id is not None
    return GPT2Config(
        vocab_size=tokenizer.vocab_size,
        n_positions=arguments.n_positions,
        n_embd=arguments.n_embd,
        n_layer=arguments.n_layer,
        n_head=arguments.n_head,
        eos_token_id=tokenizer.eos_token_id,
    )


if __name__ == "__main__":
    main()
