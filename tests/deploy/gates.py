"""Services behind gates, from the test's side: see gated_model."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.chaos.service import ServiceProcess, service

GATED_MODEL = "tests.deploy.gated_model"


class Gate:
    """Open until it is closed; then steps are taken as they are granted."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def close(self) -> None:
        self.file.touch()

    def grant(self, num_steps: int) -> None:
        with self.file.open("ab") as file:
            file.write(bytes(num_steps))

    def open(self) -> None:
        self.file.unlink(missing_ok=True)


@contextmanager
def gated_service(**settings: object) -> Iterator[tuple[ServiceProcess, Gate]]:
    """A service on the tiny checkpoint, with its gate open; an engine that waits at its gate does not count as hung."""
    with tempfile.TemporaryDirectory() as directory:
        gate = Gate(Path(directory) / "gate")
        with service(module=GATED_MODEL, gate=gate.file, **{"stall_seconds": 600} | settings) as running:
            yield running, gate
