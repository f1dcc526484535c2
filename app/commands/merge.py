"""`gpt2 train merge`: an adapter put into its base."""

import argparse
from typing import Any

from app.commands.outputs import pasteable
from app.commands.parser import named_path
from app.commands.training import training_errors
from app.environment import prepare_for_training


def add_command(kinds: Any) -> None:  # argparse's subparsers, whose type is private
    parser = kinds.add_parser(
        "merge",
        help="put an adapter into its base",
        description="Put a LoRA adapter, of gpt2 train finetune --keep-adapter or of the peft library, into its base.",
    )
    parser.set_defaults(run=_merge)
    parser.add_argument("--adapter", type=named_path, required=True, metavar="DIR", help="directory of the adapter")
    parser.add_argument("--out", type=named_path, required=True, metavar="DIR", help="directory of the new checkpoint")
    parser.add_argument("--model", metavar="CHECKPOINT", help="its base, a directory or a name on the hub (default: as it says)")


def _merge(options: argparse.Namespace) -> int:
    prepare_for_training()
    with training_errors():
        from model.training.adapter import merge_adapter

        merge_adapter(options.adapter, options.model, options.out)
    print(pasteable("serve", "--model", options.out))
    return 0
