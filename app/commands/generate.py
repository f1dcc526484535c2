"""`gpt2 generate`: a prompt continued in the terminal."""

import argparse
import asyncio
import contextlib
import os
import sys
from typing import Any

from pydantic import ValidationError

from app.commands.options import add_settings, model_faults, read_settings, read_text
from app.environment import prepare_for_torch
from app.errors import InvalidRequest, ServiceError
from app.settings import Settings
from app.unread_settings import unread

MODEL_SETTINGS = ("model", "device", "dtype", "kernels", "threads")


def add_command(commands: Any) -> None:  # argparse's subparsers, whose type is private
    parser = commands.add_parser(
        "generate", help="continue a prompt", description="Continue a prompt; the text streams to the terminal."
    )
    parser.set_defaults(run=_generate)
    parser.add_argument("prompt", help="the text to continue; - reads it from standard input")
    parser.add_argument("--max-new-tokens", type=int, default=100, metavar="N", help="tokens at most (default: %(default)s)")
    for name in ("temperature", "top-p", "min-p", "repetition-penalty"):
        parser.add_argument(f"--{name}", type=float, metavar="X")
    for name in ("top-k", "seed"):
        parser.add_argument(f"--{name}", type=int, metavar="N")
    parser.add_argument("--stop", action="append", metavar="TEXT", help="end before this text; up to four times")
    add_settings(parser, MODEL_SETTINGS)


def _generate(options: argparse.Namespace) -> int:
    from app.schemas.native import GenerateParameters, GenerateRequest

    names = ("max_new_tokens", "temperature", "top_p", "min_p", "repetition_penalty", "top_k", "seed", "stop")
    try:
        request = GenerateRequest(
            inputs=read_text(options.prompt),
            parameters=GenerateParameters(**{name: getattr(options, name) for name in names}),
        )
    except ValidationError as error:
        fault = error.errors()[0]
        name = "--" + str(fault["loc"][0]).replace("_", "-") if fault["loc"] else ""
        raise InvalidRequest(f"{name} {fault['input']!r}: {fault['msg']}".strip()) from None
    settings = read_settings(options).model_copy(update={"max_running": 1})
    for line in unread(os.environ):
        print(f"gpt2: {line}", file=sys.stderr)
    prepare_for_torch()
    with model_faults(options):
        asyncio.run(_stream_to_terminal(settings, request))
    return 0


async def _stream_to_terminal(settings: Settings, request: Any) -> None:  # GenerateRequest, imported late
    from app.bootstrap import build_service

    service = build_service(settings, report=lambda line: None)  # the text alone is wanted here
    await service.generator.client.start()
    generation = await service.generator.start(request.generation())
    try:
        print(request.given, end="", flush=True)
        while not generation.is_finished:
            print("".join(token.text for token in await generation.next()), end="", flush=True)
        print()
    finally:
        generation.abort()
        with contextlib.suppress(ServiceError):
            await service.generator.client.stop()
