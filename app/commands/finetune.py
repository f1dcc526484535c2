"""`gpt2 train finetune`: a checkpoint trained on."""

import argparse
from typing import TYPE_CHECKING, Any

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
from app.errors import CommandError
from app.settings import DEFAULT_MODEL

if TYPE_CHECKING:  # torch takes a second to import: not for --help and wrong options
    from model.training.lora import LoRA


def add_command(kinds: Any) -> None:  # argparse's subparsers, whose type is private
    parser = kinds.add_parser(
        "finetune",
        help="go on training a checkpoint, on text or examples",
        description="Go on training a checkpoint, on text or on examples; of examples the answers alone are learned. What is not "
        "given is chosen for the data and the machine.",
    )
    parser.set_defaults(run=_finetune)
    add_data_options(
        parser,
        TEXTS + ', or such records of {"prompt": ..., "completion": ...}, {"messages": ...}, {"conversations": ...} or '
        '{"instruction": ..., "output": ...}',
        "of the text, spread over all of it, or of all examples",
        conversations=True,
    )
    add_tuning_options(parser, "examples, or windows of text,")


def add_tuning_options(parser: argparse.ArgumentParser, rows: str, fuses: bool = True) -> None:
    """What is alike whatever is learned: where from, where to, LoRA, the run, as `add_run_options` has it."""
    parser.add_argument("--out", type=named_path, required=True, metavar="DIR", help="directory of the new checkpoint")
    parser.add_argument(
        "--model",
        metavar="CHECKPOINT",
        help="directory, or name on the hub (default: the checkpoint that comes with the service); with --resume, where the one "
        "that the run began with is now",
    )
    parser.add_argument("--resume", action="store_true", help=RESUME_HELP)
    _add_lora_options(parser)
    add_run_options(parser, rows, optimizer="adamw", minutes="three epochs, or 15 if they take more", fuses=fuses)


def _add_lora_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("LoRA", "Trains small matrices beside the projections, which stay as they are.")
    group.add_argument("--lora", action="store_true", help="train by LoRA (default: all weights)")
    group.add_argument("--lora-rank", type=int, metavar="N", help="of the matrices (default: 8)")
    group.add_argument("--lora-alpha", type=float, metavar="X", help="alpha / rank scales what they add (default: 16)")
    group.add_argument(
        "--lora-targets",
        metavar="NAMES",
        help="projections, parted by commas (default: attn.c_attn,attn.c_proj,mlp.c_fc,mlp.c_proj, which is all)",
    )
    group.add_argument(
        "--keep-adapter",
        action="store_true",
        help="write a small adapter, as the peft library does, in place of a whole checkpoint",
    )


def _finetune(options: argparse.Namespace) -> int:
    return tune(options, "finetune")


def tune(options: argparse.Namespace, kind: str, beta: float | None = None) -> int:
    """Train a checkpoint on by the command `kind`; `beta` as given for preferences."""
    fixed = [
        name
        for name in ("lora", "keep_adapter", "beta")
        if (value := getattr(options, name, None)) is not None and value is not False
    ]
    check_run_options(options, [*fixed, *(f"lora_{name}" for name in _given_lora(options)), *given_data(options)], "data")
    prepare_for_training()
    with training_errors():
        from model.training.adapter import is_adapter
        from model.training.distributed import join_processes, training_device
        from model.training.dpo_loss import DPO
        from model.training.finetune import finetune, resume
        from model.training.finetune_plan import FinetuneOptions

        processes, device = join_processes(), training_device(options.device)
        if options.resume:
            finished = resume(options.out, device, processes, report, shown(options), changes(options), kind, options.model)
        else:
            given = {"model": str(DEFAULT_MODEL)} | _given(options)
            if kind == "dpo":
                given["dpo"] = DPO() if beta is None else DPO(beta)
            wanted = FinetuneOptions(data=data_options(options), lora=_lora(options), keep_adapter=options.keep_adapter, **given)
            finished = finetune(wanted, options.out, device, processes, report, shown(options))
    if processes.is_first and not finished:
        report(f"stopped and saved; go on by {pasteable('train', kind, '--resume', '--out', options.out)}")
    elif processes.is_first and is_adapter(options.out):
        print(pasteable("train", "merge", "--adapter", options.out, "--out", f"{options.out}-merged"))
    elif processes.is_first:
        print(pasteable("serve", "--model", options.out))
    return 0 if finished else 130


def _given(options: argparse.Namespace) -> dict[str, Any]:
    """What decides the run and was given, but for LoRA: fields of FinetuneOptions."""
    names = ("model", "minutes")
    given = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    recipe = recipe_fields(options)
    return given | {"recipe": recipe} if recipe else given


def _given_lora(options: argparse.Namespace) -> dict[str, Any]:
    """The fields of LoRA that were given."""
    given = {"rank": options.lora_rank, "alpha": options.lora_alpha, "targets": options.lora_targets}
    return {name: value for name, value in given.items() if value is not None}


def _lora(options: argparse.Namespace) -> "LoRA | None":
    from model.training.lora import LoRA

    given = _given_lora(options)
    if not options.lora:
        if given or options.keep_adapter:
            raise CommandError(f"{'--lora-' + next(iter(given)) if given else '--keep-adapter'} is an option of --lora; add it")
        return None
    if "targets" in given:
        given["targets"] = tuple(given["targets"].split(","))
    return LoRA(**given)
