"""`gpt2 train`: its kinds."""

from typing import Any

from app.commands import dpo, finetune, merge, pretrain, tokenizer


def add_command(commands: Any) -> None:  # argparse's subparsers, whose type is private
    parser = commands.add_parser("train", help="train a vocabulary or a model", description="Train a vocabulary or a model.")
    kinds = parser.add_subparsers(title="what to train", required=True, metavar="KIND")
    for kind in (tokenizer, pretrain, finetune, dpo, merge):
        kind.add_command(kinds)
