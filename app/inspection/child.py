"""The process that inspects, seen from the service: it is asked and answers, one request at a time. Waits; knows no event loop.

What it answers is passed on as it is. `ask` is called in one thread; `abandon`, `hold` and `kill` in any.
"""

import contextlib
import fcntl
import json
import logging
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import orjson

import model
from app.environment import FOR_TORCH, of_child
from app.errors import InspectionFailed, InvalidRequest
from model.inspection.frames import read_frame, write_frame

PIPE_BYTES = 1 << 20  # an answer may have 100 MB, and each piece of it takes the interpreter once; 64 KiB is the system's default
PACKAGES = str(Path(model.__file__).parents[1])  # where it finds `model`, whatever the working directory

log = logging.getLogger("gpt2.inspection")


class Abandoned(Exception):
    """The child has stopped computing what nobody waits for."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An inspection's answer, complete."""

    media_type: str
    content: bytes


class Child:
    """Started when it is made; `wait_until_ready` once, then `ask` as often as one likes, until `kill`."""

    def __init__(self, directory: Path, num_threads: int) -> None:
        # -P: what lies in the working directory is no part of it.
        command = (sys.executable, "-P", "-m", "model.inspection.process", str(directory), str(num_threads))
        environment = of_child() | FOR_TORCH | {"PYTHONPATH": PACKAGES, "CUDA_VISIBLE_DEVICES": ""}
        try:
            self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
        except OSError as error:  # no memory is left for it, or no process
            raise InspectionFailed(f"the process that inspects cannot be started: {error.strerror}") from error
        self._writing = threading.Lock()  # a frame that abandons must not come between the parts of another
        self._widen_pipes()

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def wait_until_ready(self, seconds: float) -> None:
        """Its weights are loaded; raises InspectionFailed if they cannot be, or not in time."""
        alarm = threading.Timer(seconds, self.kill)
        alarm.daemon = True
        alarm.start()
        try:
            self._take()
        finally:
            alarm.cancel()

    def ask(self, number: int, message: dict[str, object]) -> Answer:
        """Raises InvalidRequest, Abandoned, or InspectionFailed; `is_alive` tells whether it can be asked again."""
        self._tell({**message, "number": number})
        return self._take()

    def abandon(self, number: int) -> None:
        """Have it not compute the request of this number any further, whether it has come or not; it answers all the same."""
        self._tell({"abandon": number})

    def hold(self, is_held: bool) -> None:
        """Have it rest for most of the time, or not, from now on."""
        self._tell({"hold": is_held})

    def kill(self) -> None:
        self._process.kill()

    def close(self) -> None:
        """Kill it, and leave nothing of it behind; not to be called while another thread asks."""
        self.kill()
        self._process.wait()
        for pipe in self._pipes:
            with contextlib.suppress(BrokenPipeError):  # what it did not live to read
                pipe.close()

    @property
    def _pipes(self) -> tuple[BinaryIO, BinaryIO]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        return self._process.stdin, self._process.stdout  # type: ignore[return-value]  # typeshed's IO[bytes]

    def _widen_pipes(self) -> None:
        """Where the system has room for it: an account may be allowed so much only, and then pieces are smaller."""
        if sys.platform == "linux":
            for pipe in self._pipes:
                with contextlib.suppress(OSError):
                    fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, PIPE_BYTES)

    def _tell(self, message: dict[str, object]) -> None:
        content = orjson.dumps(message)  # `json` would keep the interpreter for a tenth of a second over a patch of a megabyte
        with self._writing, contextlib.suppress(BrokenPipeError):  # it has ended, and there will be no answer either
            write_frame(self._pipes[0], content)

    def _take(self) -> Answer:
        try:
            head, content = json.loads(read_frame(self._pipes[1])), read_frame(self._pipes[1])
        except EOFError:
            raise InspectionFailed(f"the process that inspects has ended: {self._end()}") from None
        match head.get("error"):
            case None:
                return Answer(head["media_type"], content)
            case "invalid":
                raise InvalidRequest(f"{head['field']}: {head['message']}", param=head["field"])
            case "abandoned":
                raise Abandoned
            case _:
                log.error("an inspection failed:\n%s", head["traceback"])
                raise InspectionFailed(head["message"])

    def _end(self) -> str:
        """How it ended, as far as that can be told."""
        self._process.kill()  # it has closed its pipe, and answers nobody any more
        status = self._process.wait()
        return f"by signal {-status}" if status < 0 else f"with exit code {status}"
