"""A line on the terminal that counts the seconds of what takes long and cannot tell how far it is."""

import contextlib
import sys
import threading
import time
from collections.abc import Iterator

PATIENCE_SECONDS = 2.0


@contextlib.contextmanager
def waiting_for(what: str) -> Iterator[None]:
    """Tell of it until the block ends, if it takes longer than two seconds and standard error is a terminal."""
    if not sys.stderr.isatty():
        yield
        return
    is_done = threading.Event()
    thread = threading.Thread(target=_count, args=(what, is_done), daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_done.set()
        thread.join()


def _count(what: str, is_done: threading.Event) -> None:
    started, wait = time.monotonic(), PATIENCE_SECONDS
    line = ""
    while not is_done.wait(wait):
        line, wait = f"{what}: {time.monotonic() - started:.0f} s", 1.0
        print(f"\r{line}", end="", file=sys.stderr, flush=True)
    if line:
        print("\r" + " " * len(line) + "\r", end="", file=sys.stderr, flush=True)
