"""The service on a model that computes nothing, for what is to be measured beside the model: 1,024 slots in no memory.

    GPT2_FAKE_STEP_SECONDS=0.005 python -m tests.chaos.fake_model serve --port 0 --max-running 1024

The token at position p of any text is p modulo 200, so that a lost, doubled or reordered one shows.
"""

import os
import sys
import time
from dataclasses import replace
from typing import Any
from unittest.mock import patch

from app.cli import main
from model.batch import Capabilities, Chunk, ChunkOutput, ForwardBatch, Runner, SampledToken, StepOutput
from model.choice import Chosen, Wanted, choose_runner
from model.steps import Done

STEP_SECONDS = float(os.environ.get("GPT2_FAKE_STEP_SECONDS", "0"))


class FakeRunner:
    """Has passed the self-test of the runner that it stands in for."""

    capabilities = Capabilities(exact_at_any_cut=True, max_draws=1024)

    def __init__(self, runner: Runner, num_slots: int) -> None:
        self.num_slots, self.max_positions, self.vocab_size = num_slots, runner.max_positions, runner.vocab_size

    def launch(self, batch: ForwardBatch) -> Done:
        time.sleep(self.seconds(batch))
        return Done(StepOutput(tuple(_output(chunk) for chunk in batch.chunks)))

    def seconds(self, batch: ForwardBatch) -> float:
        """How long a step takes."""
        return STEP_SECONDS

    def warm_up(self) -> None: ...

    def copy_prefix(self, source: int, target: int, length: int) -> None: ...


def _output(chunk: Chunk) -> ChunkOutput:
    return ChunkOutput(tuple((SampledToken((chunk.start + draw.row) % 200, -1.0),) for draw in chunk.draws))


def _choose(checkpoint: Any, tokenizer: Any, wanted: Wanted, report: Any) -> Chosen:
    chosen = choose_runner(checkpoint, tokenizer, wanted._replace(num_slots=1), report)
    return replace(chosen, runner=FakeRunner(chosen.runner, wanted.num_slots or 32))


if __name__ == "__main__":
    with patch("app.bootstrap.choose_runner", _choose):
        sys.exit(main())
