"""The process that inspects: requests in by its standard input, finished answers out by its standard output, in frames.

    python -m model.inspection.process DIRECTORY NUM_THREADS

It has its own copy of the checkpoint's weights, and runs only when nothing else does. A request is JSON: `message_of` it, and what
its answer is to have besides. Each has one answer: a frame of JSON that says what it is, and one with its content. The process ends
as soon as the one that started it is gone.
"""

import contextlib
import ctypes
import json
import os
import platform
import signal
import struct
import sys
import threading
import time
import traceback
from pathlib import Path
from queue import SimpleQueue
from typing import BinaryIO

from model.inspection.frames import read_frame, write_frame
from model.inspection.messages import Json, frozen, request_of
from model.inspection.pace import Pace
from model.inspection.request import InspectionError

JSON_TYPE, TENSORS_TYPE = "application/json", "application/octet-stream"


class Abandoned(Exception):
    """Nobody waits for this request's answer any more."""


class Inbox:
    """Messages of the service, read in a thread: a request can be abandoned, or held back, while it is computed."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream, self._pace = stream, Pace()
        self._requests: SimpleQueue[Json] = SimpleQueue()
        self._current = self._abandoned = 0
        threading.Thread(target=self._read, daemon=True).start()

    def next(self) -> Json:
        """Waits for it."""
        message = self._requests.get()
        self._current = message["number"]
        self._pace.begin()
        return message

    def check(self) -> None:
        """Rest while the service generates; raise Abandoned if the request that came last is."""
        self._look()
        self._pace.rest()
        self._look()

    def _look(self) -> None:
        if self._abandoned == self._current:
            raise Abandoned

    def _read(self) -> None:
        while True:
            try:
                message = json.loads(read_frame(self._stream))
            except EOFError:
                os._exit(0)  # whatever is computed: there is nobody to have it
            if "abandon" in message:
                self._abandoned = message["abandon"]
                self._pace.go()
            elif "hold" in message:
                (self._pace.hold if message["hold"] else self._pace.go)()
            else:
                self._requests.put(message)


# Loading may take a tenth of a busy core, or the first request would wait for minutes; computing takes what nobody else wants.
LOADING_NICE, LOWEST_NICE = 10, 19
SCHED_SETATTR = {"x86_64": 314, "aarch64": 274}  # system calls that the C library has no function for
TURN_NANOSECONDS = 100_000  # the shortest that Linux takes
SCHED_ATTR = struct.Struct("=IIQiIQQQ")  # size, policy, flags, nice, priority, runtime, deadline, period


def give_way() -> None:
    """The service comes first, and lives on where memory runs out. Threads that are started later inherit it."""
    os.nice(LOADING_NICE)
    with contextlib.suppress(OSError):  # of Linux alone
        Path("/proc/self/oom_score_adj").write_text("1000")


def give_way_at_once() -> None:
    """Take the lowest priority, in short turns: one that is woken waits for the end of a turn first, of 3 ms otherwise.

    Linux from 6.12 on shortens turns (sched_setattr(2), `sched_runtime`); before 6.6 priority alone ends them.
    """
    os.nice(LOWEST_NICE - LOADING_NICE)
    number = SCHED_SETATTR.get(platform.machine()) if sys.platform == "linux" else None
    if number is not None:
        attributes = SCHED_ATTR.pack(SCHED_ATTR.size, os.SCHED_OTHER, 0, LOWEST_NICE, 0, TURN_NANOSECONDS, 0, 0)
        ctypes.CDLL(None).syscall(number, 0, attributes, 0)  # what is refused changes nothing


class Desk:
    """Answers requests, one after the other."""

    def __init__(self, directory: Path, inbox: Inbox) -> None:
        from model.checkpoint import load_tokenizer
        from model.inspection.inspector import Inspector
        from model.network_files import load_model

        self._inbox = inbox
        self._inspector = Inspector(load_model(directory), inbox.check)
        self._tokenizer = load_tokenizer(directory)

    def answer(self, message: Json) -> tuple[Json, bytes]:
        """What it is, and its content."""
        try:
            self._inbox.check()
            return self._inspect(message)
        except Abandoned:
            return {"error": "abandoned"}, b""
        except InspectionError as error:
            return {"error": "invalid", "field": error.field, "message": error.message}, b""
        except Exception as error:
            return failure(error), b""

    def _inspect(self, message: Json) -> tuple[Json, bytes]:
        from model.inspection.answer import Served, json_of, safetensors_of

        started = time.monotonic()
        inspection = self._inspector.inspect(request_of(message["request"]))
        served = None if message["served"] is None else Served(**frozen(message["served"]))
        media_type, write = (TENSORS_TYPE, safetensors_of) if message["format"] == "safetensors" else (JSON_TYPE, json_of)
        seconds = time.monotonic() - started
        return {"media_type": media_type}, write(inspection, self._tokenizer, message["model"], served, seconds, self._inbox.check)


def failure(error: Exception) -> Json:
    """Where it came from, and its type; no message of it, which may hold text of the request."""
    where = "".join(traceback.format_tb(error.__traceback__))
    kind = "there is not enough memory for it" if is_memory(error) else f"it broke by {type(error).__name__}"
    return {"error": "failed", "message": kind, "traceback": f"{where}{type(error).__name__}"}


def is_memory(error: Exception) -> bool:
    return isinstance(error, MemoryError) or "memory" in str(error).lower()  # torch's is a RuntimeError that says it so


def open_desk(directory: Path, num_threads: int, inbox: Inbox) -> Desk:
    import torch

    torch.set_num_threads(1)  # those beside it are started below, at the lowest priority
    desk = Desk(directory, inbox)
    give_way_at_once()
    torch.set_num_threads(num_threads)
    return desk


def main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM):  # which reach a whole terminal or unit: the service has yet to drain
        signal.signal(number, signal.SIG_IGN)
    give_way()
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what a library may print is no answer
    inbox, desk = Inbox(sys.stdin.buffer), None

    def tell(head: Json, content: bytes = b"") -> None:
        write_frame(answers, json.dumps(head).encode())
        write_frame(answers, content)

    try:
        desk = open_desk(Path(sys.argv[1]), int(sys.argv[2]), inbox)
    except Exception as error:
        tell(failure(error))
    else:
        tell({"media_type": ""})
    while desk is not None:
        tell(*desk.answer(inbox.next()))


if __name__ == "__main__":
    main()
