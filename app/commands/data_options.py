"""The options of a run's data, alike in pre-training and fine-tuning, and those of which files are read, alike in all commands."""

import argparse
from typing import TYPE_CHECKING, Any

from app.commands.parser import named_path

if TYPE_CHECKING:  # torch takes a second to import: not for --help and wrong options
    from model.training.data.options import DataOptions

NAMES = ("validation_fraction", "validation", "include", "skip_bad", "weights", "template")
TEXTS = "text files and folders: plain, .jsonl, .json, .csv, .tsv, each also as .xz or .gz"


def add_data_options(parser: argparse.ArgumentParser, paths: str, held_out: str, conversations: bool = False) -> None:
    """`paths` says what may be named, `held_out` of what a part is held out; `conversations` whether they may be among it."""
    parser.add_argument("paths", nargs="*", type=named_path, metavar="PATH", help=paths)
    group = parser.add_argument_group("the data")
    group.add_argument("--validation-fraction", type=float, metavar="X", help=f"{held_out} (default: 0.1 or less)")
    group.add_argument(
        "--validation",
        action="append",
        type=named_path,
        metavar="FILE",
        help="validate on this, not on a part of PATH; may be given again",
    )
    add_selection_options(group)
    group.add_argument(
        "--weights",
        type=_weights,
        metavar="X,X",
        help="of each PATH one: its share of what is trained on (default: its size)",
    )
    if conversations:
        group.add_argument(
            "--template",
            metavar="NAME",
            help="chat template by which conversations are written, kept in the new checkpoint: plain, chatml, alpaca, dialogpt or "
            "a file (default: the checkpoint's own, or plain)",
        )


def add_selection_options(parser: "argparse.ArgumentParser | argparse._ArgumentGroup") -> None:
    parser.add_argument(
        "--include", action="append", metavar="PATTERN", help="also read such files in folders, as '*.py'; may be given again"
    )
    parser.add_argument(
        "--skip-bad", action="store_true", default=None, help="leave out files and records that cannot be read, and count them"
    )


def _weights(text: str) -> tuple[float, ...]:
    try:
        return tuple(map(float, text.split(",")))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no numbers parted by commas") from None


def given_data(options: argparse.Namespace) -> dict[str, Any]:
    """What was given besides the paths: fields of DataOptions."""
    given = {name: value for name in NAMES if (value := getattr(options, name, None)) is not None}
    return given | {name: tuple(value) for name, value in given.items() if isinstance(value, list)}


def data_options(options: argparse.Namespace) -> "DataOptions":
    from model.training.data.options import DataOptions

    return DataOptions(paths=options.paths, **given_data(options))
