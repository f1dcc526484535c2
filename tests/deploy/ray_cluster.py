"""A Ray cluster of this machine alone, for as long as a test takes, and the service on it, seen from outside."""

import os
import re
import shutil
import signal
import tempfile
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import httpx
import psutil

from deploy.ray.environment import FOR_RAY
from tests.chaos.service import PATIENCE_SECONDS, until
from tests.ports import free_port

ROOT = Path(__file__).parents[2]
MEGABYTES = 1_000_000
ENVIRONMENT = {
    "PYTHONPATH": str(ROOT),
    **FOR_RAY,
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_SERVE_REPLICA_AUTOSCALING_METRIC_PUSH_INTERVAL_S": "0.5",
    "GPT2_LOG_FORMAT": "json",
    "GPT2_DEVICE": "cpu",
}
SAMPLE = re.compile(r'(\w+)\{replica="(\w+)"(?:,(.*))?\} (\S+)')


class RayCluster:
    """Serve with its proxy at `url`; `deploy` is what `serve run` does."""

    def __init__(self, port: int) -> None:
        self.url, self.headers = f"http://127.0.0.1:{port}", dict[str, str]()

    def deploy(self, builder: str = "deploy.ray:build", changes: Mapping[str, Any] | None = None, **arguments: Any) -> None:
        """What `serve deploy` does with a file that says this; another call updates the deployment before it.

        `changes` are those of the deployment Replica that Ray makes in place.
        """
        from ray.serve.context import _get_global_client
        from ray.serve.schema import ServeDeploySchema

        application: dict[str, Any] = {"name": "default", "route_prefix": "/", "import_path": builder, "args": arguments}
        if changes is not None:
            application["deployments"] = [{"name": "Replica", **changes}]
        with quiet():
            _get_global_client().deploy_apps(ServeDeploySchema.model_validate({"applications": [application]}), _blocking=False)

    def is_whole(self, num_replicas: int) -> bool:
        """So many replicas run, and none starts, stops or is of an older deployment."""
        status = self.status()
        states = {name: dict(deployment.replica_states) for name, deployment in status.deployments.items()}
        is_told = status.status == "RUNNING" and states.get("Replica") == {"RUNNING": num_replicas}
        return is_told and len(self.replicas()) == num_replicas  # Ray has yet to find a death that has just been

    def await_whole(self, num_replicas: int) -> float:
        """How many seconds it took."""
        return until(lambda: self.is_whole(num_replicas), pause=0.05)

    def status(self) -> Any:  # Ray's own document
        from ray import serve

        return serve.status().applications["default"]

    def replicas(self) -> list[psutil.Process]:
        """The processes that hold a model."""
        found = psutil.process_iter(["cmdline"])
        mine = {child.pid for child in psutil.Process().children(recursive=True)}
        return [p for p in found if p.pid in mine and p.info["cmdline"] and "ServeReplica:default:Replica" in p.info["cmdline"][0]]

    def kill_one(self) -> int:
        """Without a word, as when memory runs out."""
        process = self.replicas()[0]
        process.send_signal(signal.SIGKILL)
        process.wait(PATIENCE_SECONDS)
        return process.pid

    def metrics(self) -> dict[str, dict[str, float]]:
        """Every sample by its name with labels, a replica at a time."""
        text = httpx.get(f"{self.url}/metrics", headers=self.headers, timeout=PATIENCE_SECONDS).raise_for_status().text
        samples: dict[str, dict[str, float]] = defaultdict(dict)
        for line in text.splitlines():
            if found := SAMPLE.fullmatch(line):
                name, replica, labels, value = found.groups()
                samples[replica][f"{name}{{{labels}}}" if labels else name] = float(value)
        return samples

    def total(self, name: str) -> float:
        return sum(samples[name] for samples in self.metrics().values())


@contextmanager
def ray_cluster(num_cpus: int = 2, **environment: str) -> Iterator[RayCluster]:
    """Whatever a test deploys there ends with it."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("GPT2_", "RAY_"))}
    directory = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # short: sockets lie in it
    port = free_port()
    with patch.dict(os.environ, kept | ENVIRONMENT | environment, clear=True), quiet(), ExitStack() as ending:
        import ray
        from ray import serve

        ending.callback(shutil.rmtree, directory, ignore_errors=True)
        ending.callback(ray.shutdown)
        ray.init(
            num_cpus=num_cpus,
            include_dashboard=False,
            object_store_memory=100 * MEGABYTES,
            _temp_dir=directory,
            log_to_driver=False,
            logging_level="ERROR",
        )
        ending.callback(serve.shutdown)  # not before: it would start a Ray of its own
        serve.start(http_options={"host": "127.0.0.1", "port": port}, logging_config={"log_level": "ERROR"})
        yield RayCluster(port)


@contextmanager
def quiet() -> Iterator[None]:
    """Ray warns of what it will do otherwise one day; that is not for the tests of this project to fail by."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def eventually(is_so: Callable[[], object]) -> None:
    """Where asking fails while things change."""

    def holds() -> object:
        try:
            return is_so()
        except (httpx.HTTPError, KeyError):
            return False

    until(holds, pause=0.1)
