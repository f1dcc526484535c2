"""`gpt2 inspect`: what a checkpoint computes inside on a text, as a screen of text, as JSON, tensors or a picture.

Computes here, in float32 and without a server. How it is shown stands in inspect_report.py and inspect_picture.py.
"""

import argparse
import os
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TextIO

from app.commands.inspect_ablations import FORMS
from app.commands.inspect_cells import GLYPHS, MIN_WIDTH, WIDTH, Style
from app.commands.options import add_settings, read_settings, read_text
from app.commands.outputs import STANDARD_OUTPUT, check_files, check_picture, write_bytes, write_json
from app.commands.parser import named_path
from app.commands.waiting import waiting_for
from app.environment import prepare_for_torch
from app.errors import CommandError
from app.info import model_id_of
from model.files import naming
from model.inspection.checks import MAX_ACTIVATION_BYTES
from model.inspection.request import NEW_TOKENS, TOP_N
from model.machine import NO_TORCH, has_torch, num_cores

if TYPE_CHECKING:
    from model.config import GPT2Config
    from model.inspection.inspector import Inspector
    from model.inspection.request import InspectionRequest
    from model.tokenizer import Tokenizer

Head = tuple[int, int | None]  # layer and head; None is all of them
DESCRIPTION = """\
Run a text through a checkpoint, in float32 on the CPU, and show what happens
inside: how surprising each token is, what comes next, the residual stream and
the logit lens along the layers, what makes the chosen token's logit, and which
heads look where; with --ablate also what becomes of it without a part of the
network."""
MAX_MAPPED = 64  # positions of which attention maps are drawn


def add_command(commands: Any) -> None:  # argparse's subparsers, whose type is private
    parser = commands.add_parser(
        "inspect",
        help="show what a checkpoint computes inside on a text",
        description=DESCRIPTION,
        epilog=f"forms of --ablate; several make one ablated run:\n{FORMS}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=_inspect)
    parser.add_argument("text", nargs="?", default="-", help="the text to look at; without it, or as -, standard input is read")
    parser.add_argument("--ablate", action="append", default=[], metavar="FORM", help="take a part out; may be given again")
    parser.add_argument(
        "--target", metavar="TOKEN", help="the token whose logit is explained, as text or id:N (default: the likeliest)"
    )
    parser.add_argument(
        "--target-position", type=int, default=-1, metavar="N", help="where it comes next (default: after the last)"
    )
    parser.add_argument(
        "--max-new-tokens", type=int, default=NEW_TOKENS, metavar="N", help="tokens of the continuation (default: %(default)s)"
    )
    parser.add_argument(
        "--top-n", type=int, default=TOP_N, metavar="N", help="likeliest tokens that are told (default: %(default)s)"
    )
    parser.add_argument(
        "--layer-norm-order", action="store_true", help="also compare LayerNorm before and after, on an untrained network"
    )
    _add_output_options(parser)
    add_settings(parser, ("model", "threads"))


def _add_output_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("what is saved")
    group.add_argument("--json", type=named_path, metavar="FILE", help="the answer of POST /v1/inspect; - is standard output")
    group.add_argument(
        "--safetensors", type=named_path, metavar="FILE", help="the activations as tensors, the rest as metadata; or -"
    )
    group.add_argument(
        "--png", type=named_path, metavar="FILE", help="a picture: the stream, the logit lens, attention maps; .svg and .pdf too"
    )
    group.add_argument("--map", type=_head, metavar="LAYER[.HEAD]", help="whose attention is drawn (default: each layer's mean)")
    group.add_argument(
        "--names", type=_names, metavar="NAMES", help="activations to save, as blocks.*.attn.hook_pattern,hook_embed"
    )
    group.add_argument(
        "--positions", type=_positions, metavar="N,N", help="positions to save, from the end if negative (default: all)"
    )


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",")]


def _head(text: str) -> Head:
    if not re.fullmatch(r"\d+(\.\d+)?", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no layer and no head, as 3 or 3.5")
    layer, _, head = text.partition(".")
    return int(layer), int(head) if head else None


def _positions(text: str) -> list[int]:
    if not re.fullmatch(r"-?\d+(,-?\d+)*", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no list of positions, as 0,3,-1")
    return [int(number) for number in text.split(",")]


def _inspect(options: argparse.Namespace) -> int:
    check_picture("--png", options.png)
    check_files(options.json, options.safetensors, options.png)
    text = read_text(options.text)
    settings = read_settings(options)
    prepare_for_torch()
    with _errors():
        from app.commands.inspect_request import faults_of, request_of

        loaded = _load(settings.model, settings.threads)
        request = request_of(options, text, loaded.tokenizer, loaded.inspector.config)
        _check_map(options.map, loaded.inspector.config)
        with faults_of(options):
            _look(options, text, loaded, request)
    return 0


def _check_map(chosen: Head | None, config: "GPT2Config") -> None:
    for what, number, count in zip(("layer", "head"), chosen or (), (config.n_layer, config.n_head), strict=False):
        if number is not None and number >= count:
            raise CommandError(f"--map: the {what} is {number}; it must be from 0 to {count - 1}")


@contextmanager
def _errors() -> Iterator[None]:
    """What keeps a checkpoint from being loaded, or a file from being written, as CommandError."""
    from model.checkpoint import CheckpointError
    from model.tokenizer import TokenizerBroke

    try:
        yield
    except ModuleNotFoundError as error:
        if has_torch():
            raise
        raise CommandError(f"to look inside a checkpoint takes PyTorch: {NO_TORCH}") from error
    except (CheckpointError, TokenizerBroke) as error:
        raise CommandError(str(error)) from error
    except OSError as error:
        if error.filename is None:  # standard output's
            raise
        raise CommandError(f"cannot write {error.filename}: {error.strerror}") from error


@dataclass(frozen=True, slots=True)
class _Loaded:
    model_id: str
    inspector: "Inspector"
    tokenizer: "Tokenizer"


def _load(model: str, num_threads: int) -> _Loaded:
    import torch

    from model.checkpoint import load_tokenizer, resolve_model
    from model.inspection.inspector import Inspector
    from model.network_files import load_model

    directory = resolve_model(model)
    torch.set_num_threads(num_threads or num_cores())
    with waiting_for("loading the checkpoint"):
        return _Loaded(model_id_of(model, directory), Inspector(load_model(directory)), load_tokenizer(directory))


def _look(options: argparse.Namespace, text: str, loaded: _Loaded, request: "InspectionRequest") -> None:
    from app.commands.inspect_report import report
    from model.inspection.answer import answer_of, safetensors_of

    started = time.monotonic()
    with waiting_for("inspecting"):
        inspection = loaded.inspector.inspect(request)
    facts = (inspection, loaded.tokenizer, loaded.model_id)
    seconds = time.monotonic() - started
    answer = answer_of(*facts, seconds)
    output = sys.stderr if STANDARD_OUTPUT in (options.json, options.safetensors) else sys.stdout
    output.write(report(answer, options.ablate, _style(output)))
    if options.json:
        write_json(options.json, answer)
    if options.safetensors:
        write_bytes(options.safetensors, safetensors_of(*facts, None, seconds))
    if options.png:
        _draw(options, text, answer, _maps(options.map, loaded.inspector, request))


def _style(output: TextIO) -> Style:
    has_colours = output.isatty() and "NO_COLOR" not in os.environ
    try:
        GLYPHS.encode(output.encoding or "utf-8")
        has_blocks = True
    except UnicodeEncodeError:
        has_blocks = False
    return Style(has_colours, has_blocks, max(MIN_WIDTH, min(WIDTH, _columns(output))))


def _columns(output: TextIO) -> int:
    """As shutil.get_terminal_size tells them, but of the stream that is written to, which may be standard error."""
    told = os.environ.get("COLUMNS", "")
    if told.isdecimal() and int(told):
        return int(told)
    try:
        return os.get_terminal_size(output.fileno()).columns or WIDTH
    except OSError:  # no terminal
        return WIDTH


def _maps(chosen: Head | None, inspector: "Inspector", request: "InspectionRequest") -> dict[str, Any]:
    """Attention patterns of the last positions by the name under which each is drawn."""
    num_rows = min(MAX_MAPPED, _rows_that_fit(inspector.config, request), len(request.prompt))
    name = f"blocks.{'*' if chosen is None else chosen[0]}.attn.hook_pattern"
    asked = replace(request, names=(name,), positions=tuple(range(-num_rows, 0)), summaries=(), max_new_tokens=0)
    inspection = inspector.inspect(asked)
    patterns = [x[..., -num_rows:] for x in (inspection.ablated or inspection.run).activations.values()]  # (H, P, P) each
    if chosen is None:
        return {f"layer {i}": x.mean(0).numpy() for i, x in enumerate(patterns)}
    layer, head = chosen
    return {f"head {layer}.{i}": x.numpy() for i, x in enumerate(patterns[0]) if head in (None, i)}


def _rows_that_fit(config: "GPT2Config", request: "InspectionRequest") -> int:
    """Rows of all heads' patterns in as many bytes as an inspection may have."""
    num_runs = 2 if request.ablations else 1
    return MAX_ACTIVATION_BYTES // (4 * num_runs * config.n_layer * config.n_head * len(request.prompt))


def _draw(options: argparse.Namespace, text: str, answer: dict[str, Any], maps: dict[str, Any]) -> None:
    from app.commands.inspect_picture import draw

    title = [text, f"with {', '.join(options.ablate)}"] if options.ablate else [text]
    with naming(options.png), waiting_for("drawing"):
        missing = draw(answer, maps, title, options.png)
    if missing:
        more = f" and {len(missing) - 1} more" if missing[1:] else ""
        print(f"{options.png} has boxes: no font here has {missing[0]}{more}; Noto Sans CJK has Chinese", file=sys.stderr)
