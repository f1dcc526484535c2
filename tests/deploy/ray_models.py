"""Replicas, and a service, on models that compute nothing, for what is to be measured beside the model.

    GPT2_FAKE_STEP_SECONDS=0.02 python -m tests.deploy.ray_models serve --port 0

is the one process that replicas are compared with. A token's log-probability is when it was computed, by the machine's clock.
"""

import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from ray.serve import Application

from app.cli import main
from app.engine.worker import Command, Worker
from app.settings import Settings
from deploy.ray.application import Arguments, bound
from deploy.ray.replica import Replica
from model.batch import ForwardBatch, StepOutput
from model.choice import Chosen, Wanted
from model.steps import Done
from tests.chaos import fake_model
from tests.chaos.fake_model import FakeRunner

if TYPE_CHECKING:
    from app.bootstrap import Service


class ClockedRunner(FakeRunner):
    """Steps of a fixed time, as on a device of its own; what they compute says when."""

    def launch(self, batch: ForwardBatch) -> Done:
        output = super().launch(batch).collect()
        now = time.monotonic()
        drawn = [tuple(tuple(token._replace(logprob=now) for token in draw) for draw in chunk.tokens) for chunk in output.chunks]
        chunks = (chunk._replace(tokens=tokens) for chunk, tokens in zip(output.chunks, drawn, strict=True))
        return Done(StepOutput(tuple(chunks)))


class GatedWorker(Worker):
    """While there is no file `gate` beside the checkpoint, takes a step for each request that comes or goes, and no other.

    So each has its first token, and what a test wants under way stays so until it says otherwise.
    """

    gate: Path

    def _take_commands(self, patience: float) -> list[Command]:
        while self._engine.has_work and self.commands.empty() and not self.gate.exists():
            time.sleep(0.001)
        return super()._take_commands(patience)


def _choose(kind: type[FakeRunner]) -> Any:  # in the place of choose_runner
    def choose(checkpoint: Any, tokenizer: Any, wanted: Wanted, report: Any) -> Chosen:
        chosen = fake_model._choose(checkpoint, tokenizer, wanted, report)
        return replace(chosen, runner=kind(chosen.runner, chosen.runner.num_slots))

    return choose


class ClockedReplica(Replica):
    step_seconds = 0.02

    def _service(self, settings: Settings) -> "Service":
        fake_model.STEP_SECONDS = self.step_seconds
        with patch("app.bootstrap.choose_runner", _choose(ClockedRunner)):
            return super()._service(settings)


class SlowReplica(ClockedReplica):
    step_seconds = 0.1


class GatedReplica(Replica):
    def _service(self, settings: Settings) -> "Service":
        GatedWorker.gate = Path(settings.model) / "gate"
        patch("app.engine.worker.Worker", GatedWorker).start()  # for the process's life: the lifespan makes the worker
        with patch("app.bootstrap.choose_runner", _choose(FakeRunner)):
            return super()._service(settings)


def clocked(arguments: Arguments) -> Application:
    """The application of `deploy.ray:build` on such replicas; Ray imports it by its name."""
    return bound(arguments, ClockedReplica)


def slow(arguments: Arguments) -> Application:
    return bound(arguments, SlowReplica)


def gated(arguments: Arguments) -> Application:
    return bound(arguments, GatedReplica)


if __name__ == "__main__":
    with patch("app.bootstrap.choose_runner", _choose(ClockedRunner)):
        sys.exit(main())
