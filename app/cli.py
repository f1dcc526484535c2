"""The command line `gpt2`: its commands, and how each way to fail becomes a line and an exit code."""

import argparse
import os
import sys
from collections.abc import Sequence

from app.commands import bench, evaluate, generate, serve, train
from app.errors import CommandError, InvalidRequest, ServiceError, StartupError
from app.version import VERSION


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; the result is the exit code: 0, 2 for a wrong call, 70 and 78 as app/errors.py has them."""
    options = build_parser().parse_args(arguments)
    try:
        return int(options.run(options))
    except StartupError as error:
        print(f"gpt2: {error}", file=sys.stderr)
        return error.exit_code
    except ServiceError as error:
        print(f"gpt2: {error.message}", file=sys.stderr)
        return 2 if isinstance(error, InvalidRequest) else 1
    except CommandError as error:
        print(f"gpt2: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # whoever read the output has enough of it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python would complain when it flushes at exit
        return 141


def build_parser() -> argparse.ArgumentParser:
    """The options of all commands; building it imports no torch."""
    parser = argparse.ArgumentParser(
        prog="gpt2", description="Serve GPT-2 over HTTP, generate text, measure servers, train and measure models."
    )
    parser.add_argument("--version", action="version", version=f"gpt2 {VERSION}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for command in (serve, generate, bench, train, evaluate):
        command.add_command(commands)
    return parser
