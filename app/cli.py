"""The command line `gpt2`: its commands, and how each way to fail becomes a line and an exit code."""

import contextlib
import io
import os
import sys
from collections.abc import Sequence

from app.commands import bench, doctor, evaluate, export, generate, inspect, serve, train
from app.commands.parser import Parser
from app.errors import CommandError, InvalidRequest, ServiceError, StartupError
from app.version import VERSION
from model.files import NO_ROOM

MAX_LINE = 4000  # characters


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; the result is the exit code: 0, 2 for a wrong call, 70 and 78 as app/errors.py has them."""
    _open_closed_streams()
    arguments = sys.argv[1:] if arguments is None else arguments
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # as standard error is: a text may hold what a terminal's encoding lacks
    try:
        options = build_parser().parse(arguments)
        options.arguments = arguments  # as they were given: a model's card tells of them
        code = int(options.run(options))
        sys.stdout.flush()  # while a full disk can still be told
        return code
    except StartupError as error:
        _complain(str(error))
        return error.exit_code
    except ServiceError as error:
        _complain(error.message)
        return 2 if isinstance(error, InvalidRequest) else 1
    except CommandError as error:
        _complain(str(error))
        return 2
    except KeyboardInterrupt as error:
        if str(error):  # a run that a second one has ended
            _complain(str(error))
        return 130
    except BrokenPipeError:  # whoever read the output has enough of it
        _discard_output()
        return 141
    except OSError as error:
        if error.filename is not None or error.errno not in NO_ROOM:  # no print's: whoever writes a file names it
            raise
        _discard_output()
        _complain(f"standard output: {error.strerror}; the command has ended there")
        return 2


def _open_closed_streams() -> None:
    """Whoever starts a program may close them, as cron and supervisors do: they are then empty, and take what nobody reads.

    By their own numbers, 0 to 2, of which the system gives the lowest: no other file is to be written to by what prints.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), mode, encoding="utf-8"))


def _discard_output() -> None:
    """Or Python would complain when it flushes at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _complain(message: str) -> None:
    """One line, whatever a stranger's file has put into the message."""
    line = " ".join(message.splitlines())
    with contextlib.suppress(OSError):  # the exit code says it too
        print(f"gpt2: {line if len(line) <= MAX_LINE else line[:MAX_LINE] + '...'}", file=sys.stderr)


def build_parser() -> Parser:
    """The options of all commands; building it imports no torch."""
    parser = Parser(
        prog="gpt2", description="Serve GPT-2 over HTTP, generate text, look inside, measure servers, train and measure models."
    )
    parser.add_argument("--version", action="version", version=f"gpt2 {VERSION}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for command in (serve, doctor, generate, inspect, bench, train, evaluate, export):
        command.add_command(commands)
    return parser
