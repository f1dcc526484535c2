"""How far a goal has come, told on standard error while it lasts. Knows no goals."""

import sys
import threading
import time
from types import TracebackType

PAUSE_SECONDS = 2.0


class Progress:
    """Tells the seconds that have passed and what was told last, every two seconds: on a terminal in one line."""

    def __init__(self) -> None:
        self._line, self._is_over = "", threading.Event()
        self._started = time.monotonic()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._begin, self._end = ("\r\x1b[K", "") if sys.stderr.isatty() else ("", "\n")

    def tell(self, line: str) -> None:
        self._line = line

    def __enter__(self) -> "Progress":
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._is_over.set()
        self._thread.join()
        print(self._begin, end="", file=sys.stderr, flush=True)

    def _run(self) -> None:
        while not self._is_over.wait(PAUSE_SECONDS):
            seconds = f"{time.monotonic() - self._started:.0f} s"
            parts = ", ".join(part for part in (seconds, self._line) if part)
            print(f"{self._begin}    {parts}", end=self._end, file=sys.stderr, flush=True)
