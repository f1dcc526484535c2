"""The service on a runner that computes nothing, and sleeps for as long as its steps are said to take.

    GPT2_STEP_TIMES=... python -m benchmarks.capacity_timed serve      a ServiceTimes as JSON

Network, door, scheduler and engine are the real ones; the model's time is what it is told, however busy the machine.
"""

import json
import os
import sys
import time
from dataclasses import replace
from typing import Any
from unittest.mock import patch

from app.cli import main
from benchmarks.capacity_simulation import ServiceTimes
from model.batch import Capabilities, Chunk, ChunkOutput, ForwardBatch, Runner, SampledToken, StepOutput
from model.choice import Chosen, Wanted, choose_runner

VARIABLE = "GPT2_STEP_TIMES"


class TimedRunner:
    """Has passed the self-test of the runner that it stands in for."""

    capabilities = Capabilities(exact_at_any_cut=True, max_draws=1024)

    def __init__(self, runner: Runner, num_slots: int, times: ServiceTimes) -> None:
        self.num_slots, self.max_positions, self.vocab_size = num_slots, runner.max_positions, runner.vocab_size
        self._times = times

    def launch(self, batch: ForwardBatch) -> "TimedStep":
        prompts = sum(len(chunk.token_ids) for chunk in batch.chunks if _is_prompt(chunk))
        rows = sum(not _is_prompt(chunk) for chunk in batch.chunks)
        time.sleep(self._times.step_seconds(rows, prompts))
        return TimedStep(StepOutput(tuple(_output(chunk) for chunk in batch.chunks)))

    def warm_up(self) -> None: ...

    def copy_prefix(self, source: int, target: int, length: int) -> None: ...


class TimedStep:
    def __init__(self, output: StepOutput) -> None:
        self._output = output

    def collect(self) -> StepOutput:
        return self._output


def _is_prompt(chunk: Chunk) -> bool:
    """A prompt of one token would count as a row, which makes no difference here."""
    return len(chunk.token_ids) > 1


def _output(chunk: Chunk) -> ChunkOutput:
    return ChunkOutput(tuple((SampledToken((chunk.start + draw.row) % 200, -1.0),) for draw in chunk.draws))


def _choose(checkpoint: Any, tokenizer: Any, wanted: Wanted, report: Any) -> Chosen:
    chosen = choose_runner(checkpoint, tokenizer, wanted._replace(num_slots=1), report)
    times = ServiceTimes(**json.loads(os.environ[VARIABLE]))
    return replace(chosen, runner=TimedRunner(chosen.runner, wanted.num_slots or 32, times))


if __name__ == "__main__":
    with patch("app.bootstrap.choose_runner", _choose):
        sys.exit(main())
