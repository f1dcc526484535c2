"""`gpt2 serve`: the service, until a signal ends it."""

import argparse
import logging
import signal
import sys
import time
from typing import Any

from app.commands.options import add_settings, read_settings
from app.environment import prepare_for_torch
from app.logs import configure_logging, is_console
from app.settings import Settings


def add_command(commands: Any) -> None:  # argparse's subparsers, whose type is private
    parser = commands.add_parser("serve", help="serve a checkpoint over HTTP", description="Serve a checkpoint over HTTP.")
    parser.set_defaults(run=_serve)
    add_settings(parser, tuple(Settings.model_fields))


def _serve(options: argparse.Namespace) -> int:
    started = time.monotonic()
    settings = read_settings(options)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # until the server drains instead
    prepare_for_torch()
    from app.bootstrap import build_service  # torch takes a second to import: not for --help and wrong options
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
