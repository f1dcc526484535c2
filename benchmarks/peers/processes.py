"""The peers as processes: workers that answer jobs over pipes, servers that stream over HTTP. Imports no peer."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.peers.holds import ENVIRONMENTS, family
from benchmarks.peers.places import interpreter, model_of
from benchmarks.peers.servers import SERVERS

HERE = Path(__file__).parent


class WorkerPeer:
    """A peer in process, for the length of a `with` block; `ready` says how long it loaded and what memory it took."""

    def __init__(self, root: Path, name: str, model_dtype: str, dtype: str, hold: str = "", threads: int = 2) -> None:
        script, model = HERE / f"run_{name}.py", model_of(root, name, model_dtype)
        self.command = [str(interpreter(root, name)), str(script), f"--model={model}", f"--dtype={dtype}"]
        self.command += [f"--threads={threads}", f"--hold={hold}"]
        self.environment = _environment(hold)

    def __enter__(self) -> "WorkerPeer":
        self._log = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen(
            self.command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env=self.environment,
            start_new_session=True,
        )
        self.ready = self._read()
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        self._log.close()

    def run(self, prompts: list[list[int]], max_new_tokens: int) -> dict[str, Any]:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"prompts": prompts, "max_new_tokens": max_new_tokens}) + "\n")
        self.process.stdin.flush()
        return self._read()

    def _read(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        if line := self.process.stdout.readline():
            return json.loads(line)
        raise RuntimeError(f"{self.command[1]} ended: {_end_of(self._log)}")


class ServerPeer:
    """A peer that serves, for the length of a `with` block; `ready_seconds` counts from its start."""

    def __init__(self, root: Path, name: str, dtype: str, hold: str = "", threads: int = 2) -> None:
        self.server = SERVERS[name]
        self.port = _free_port()
        self.command = self.server.command(root, dtype, self.port, threads, hold)
        self.environment = _environment(hold) | self.server.environment
        self.url = f"http://127.0.0.1:{self.port}{self.server.path}"

    def __enter__(self) -> "ServerPeer":
        started = time.monotonic()
        self._log = tempfile.TemporaryFile("w+")
        # A session of its own, so that the processes it starts end with it.
        self.process = subprocess.Popen(
            self.command, stdout=self._log, stderr=self._log, env=self.environment, start_new_session=True
        )
        while not self._is_ready():
            if self.process.poll() is not None or time.monotonic() > started + self.server.start_seconds:
                end = _end_of(self._log)
                self.__exit__()
                raise RuntimeError(f"{self.command[0]} did not come up: {end}")
            time.sleep(0.05)
        self.ready_seconds = time.monotonic() - started
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(20)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self._log.close()

    @contextlib.contextmanager
    def watched(self) -> Iterator[dict[str, int]]:
        """Resident memory, known when the block ends: then, at its highest, and at its highest within the block."""
        memory: dict[str, int] = {"load_rss_bytes": 0}
        ended = threading.Event()

        def watch() -> None:
            while not ended.wait(0.25):
                with contextlib.suppress(OSError):  # a process of the family ended meanwhile
                    memory["load_rss_bytes"] = max(memory["load_rss_bytes"], self.memory()["rss_bytes"])

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            yield memory
        finally:
            ended.set()
            watcher.join()
        memory |= self.memory()
        memory["load_rss_bytes"] = max(memory["load_rss_bytes"], memory["rss_bytes"])

    def memory(self) -> dict[str, int]:
        """Resident memory now and at its highest, summed over the server's processes."""
        statuses = [Path(f"/proc/{pid}/status").read_text() for pid in family(self.process.pid)]
        return {
            name: 1024 * sum(int(kib) for status in statuses for kib in re.findall(rf"{field}:\s+(\d+)", status))
            for name, field in (("rss_bytes", "VmRSS"), ("peak_rss_bytes", "VmHWM"))
        }

    def _is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=5) as response:
                return response.status == 200
        except (urllib.error.URLError, OSError):
            return False


def _environment(hold: str) -> dict[str, str]:
    # All is on the disk; without this a tokenizer's loader asks a hub first.
    return os.environ | {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"} | (ENVIRONMENTS[hold] if hold else {})


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _end_of(log: Any) -> str:
    log.seek(0)
    return log.read()[-2000:]
