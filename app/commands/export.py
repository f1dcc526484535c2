"""`gpt2 export`: a checkpoint as one file that llama.cpp and what is built on it load."""

import argparse
import shlex
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from app.commands.outputs import check_files
from app.commands.parser import named_path
from app.errors import CommandError
from app.settings import DEFAULT_MODEL


def add_command(commands: Any) -> None:  # argparse's subparsers, whose type is private
    parser = commands.add_parser(
        "export",
        help="write a checkpoint as a GGUF file, for llama.cpp",
        description="Write a checkpoint as one GGUF file, which llama.cpp and what is built on it load.",
    )
    parser.set_defaults(run=_export)
    parser.add_argument(
        "--model",
        default=str(DEFAULT_MODEL),
        help="a Hugging Face GPT-2 directory, or a name on the hub (default: the checkpoint that comes with the service)",
    )
    parser.add_argument(
        "--out", type=named_path, required=True, metavar="FILE.gguf", help="the file to write; none is written over"
    )
    parser.add_argument(
        "--precision", choices=("f32", "f16", "bf16"), default="f16", help="of matrices (default: %(default)s); the rest is f32"
    )


def _export(options: argparse.Namespace) -> int:
    out: Path = options.out
    if out.exists():
        raise CommandError(f"{out} exists already; name another file, or take it away first")
    check_files(out)
    if find_spec("gguf") is None:
        raise CommandError("gpt2 export needs a package more; pip install 'gpt2-service[gguf]'")
    from model.chat_template import TemplateUnusable, find_template
    from model.checkpoint import CheckpointError, load_config, load_tokenizer, resolve_model
    from model.gguf_file import write_gguf

    try:
        directory = resolve_model(options.model)
        template = find_template("", directory, load_tokenizer(directory).name(load_config(directory).eos_token_id))
        name = directory.resolve().name if Path(options.model).is_dir() else options.model
        write_gguf(directory, out, options.precision, name, None if template is None else template.source)
    except (CheckpointError, TemplateUnusable) as error:
        raise CommandError(str(error)) from error
    except OSError as error:
        raise CommandError(f"{error.filename or out}: {error.strerror or error}; nothing was written") from error
    print(shlex.join(["llama-cli", "--model", str(out)]))
    return 0
