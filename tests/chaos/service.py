"""The service as a process of its own, as operators start it, seen from outside: its address, memory, files, threads and end."""

import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path

import httpx
import psutil

from tests.chaos.goals import Figure, exactly
from tests.tiny import make_tiny_checkpoint, small_vocabulary, tiny_sizes

PATIENCE_SECONDS = 120.0  # ends what would hang; nothing that is measured
INSIDE = ("gpt2_slots_used", "gpt2_requests_running", "gpt2_requests_waiting", "gpt2_queued_tokens")
FAKE_MODEL = "tests.chaos.fake_model"
INTERIM = b"HTTP/1.1 100 Continue\r\n\r\n"  # by which the service finds out whether who half-closed is there still
ADDRESS = re.compile(r"http://[\d.]+:\d+")


class ServiceProcess:
    """A running `gpt2 serve`; whatever it says is kept in `log`."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process, self.log_file = process, log
        self._seen = psutil.Process(process.pid)
        self.url = self._wait_for_address()
        host, port = self.url.removeprefix("http://").split(":")
        self.address = (host, int(port))

    @property
    def log(self) -> str:
        return self.log_file.read_text(errors="replace")

    def connect(self, seconds: float = PATIENCE_SECONDS) -> socket.socket:
        return socket.create_connection(self.address, timeout=seconds)

    def status_of(self, request: bytes, half_closes: bool = False) -> int | None:
        """Of the answer to bytes on a connection of their own; None if it was closed without one, 504 if none came in time."""
        answer = b""
        with self.connect() as connection:
            try:
                connection.sendall(request)
                if half_closes:
                    connection.shutdown(socket.SHUT_WR)
            except OSError:
                pass  # refused before all was sent: its answer can be there all the same
            try:
                while len(answer) < 12 and (more := connection.recv(4096)):
                    answer = (answer + more).removeprefix(INTERIM)
            except ConnectionError:
                pass
            except TimeoutError:
                return 504  # as bad as a fault of the service's own
        return int(answer[9:12]) if answer[9:12].isdigit() else None

    def metrics(self) -> dict[str, float]:
        """Every sample by its name with labels, as in `gpt2_slots_used`."""
        lines = httpx.get(f"{self.url}/metrics", timeout=PATIENCE_SECONDS).text.splitlines()
        pairs = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
        return {name: float(value) for name, value in pairs}

    def num_inside(self) -> int:
        """Nothing of any request is held where this is 0."""
        metrics = self.metrics()
        return round(sum(metrics[name] for name in INSIDE))

    def unaccounted(self) -> int:
        """Accepted prompts that neither ended nor run nor wait: none, once the engine has heard of those who left."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while (found := _unaccounted(self.metrics())) and time.monotonic() < deadline:
            time.sleep(0.05)
        return found

    def private_bytes(self) -> int:
        """RssAnon and VmSwap of the service and its children: what it took and did not give back."""
        processes = [self._seen, *self._seen.children(recursive=True)]
        return sum(_private_bytes(process.pid) for process in processes)

    def counts(self) -> dict[str, int]:
        return {"files": self._seen.num_fds(), "threads": self._seen.num_threads(), "children": len(self._seen.children())}

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def end(self) -> int:
        """SIGTERM, and the exit code."""
        self.signal(signal.SIGTERM)
        return self.process.wait(PATIENCE_SECONDS)

    def _wait_for_address(self) -> str:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline and self.process.poll() is None:
            if (found := ADDRESS.search(self.log)) and _answers(found[0]):
                return found[0]
            time.sleep(0.02)
        raise AssertionError(f"the service did not come up:\n{self.log[-2000:]}")


@contextmanager
def service(checkpoint: Path | None = None, module: str = "app", **settings: object) -> Iterator[ServiceProcess]:
    """`gpt2 serve` on the tiny checkpoint, or another, with settings by their names; killed if it has not ended with the block.

    `module` is run in the place of `app`: FAKE_MODEL is the service on a model that computes nothing.
    """
    with tempfile.TemporaryDirectory() as directory:
        values = {"model": checkpoint or tiny_checkpoint(), "port": 0, "device": "cpu", "log_format": "json"} | settings
        environment = os.environ | {f"GPT2_{name.upper()}": str(value) for name, value in values.items()}
        log = Path(directory) / "log"
        with log.open("wb") as output:
            command = [sys.executable, "-m", module, "serve"]
            process = subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT)
        try:
            yield ServiceProcess(process, log)
        finally:
            process.kill()
            process.wait()


@cache
def tiny_checkpoint(n_positions: int = 1024) -> Path:
    directory = Path(tempfile.mkdtemp(prefix="gpt2-chaos-")) / "tiny"
    return make_tiny_checkpoint(directory, replace(tiny_sizes(), n_positions=n_positions), small_vocabulary())


def until(is_so: Callable[[], object], pause: float = 0.0) -> float:
    """Wait for it; how many seconds it took."""
    started = time.perf_counter()
    while not is_so():
        assert time.perf_counter() - started < PATIENCE_SECONDS, "what was waited for did not come"
        time.sleep(pause)
    return time.perf_counter() - started


def nothing_unaccounted(running: ServiceProcess) -> Figure:
    """Conservation: accepted = completed + failed + aborted + expired + running + waiting."""
    return exactly("accepted prompts without an end", 0, running.unaccounted())


def _unaccounted(metrics: dict[str, float]) -> int:
    ended = sum(value for name, value in metrics.items() if name.startswith("gpt2_ended_total"))
    return round(metrics["gpt2_accepted_total"] - ended - metrics["gpt2_requests_running"] - metrics["gpt2_requests_waiting"])


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health/ready").status_code == 200
    except httpx.HTTPError:
        return False


def _private_bytes(pid: int) -> int:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return 0  # it has just ended
    return sum(1024 * int(kilobytes) for kilobytes in re.findall(r"^(?:RssAnon|VmSwap):\s+(\d+)", status, re.MULTILINE))
