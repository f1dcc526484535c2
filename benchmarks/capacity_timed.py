"""The service on a runner that computes nothing, and sleeps for as long as its steps are said to take.

    GPT2_STEP_TIMES=... python -m benchmarks.capacity_timed serve      a ServiceTimes as JSON

Network, door, scheduler and engine are the real ones; the model's time is what it is told, however busy the machine.
"""

import json
import os
import sys
from dataclasses import replace
from typing import Any
from unittest.mock import patch

from app.cli import main
from benchmarks.capacity_simulation import ServiceTimes
from model.batch import Chunk, ForwardBatch, Runner
from model.choice import Chosen, Wanted, choose_runner
from tests.chaos.fake_model import FakeRunner

VARIABLE = "GPT2_STEP_TIMES"


class TimedRunner(FakeRunner):
    """Its steps take what `times` say."""

    def __init__(self, runner: Runner, num_slots: int, times: ServiceTimes) -> None:
        super().__init__(runner, num_slots)
        self._times = times

    def seconds(self, batch: ForwardBatch) -> float:
        prompts = sum(len(chunk.token_ids) for chunk in batch.chunks if _is_prompt(chunk))
        return self._times.step_seconds(sum(not _is_prompt(chunk) for chunk in batch.chunks), prompts)


def _is_prompt(chunk: Chunk) -> bool:
    """A prompt of one token would count as a row, which makes no difference here."""
    return len(chunk.token_ids) > 1


def _choose(checkpoint: Any, tokenizer: Any, wanted: Wanted, report: Any) -> Chosen:
    chosen = choose_runner(checkpoint, tokenizer, wanted._replace(num_slots=1), report)
    times = ServiceTimes(**json.loads(os.environ[VARIABLE]))
    return replace(chosen, runner=TimedRunner(chosen.runner, wanted.num_slots or 32, times))


if __name__ == "__main__":
    with patch("app.bootstrap.choose_runner", _choose):
        sys.exit(main())
