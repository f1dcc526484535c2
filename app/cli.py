"""The command line `gpt2`: serve and generate. What both take are the settings, each also a variable of the environment."""

import argparse
import asyncio
import contextlib
import logging
import os
import signal
import sys
import time
from collections.abc import Sequence
from typing import Any, get_args

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from app.environment import prepare_for_torch
from app.errors import InvalidRequest, ServiceError, StartupError
from app.settings import DEFAULT_MODEL, Settings
from app.version import VERSION

MODEL_SETTINGS = ("model", "device", "dtype", "threads")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; the result is the exit code: 0, 2 for a wrong call, 78 for a service that cannot start as configured."""
    options = _parser().parse_args(arguments)
    try:
        return int(options.run(options))
    except StartupError as error:
        print(f"gpt2: {error}", file=sys.stderr)
        return error.exit_code
    except ServiceError as error:
        print(f"gpt2: {error.message}", file=sys.stderr)
        return 2 if isinstance(error, InvalidRequest) else 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # whoever read the output has enough of it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python would complain when it flushes at exit
        return 141


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="gpt2", description="Serve GPT-2 over HTTP, or generate text in the terminal.")
    parser.add_argument("--version", action="version", version=f"gpt2 {VERSION}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    serve = commands.add_parser("serve", help="serve a checkpoint over HTTP", description="Serve a checkpoint over HTTP.")
    serve.set_defaults(run=_serve)
    _add_settings(serve, tuple(Settings.model_fields))
    generate = commands.add_parser(
        "generate", help="continue a prompt", description="Continue a prompt; the text streams to the terminal."
    )
    generate.set_defaults(run=_generate)
    generate.add_argument("prompt", help="the text to continue; - reads it from standard input")
    generate.add_argument("--max-new-tokens", type=int, default=100, metavar="N", help="tokens at most (default: %(default)s)")
    for name in ("temperature", "top-p", "min-p", "repetition-penalty"):
        generate.add_argument(f"--{name}", type=float, metavar="X")
    for name in ("top-k", "seed"):
        generate.add_argument(f"--{name}", type=int, metavar="N")
    generate.add_argument("--stop", action="append", metavar="TEXT", help="end before this text; up to four times")
    _add_settings(generate, MODEL_SETTINGS)
    return parser


def _add_settings(parser: argparse.ArgumentParser, names: Sequence[str]) -> None:
    group = parser.add_argument_group("settings", "Each is also read from the environment and from .env, as GPT2_ and its name.")
    for name in names:
        field = Settings.model_fields[name]
        text = f"{field.description} (default: {_shown_default(field)})".replace("%", "%%")
        choices = get_args(field.annotation) if isinstance(field.default, str) else ()
        metavar = "{" + ",".join(choices) + "}" if choices else name.rpartition("_")[2].upper()
        group.add_argument("--" + name.replace("_", "-"), metavar=metavar, help=text, default=argparse.SUPPRESS)


def _shown_default(field: FieldInfo) -> str:
    if field.default == str(DEFAULT_MODEL):
        return "the checkpoint that comes with the service"
    return "none" if field.default == () else str(field.default)


def _settings(options: argparse.Namespace) -> Settings:
    given: dict[str, Any] = {name: value for name, value in vars(options).items() if name in Settings.model_fields}
    try:
        return Settings(**given)
    except ValidationError as error:
        fault = error.errors()[0]
        name = str(fault["loc"][0])
        origin = f"--{name.replace('_', '-')}" if name in given else f"GPT2_{name.upper()}"
        raise StartupError(f"{origin}: {fault['input']!r} is refused: {fault['msg'][0].lower()}{fault['msg'][1:]}") from None


def _serve(options: argparse.Namespace) -> int:
    started = time.monotonic()
    settings = _settings(options)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # until the server drains instead
    prepare_for_torch()
    from app.bootstrap import build_service  # torch takes a second to import: not for --help and wrong options
    from app.logs import configure_logging, is_console
    from app.main import create_app
    from app.server import Server

    configure_logging(settings.log_format)
    # The engine's thread waits for the interpreter lock after each step; 5 ms, the default, is longer than many a step.
    sys.setswitchinterval(0.0005)

    def report(line: str) -> None:
        if is_console(settings.log_format):
            print(f"gpt2: {line}", file=sys.stderr, flush=True)
        else:
            logging.getLogger("gpt2").info(line)

    service = build_service(settings, report)
    app = create_app(settings, service.generator, service.info, service.metrics)
    server = Server(
        app,
        settings.host,
        settings.port,
        settings.drain_seconds,
        lambda address: report(f"ready at {address} after {time.monotonic() - started:.1f} s"),
    )
    server.run()
    return 0 if server.started else 1


def _generate(options: argparse.Namespace) -> int:
    from app.schemas import GenerateParameters, GenerateRequest

    names = ("max_new_tokens", "temperature", "top_p", "min_p", "repetition_penalty", "top_k", "seed", "stop")
    try:
        request = GenerateRequest(
            inputs=sys.stdin.read() if options.prompt == "-" else options.prompt,
            parameters=GenerateParameters(**{name: getattr(options, name) for name in names}),
        )
    except ValidationError as error:
        fault = error.errors()[0]
        name = "--" + str(fault["loc"][0]).replace("_", "-") if fault["loc"] else ""
        raise InvalidRequest(f"{name} {fault['input']!r}: {fault['msg']}".strip()) from None
    settings = _settings(options).model_copy(update={"max_running": 1})
    prepare_for_torch()
    asyncio.run(_stream_to_terminal(settings, request))
    return 0


async def _stream_to_terminal(settings: Settings, request: Any) -> None:  # GenerateRequest, imported late
    from app.bootstrap import build_service

    service = build_service(settings, report=lambda line: None)  # the text alone is wanted here
    await service.generator.engine.start()
    generation = await service.generator.start(request.generation())
    try:
        print(request.text, end="", flush=True)
        while generation.finish_reason is None:
            print("".join(token.text for token in await generation.next()), end="", flush=True)
        print()
    finally:
        generation.abort()
        with contextlib.suppress(ServiceError):
            await service.generator.engine.stop()
