"""`gpt2 train pretrain`: a new model from text."""

import argparse
from typing import Any

from app.commands.data_options import TEXTS, add_data_options, data_options, given_data
from app.commands.outputs import pasteable
from app.commands.parser import named_path
from app.commands.training import (
    RESUME_HELP,
    add_run_options,
    changes,
    check_run_options,
    recipe_fields,
    report,
    shown,
    training_errors,
)
from app.environment import prepare_for_training

SIZES = {"n_positions": "context, in tokens", "n_embd": "width", "n_layer": "layers", "n_head": "attention heads"}


def add_command(kinds: Any) -> None:  # argparse's subparsers, whose type is private
    parser = kinds.add_parser(
        "pretrain",
        help="train a new model on text",
        description="Train a new model on text. Sizes that are not given are chosen for the text and the machine.",
    )
    parser.set_defaults(run=_pretrain)
    add_data_options(parser, TEXTS, "of the text, spread over all of it")
    parser.add_argument("--out", type=named_path, required=True, metavar="DIR", help="directory of the new checkpoint")
    parser.add_argument("--resume", action="store_true", help=RESUME_HELP)
    parser.add_argument("--tokenizer", type=named_path, metavar="DIR", help="take the vocabulary from here (default: learn one)")
    parser.add_argument("--vocab-size", type=int, metavar="N", help="of the vocabulary that is learned (default: for the text)")
    for name, text in SIZES.items():
        parser.add_argument("--" + name.replace("_", "-"), type=int, metavar="N", help=f"{text} (default: for the text)")
    add_run_options(parser, "windows of the whole context")


def _pretrain(options: argparse.Namespace) -> int:
    given = _given(options)
    fixed = [name for name in given if name not in ("minutes", "recipe", "sizes")]
    check_run_options(options, [*fixed, *given.get("sizes", ()), *given_data(options)], "text")
    prepare_for_training()
    with training_errors():
        from model.training.distributed import join_processes, training_device
        from model.training.pretrain import PretrainOptions, pretrain, resume

        processes, device = join_processes(), training_device(options.device)
        if options.resume:
            finished = resume(options.out, device, processes, report, shown(options), changes(options))
        else:
            wanted = PretrainOptions(data=data_options(options), **given)
            finished = pretrain(wanted, options.out, device, processes, report, shown(options))
    if processes.is_first and finished:
        print(pasteable("serve", "--model", options.out))
    elif processes.is_first:
        report(f"stopped and saved; go on by {pasteable('train', 'pretrain', '--resume', '--out', options.out)}")
    return 0 if finished else 130


def _given(options: argparse.Namespace) -> dict[str, Any]:
    """What decides the run and was given: fields of PretrainOptions."""
    names = ("tokenizer", "vocab_size", "minutes")
    given = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    sizes = {name: getattr(options, name) for name in SIZES if getattr(options, name) is not None}
    groups = {"sizes": sizes, "recipe": recipe_fields(options)}
    return given | {name: values for name, values in groups.items() if values}
