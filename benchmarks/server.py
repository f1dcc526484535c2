"""`gpt2 serve` as a process, a load on it, and what the kernel says of it."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from app.bench.dialects import DIALECTS
from app.bench.exchange import Endpoint
from app.bench.load import ClosedLoop, Measurement, run_load
from benchmarks.machine import ROOT


class ServerProcess:
    """Runs a checkout's server for the length of a `with` block; `ready_seconds` counts from its start.

    `module` is run in the place of `app`, with `environment` added to this process's own.
    """

    def __init__(
        self,
        model: Path | None = None,
        checkout: Path = ROOT,
        module: str = "app",
        environment: Mapping[str, str] | None = None,
        **settings: object,
    ) -> None:
        self._checkout, self._module, self._environment = checkout, module, os.environ | (environment or {})
        self._options = [f"--{name.replace('_', '-')}={value}" for name, value in ({"port": 0} | settings).items()]
        if model is not None:
            self._options.append(f"--model={model}")

    def __enter__(self) -> "ServerProcess":
        started = time.monotonic()
        # This checkout's by this interpreter, where the package need not be installed.
        program = (
            [sys.executable, "-m", self._module] if self._checkout == ROOT else [str(self._checkout / ".venv" / "bin" / "gpt2")]
        )
        command = [*program, "serve", *self._options]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=self._checkout, env=self._environment)
        assert self.process.stderr is not None
        said = []
        for line in self.process.stderr:
            said.append(line)
            if match := re.search(r"ready at (http://[\d.:]+)", line):
                self.url, self.ready_seconds = match[1], time.monotonic() - started
                break
        else:
            self.process.stderr.close()
            self.process.wait(60)
            raise RuntimeError(f"the server did not come up:\n{''.join(said)}")
        # Its log goes on; unread, it would fill the pipe and stop the server.
        self._reader = subprocess.Popen(["cat"], stdin=self.process.stderr, stdout=subprocess.DEVNULL)
        self.process.stderr.close()
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait(60)
        self._reader.wait(60)

    def load(self, bodies: Sequence[dict[str, Any]], concurrency: int) -> Measurement:
        """Send each body to /generate_stream, so many at once, and read every event; none may fail."""
        measurement = run_load(Endpoint(self.url), DIALECTS["generate"], bodies, ClosedLoop(concurrency))
        if measurement.is_interrupted:
            raise KeyboardInterrupt
        if measurement.failed:
            raise RuntimeError(f"{len(measurement.failed)} answers failed: {measurement.failed[0].failure}")
        return measurement

    def cpu_seconds(self) -> float:
        """User and system time of the process so far."""
        return _cpu_seconds(Path(f"/proc/{self.process.pid}/stat"))

    def event_loop_seconds(self) -> float:
        """The same of its main thread alone, which runs the event loop; others compute the model."""
        return _cpu_seconds(Path(f"/proc/{self.process.pid}/task/{self.process.pid}/stat"))

    def rss_anon_bytes(self) -> int:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        match = re.search(r"RssAnon:\s+(\d+) kB", status)
        assert match
        return int(match[1]) * 1024


def _cpu_seconds(stat: Path) -> float:
    fields = stat.read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
