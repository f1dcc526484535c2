"""What the training commands share: the options of a run, what they print, and how they fail."""

import argparse
import contextlib
import errno
import shlex
import sys
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from typing import TYPE_CHECKING

from app.errors import CommandError
from model.files import written_if_possible
from model.machine import NO_TORCH, has_torch
from model.training.recipe import FIXED, option_of

if TYPE_CHECKING:  # torch takes a second to import: not for --help and wrong options
    from model.training.run import Shown
    from model.training.segments import Changes

# Options that are fields of a run's recipe: name, type and help. What is not given is chosen by the trainer.
RECIPE_OPTIONS: tuple[tuple[str, type, str], ...] = (
    ("batch_size", int, "{rows} in a step"),
    ("accumulation", int, "parts in which a step's batch is run, for less memory"),
    ("learning_rate", float, "AdamW's, at its peak"),
    ("muon_learning_rate", float, "Muon's, at its peak"),
    ("weight_decay", float, "of matrices"),
    ("warmup_steps", int, "steps over which the learning rates rise, a tenth of the run at most"),
    (
        "cooldown",
        float,
        "share of a run, its last, over which learning rates fall to zero (default: half a cosine over all of it; 0.4 in "
        "pre-training, but for Muon with batches of less than 4,096 tokens)",
    ),
    ("max_grad_norm", float, "to which gradients are clipped, but for Muon's, whose steps have one size"),
    ("dropout", float, "rate of all dropouts"),
    ("validate_every", int, "steps between validations"),
    (
        "patience",
        int,
        "validations without a better loss, after the warm-up, that end a run (default: 3 in fine-tuning without --steps, or none)",
    ),
    ("seed", int, "of weights, batches and dropout"),
)

KEPT = "what was saved before is as it was"
ROOM = "make room there, or name another --out"
REMEDIES = {
    errno.ENOSPC: ROOM,
    errno.EDQUOT: ROOM,
    errno.EFBIG: "raise the limit on the size of files (ulimit -f)",
    errno.EROFS: "name another --out",
    errno.EEXIST: "name another --out",  # a link that leads nowhere
    errno.ENOTDIR: "name another --out",
}
NO_MEMORY = "there is not enough memory; a smaller --batch-size, more parts by --accumulation, or a smaller network"


def add_run_options(
    parser: argparse.ArgumentParser, rows: str, *, optimizer: str = "muon", minutes: str = "15", fuses: bool = True
) -> None:
    """`rows` are what a batch is made of, `optimizer` and `minutes` the defaults that the help names.

    Without `fuses` a step can neither be compiled nor compute its blocks again.
    """
    group = parser.add_argument_group("the run")
    duration = group.add_mutually_exclusive_group()
    duration.add_argument("--minutes", type=float, metavar="X", help=f"how long to train, about (default: {minutes})")
    duration.add_argument("--steps", type=int, metavar="N", dest="max_steps", help="how many steps to train, in place of --minutes")
    group.add_argument("--optimizer", choices=("muon", "adamw"), help=f"of the blocks' matrices (default: {optimizer})")
    for name, kind, text in RECIPE_OPTIONS:
        group.add_argument(option_of(name), type=kind, metavar="N" if kind is int else "X", help=text.format(rows=rows))
    group.add_argument(
        "--precision", choices=("float32", "bfloat16"), help="of matrix products (default: what the device does fast)"
    )
    if fuses:
        _add_step_options(group)
    group.add_argument("--device", metavar="DEVICE", help="cpu, cuda or cuda:N (default: cuda if there is one)")
    group.add_argument(
        "--sample",
        action="append",
        default=[],
        metavar="PROMPT",
        help="print a continuation of it at each validation; may be repeated",
    )
    group.add_argument(
        "--tensorboard", action="store_true", help="also write TensorBoard's events, to training/tensorboard in --out"
    )


def _add_step_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--compile", action=argparse.BooleanOptionalAction, dest="compiled", help="fuse operations (default: if it pays)"
    )
    group.add_argument(
        "--activation-checkpointing",
        action="store_true",
        default=None,
        dest="checkpoint_activations",
        help="compute the blocks again in the backward pass: less memory, more time",
    )


RESUME_HELP = "go on with the run in --out; with --steps or --minutes so much more, with other rates by a schedule begun anew"


def check_run_options(options: argparse.Namespace, fixed: Iterable[str], data: str) -> None:
    """Refuse a run without `data`, a resumed one with what cannot change, also what is `fixed`, and an extra that is missing."""
    if options.paths and options.resume:
        raise CommandError("--resume goes on with the data the run began with: leave the paths out")
    if not options.paths and not options.resume:
        raise CommandError(f"name the {data} to train on, or --resume alone")
    cannot_change = [*fixed, *(name for name in FIXED if getattr(options, name) is not None)]
    if options.resume and cannot_change:
        raise CommandError(
            f"{option_of(cannot_change[0])} cannot change in a run that goes on; leave it out, or train anew with another --out"
        )
    if options.tensorboard and find_spec("tensorboard") is None:
        raise CommandError("--tensorboard needs a package more; pip install 'gpt2-service[tensorboard]'")


def shown(options: argparse.Namespace) -> "Shown":
    from model.training.run import Shown

    command = shlex.join(["gpt2", *options.arguments])
    return Shown(tensorboard=options.tensorboard, samples=tuple(options.sample), command=command)


def changes(options: argparse.Namespace) -> "Changes":
    """What a resumed run is to do otherwise."""
    from model.training.segments import Changes

    return Changes(recipe=recipe_fields(options), minutes=options.minutes)


def recipe_fields(options: argparse.Namespace) -> dict[str, object]:
    """The fields of the recipe that were given."""
    names = ("max_steps", "optimizer", "compiled", "checkpoint_activations", *(name for name, _, _ in RECIPE_OPTIONS))
    given = {name: value for name in names if (value := getattr(options, name, None)) is not None}
    return given if options.precision is None else given | {"bfloat16": options.precision == "bfloat16"}


@contextlib.contextmanager
def training_errors() -> Iterator[None]:
    """What the trainer refuses, and what the system refuses it, as CommandError; entered before the trainer is imported."""
    from model.checkpoint import CheckpointError
    from model.tokenizer import TokenizerBroke
    from model.training.errors import TrainingError

    try:
        yield
    except ModuleNotFoundError as error:
        if not has_torch():
            raise CommandError(f"training and measuring need PyTorch: {NO_TORCH}") from error
        raise CommandError(f"{error.name} is missing; pip install 'gpt2-service[train]'") from error
    except (TrainingError, CheckpointError, TokenizerBroke) as error:
        raise CommandError(str(error)) from error
    except (MemoryError, RuntimeError) as error:
        from model.device_errors import is_out_of_memory  # whose torch is there, if it has failed

        if not is_out_of_memory(error):
            raise
        raise CommandError(f"{NO_MEMORY}; {KEPT}") from error
    except OSError as error:
        remedy = f"{REMEDIES[error.errno]}; " if error.errno in REMEDIES else ""
        raise CommandError(f"{error.filename or 'cannot write'}: {error.strerror or error}; {remedy}{KEPT}") from error


def report(line: str) -> None:
    with written_if_possible():
        print(line, file=sys.stderr, flush=True)
