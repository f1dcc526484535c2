"""Renders a chat template in a process of its own, so that whatever the template does there harms one answer alone.

Knows nothing of what is rendered, nor of tokens.
"""

import asyncio
import contextlib
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO

import model
from app.environment import of_child
from app.errors import NotReady, TemplateFailed

RENDER_SECONDS = 2.0  # a real template takes less than a millisecond
START_SECONDS = 20.0  # Python and jinja2 take 0.1 s, and more on a machine that has just been started
WAIT_SECONDS = 10.0  # for other conversations' turns
# By its path and isolated: it finds jinja2 alone, whatever the working directory and the environment hold.
COMMAND = (sys.executable, "-I", str(Path(model.__file__).with_name("chat_rendering.py")))


class Renderer:
    """One template's process: started by the first rendering, ended by `close`, replaced after one that it did not survive."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._process: subprocess.Popen[bytes] | None = None
        self._turns = ThreadPoolExecutor(1, "chat-template")  # a process renders one conversation at a time

    async def render(self, variables: Mapping[str, object]) -> str:
        """Raises TemplateFailed, or NotReady if slow renderings of others leave it no turn."""
        turn = asyncio.get_running_loop().run_in_executor(self._turns, self.render_now, variables)
        try:
            return await asyncio.wait_for(turn, WAIT_SECONDS)
        except TimeoutError:
            raise NotReady(f"the chat template was busy with other conversations for {WAIT_SECONDS:g} s") from None

    def render_now(self, variables: Mapping[str, object]) -> str:
        """The same, waiting; not to be called while `render` is."""
        if self._process is None or self._process.poll() is not None:
            self._start()
        text = self._ask(variables, RENDER_SECONDS)
        if not text:
            raise TemplateFailed("it makes no text of them")
        return text

    def close(self) -> None:
        if self._process is not None:
            _end(self._process)
            self._process = None

    def _start(self) -> None:
        self.close()
        self._process = subprocess.Popen(COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=of_child())
        self._ask({"template": self._source}, START_SECONDS)

    def _ask(self, message: Mapping[str, object], seconds: float) -> str:
        """One line to the process and one back; a process that is late or dies is gone afterwards."""
        assert self._process is not None
        try:
            line = _exchange(self._process, json.dumps(message).encode() + b"\n", time.monotonic() + seconds)
        except (TimeoutError, EOFError) as error:
            self.close()
            is_late = isinstance(error, TimeoutError)
            reason = f"it takes longer than {seconds:g} s" if is_late else "it broke the process that renders it"
            raise TemplateFailed(reason) from None
        answer: dict[str, str] = json.loads(line)
        if "error" in answer:
            raise TemplateFailed(answer["error"])
        return answer["text"]


def _exchange(process: subprocess.Popen[bytes], message: bytes, deadline: float) -> bytes:
    """Its answer's line; raises TimeoutError if there is none in time, EOFError if it has ended."""
    stdin, stdout = _pipes(process)
    with contextlib.suppress(BrokenPipeError):  # then there is no answer either
        stdin.write(message)
        stdin.flush()
    poll, line = select.poll(), bytearray()  # select() itself takes no file number above 1023, which a busy server has
    poll.register(stdout, select.POLLIN)
    while not line.endswith(b"\n"):
        if not poll.poll(max(deadline - time.monotonic(), 0) * 1000):
            raise TimeoutError
        part = os.read(stdout.fileno(), 1 << 16)
        if not part:
            raise EOFError
        line += part
    return bytes(line)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    for pipe in _pipes(process):
        with contextlib.suppress(BrokenPipeError):  # what it did not live to read
            pipe.close()


def _pipes(process: subprocess.Popen[bytes]) -> tuple[IO[bytes], IO[bytes]]:
    assert process.stdin is not None
    assert process.stdout is not None
    return process.stdin, process.stdout
