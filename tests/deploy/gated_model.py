"""The service on its own runner behind a gate: a test says how many steps it may take, so that what happens has an order.

    GPT2_GATE=/path/to/file python -m tests.deploy.gated_model serve

While the file is there, a step is taken for each of its bytes, and no more; where there is none, nothing waits.
"""

import os
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

from app.cli import main
from model.batch import ForwardBatch, Launched, Runner
from model.choice import Chosen, choose_runner


class GatedRunner:
    """A runner whose launches wait for the gate."""

    def __init__(self, runner: Runner, gate: Path) -> None:
        self._runner, self._gate = runner, gate
        self._num_taken = 0

    def __getattr__(self, name: str) -> Any:  # whatever the runner has
        return getattr(self._runner, name)

    def launch(self, batch: ForwardBatch) -> Launched:
        while not self._may_pass():
            time.sleep(0.001)
        self._num_taken += 1
        return self._runner.launch(batch)

    def _may_pass(self) -> bool:
        try:
            return self._gate.stat().st_size > self._num_taken
        except FileNotFoundError:
            self._num_taken = -1  # what is taken now is none of a later gate's
            return True


def _choose(*arguments: Any) -> Chosen:
    chosen = choose_runner(*arguments)
    return replace(chosen, runner=GatedRunner(chosen.runner, Path(os.environ["GPT2_GATE"])))


if __name__ == "__main__":
    with patch("app.bootstrap.choose_runner", _choose):
        sys.exit(main())
