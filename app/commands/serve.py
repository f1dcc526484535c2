"""`gpt2 serve`: the service, until a signal ends it."""

import argparse
import contextlib
import gc
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NoReturn

from app.commands.options import add_settings, model_faults, read_settings
from app.environment import prepare_for_torch
from app.listening import is_loopback, take_address
from app.logs import configure_logging, is_console
from app.settings import Settings
from app.threads import threads_needed
from app.unread_settings import unread

if TYPE_CHECKING:
    from app.server import Server

# The engine's thread waits for the interpreter lock after each step; 5 ms, the default, is longer than many a step.
SWITCH_SECONDS = 0.0005
log = logging.getLogger("gpt2")


def add_command(commands: Any) -> None:  # argparse's subparsers, whose type is private
    parser = commands.add_parser("serve", help="serve a checkpoint over HTTP", description="Serve a checkpoint over HTTP.")
    parser.set_defaults(run=_serve)
    add_settings(parser, tuple(name for name in Settings.model_fields if name != "api_keys"))  # ps would show them to all


def _serve(options: argparse.Namespace) -> NoReturn:
    started = time.monotonic()
    settings = read_settings(options)
    sockets = take_address(settings.host, settings.port)
    # Until the server drains instead: at once, without waiting for the threads that load.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(128 + signal.SIGTERM))
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until the server takes it: it asks for new keys, never for the end
    sys.setswitchinterval(SWITCH_SECONDS)

    def report(line: str) -> None:
        if is_console(settings.log_format):
            with contextlib.suppress(OSError):  # a console that is full or gone is no reason not to serve
                print(f"gpt2: {line}", file=sys.stderr, flush=True)
        else:
            log.info(line)

    with threads_needed(), model_faults(options):
        server = _build(settings, report, lambda address: report(f"ready at {address} after {time.monotonic() - started:.1f} s"))
    server.run(sockets)
    # Nothing is left that Python's clearing up would be good for; it takes 0.3 s with torch, frees what a step that hangs works on,
    # and what a lost device left may not let itself be freed.
    logging.shutdown()
    os._exit(server.exit_code)


def _build(settings: Settings, report: Callable[[str], None], on_ready: Callable[[str], None]) -> "Server":
    """Everything but listening; imports what takes a while, which --help and wrong options are not to wait for."""
    with _nothing_collected():
        prepare_for_torch()
        from app.bootstrap import build_service
        from app.telemetry import open_tracing

        tracing = open_tracing(os.environ)
        configure_logging(settings.log_format, *([] if tracing is None else [tracing.add_ids]))
        for line in unread(os.environ):
            log.warning("%s", line)
        # While weights are packed, which leaves the interpreter to others. Whatever ends the start waits for it, a fraction of a
        # second: a thread that Python ends within an extension module may take the process down before its exit code.
        with ThreadPoolExecutor(1) as beside:
            beside.submit(_import_server)
            service = build_service(settings, report)
        from app.main import create_app
        from app.server import Server

        if service.keys is None and not is_loopback(settings.host):
            log.warning("%s can be reached from other machines, and asks for no API key: see GPT2_API_KEYS_FILE", settings.host)
        app = create_app(
            settings, service.generator, service.info, service.metrics, service.chat, service.lane, service.keys, tracing
        )
        return Server(app, settings, on_ready)


@contextlib.contextmanager
def _nothing_collected() -> Iterator[None]:
    """What start-up makes is there to stay: to look through it for garbage takes 40 ms by its end, and ever again after it."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def _import_server() -> None:
    """What fails here fails again, and visibly, where it is imported in earnest."""
    import app.main
    import app.server  # noqa: F401
