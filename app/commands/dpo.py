"""`gpt2 train dpo`: a checkpoint taught which of two answers is preferred."""

import argparse
from typing import Any

from app.commands.data_options import add_data_options
from app.commands.finetune import add_tuning_options, tune


def add_command(kinds: Any) -> None:  # argparse's subparsers, whose type is private
    parser = kinds.add_parser(
        "dpo",
        help="teach a checkpoint which of two answers is preferred",
        description="Train a checkpoint on by direct preference optimisation: each chosen answer becomes likelier, next "
        "to the rejected one. Best after gpt2 train finetune on answers of that kind.",
    )
    parser.set_defaults(run=_dpo)
    paths = '.jsonl of {"prompt": ..., "chosen": ..., "rejected": ...}: texts, or lists of messages'
    add_data_options(parser, paths, "of all pairs", conversations=True)
    parser.add_argument(
        "--beta", type=float, metavar="X", help="how dear it is to leave the checkpoint as it was: more is nearer (default: 0.1)"
    )
    add_tuning_options(parser, "pairs", fuses=False)


def _dpo(options: argparse.Namespace) -> int:
    return tune(options, "dpo", options.beta)
