"""What takes Ray minutes, by GPT2_TEST_LONG=1: scaling by queued work, an update that cannot start, and the one command."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from tests.chaos.service import PATIENCE_SECONDS, until
from tests.deploy.ray_cluster import ENVIRONMENT, ROOT, RayCluster, quiet, ray_cluster
from tests.ports import free_port
from tests.tiny import make_tiny_checkpoint, small_vocabulary, tiny_sizes

pytestmark = [
    pytest.mark.skipif(os.environ.get("GPT2_TEST_LONG") != "1", reason="takes minutes: GPT2_TEST_LONG=1"),
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings("ignore"),
]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_checkpoint(tmp_path_factory.mktemp("ray") / "tiny", tiny_sizes(), small_vocabulary())


@pytest.fixture(scope="module")
def damaged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = make_tiny_checkpoint(tmp_path_factory.mktemp("ray") / "damaged", tiny_sizes(), small_vocabulary())
    weights = directory / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    return directory


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayCluster]:
    with quiet(), ray_cluster() as running:
        yield running


def test_queued_work_starts_a_second_replica_and_its_end_stops_it(cluster: RayCluster, checkpoint: Path) -> None:
    scaling = {
        "min_replicas": 1,
        "max_replicas": 2,
        "look_back_period_s": 2.0,
        "upscale_delay_s": 1.0,
        "downscale_delay_s": 3.0,
        "policy": {"policy_function": "deploy.ray.scaling:QueuedWork", "policy_kwargs": {"target_tokens": 500}},
    }
    settings = {"model": str(checkpoint), "max_running": 4}
    cluster.deploy("tests.deploy.ray_models:slow", {"autoscaling_config": scaling}, settings=settings)
    cluster.await_whole(1)
    with ExitStack() as ending:
        streams = [_ask(cluster.url, f"{i} waits", ending) for i in range(16)]  # of 100 tokens, 10 s, and four at a time
        cluster.await_whole(2)
        assert [stream.wait(PATIENCE_SECONDS) for stream in streams] == [0] * 16, "also those of the replica that is stopped"
    cluster.await_whole(1)


def _ask(url: str, prompt: str, ending: ExitStack) -> "subprocess.Popen[bytes]":
    """In a process of its own, which ends with the stack: whether all tokens of a stream came, by its exit code."""
    code = (
        "import httpx, sys\n"
        f"body = {{'inputs': {prompt!r}, 'parameters': {{'max_new_tokens': 100}}}}\n"
        f"with httpx.stream('POST', '{url}/generate_stream', json=body, timeout=120) as answer:\n"
        "    lines = [line for line in answer.iter_lines() if line.startswith('data:')]\n"
        "sys.exit(len(lines) != 100 or 'error' in lines[-1])\n"
    )
    process = ending.enter_context(subprocess.Popen([sys.executable, "-c", code]))
    ending.callback(process.kill)
    return process


def test_an_update_that_cannot_start_leaves_a_replica_of_before(cluster: RayCluster, checkpoint: Path, damaged: Path) -> None:
    builder, two = "deploy.ray:build", {"num_replicas": 2}
    cluster.deploy(builder, two, settings={"model": str(checkpoint)})
    cluster.await_whole(2)
    cluster.deploy(builder, two, settings={"model": str(damaged)})
    tried: list[int] = []

    def has_failed() -> bool:
        answer = httpx.post(f"{cluster.url}/generate", json={"inputs": f"{len(tried)}"}, timeout=PATIENCE_SECONDS)
        tried.append(answer.status_code)
        return "DEPLOY_FAILED" in cluster.status().status

    until(has_failed, pause=0.2)
    assert set(tried) == {200}
    assert "is damaged" in str(cluster.status().deployments["Replica"].message)


class Command:
    """`python -m deploy.ray` as a process of its own."""

    def __init__(self, directory: Path, checkpoint: Path, *options: str) -> None:
        self.port, self.log = free_port(), directory / "log"
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("GPT2_", "RAY_"))}
        settings = {"GPT2_MODEL": str(checkpoint), "GPT2_PORT": str(self.port)}
        with self.log.open("wb") as log:
            command = [sys.executable, "-m", "deploy.ray", *options]
            self.process = subprocess.Popen(
                command, cwd=ROOT, env=clean | ENVIRONMENT | settings, stdout=log, stderr=subprocess.STDOUT
            )

    @property
    def lines(self) -> list[str]:
        return [line for line in self.log.read_text(errors="replace").splitlines() if line.startswith("gpt2: ")]


def test_sigterm_of_the_whole_lets_streams_finish_and_ends_with_0(tmp_path: Path, checkpoint: Path) -> None:
    command = Command(tmp_path, checkpoint, "--replicas", "1")
    try:
        until(lambda: command.lines or command.process.poll() is not None, pause=0.1)
        url = f"http://127.0.0.1:{command.port}"
        assert command.lines == [f"gpt2: ready at {url}"], command.log.read_text()[-2000:]
        body = {"inputs": "hello", "parameters": {"max_new_tokens": 1000, "ignore_eos": True}}
        with httpx.stream("POST", f"{url}/generate_stream", json=body, timeout=PATIENCE_SECONDS) as answer:
            lines = answer.iter_lines()
            first = next(lines)
            command.process.send_signal(signal.SIGTERM)
            rest = [line for line in lines if line]
        assert first.startswith("data: ")
        assert len(rest) == 999
        assert '"generated_tokens":1000' in rest[-1]
        assert command.process.wait(PATIENCE_SECONDS) == 0
    finally:
        command.process.kill()
        command.process.wait()


def test_a_checkpoint_that_replicas_cannot_load_ends_the_command_after_three_tries(tmp_path: Path, damaged: Path) -> None:
    started = time.monotonic()
    command = Command(tmp_path, damaged)
    try:
        assert command.process.wait(PATIENCE_SECONDS) == 78
    finally:
        command.process.kill()
        command.process.wait()
    assert time.monotonic() - started > 3 * 3.0, "a pause before each try that follows"
    [line] = command.lines
    assert line.startswith(f"gpt2: GPT2_MODEL: {damaged}/model.safetensors is damaged")
