"""`gpt2 train pretrain`: a new model from text."""

import argparse
from pathlib import Path
from typing import Any

from app.commands.training import add_run_options, check_run_options, recipe_fields, report, training_errors
from app.environment import prepare_for_training

SIZES = {"n_positions": "context, in tokens", "n_embd": "width", "n_layer": "layers", "n_head": "attention heads"}


def add_command(kinds: Any) -> None:  # argparse's subparsers, whose type is private
    parser = kinds.add_parser(
        "pretrain",
        help="train a new model on text",
        description="Train a new model on text. Sizes that are not given are chosen for the text and the machine.",
    )
    parser.set_defaults(run=_pretrain)
    parser.add_argument("paths", nargs="*", type=Path, metavar="PATH", help="text files and folders: plain, .jsonl, .xz, .gz")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="directory of the new checkpoint")
    parser.add_argument("--resume", action="store_true", help="go on with the run in --out, as it began")
    parser.add_argument("--tokenizer", type=Path, metavar="DIR", help="take the vocabulary from here (default: learn one)")
    parser.add_argument("--vocab-size", type=int, metavar="N", help="of the vocabulary that is learned (default: for the text)")
    parser.add_argument("--validation-fraction", type=float, metavar="X", help="of each file, from its end (default: 0.1 or less)")
    for name, text in SIZES.items():
        parser.add_argument("--" + name.replace("_", "-"), type=int, metavar="N", help=f"{text} (default: for the text)")
    add_run_options(parser)


def _pretrain(options: argparse.Namespace) -> int:
    given = _given(options)
    check_run_options(options, given, "text")
    prepare_for_training()
    with training_errors():
        from model.training.distributed import join_processes, training_device
        from model.training.pretrain import PretrainOptions, pretrain, resume

        processes, device = join_processes(), training_device(options.device)
        if options.resume:
            finished = resume(options.out, device, processes, report, options.tensorboard)
        else:
            wanted = PretrainOptions(paths=options.paths, **given)
            finished = pretrain(wanted, options.out, device, processes, report, options.tensorboard)
    if processes.is_first and finished:
        print(f"gpt2 serve --model {options.out}")
    elif processes.is_first:
        report(f"stopped and saved; go on by gpt2 train pretrain --resume --out {options.out}")
    return 0 if finished else 130


def _given(options: argparse.Namespace) -> dict[str, Any]:
    """What decides the run and was given: fields of PretrainOptions."""
    names = ("tokenizer", "vocab_size", "validation_fraction", "minutes")
    given = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    sizes = {name: getattr(options, name) for name in SIZES if getattr(options, name) is not None}
    groups = {"sizes": sizes, "recipe": recipe_fields(options)}
    return given | {name: values for name, values in groups.items() if values}
