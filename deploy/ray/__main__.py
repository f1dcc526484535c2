"""Replicas on this machine, from one command to one signal: GPT2_* say what is served, the options how often.

    GPT2_MODEL=/models/gpt2 python -m deploy.ray --replicas 2

On a cluster that is there already, `serve deploy deploy/ray/serve.yaml` does the same.
"""

import argparse
import os
import queue
import re
import signal
import sys
import tempfile

from pydantic import ValidationError

import ray
from app.errors import StartupError
from app.listening import is_loopback, take_address
from app.settings import Settings
from deploy.ray.application import Arguments, build
from deploy.ray.replica import settings_of
from model.checkpoint import CheckpointError, resolve_model
from model.machine import num_cuda_devices
from ray import serve

OBJECT_STORE_BYTES = 100_000_000  # nothing large is ever passed through it
REASON = re.compile(r"Unstartable: exit code 78: (.*)")


def main() -> int:
    """The exit code: 78, with a line, for what is to be mended first."""
    try:
        arguments = _arguments()
        settings = settings_of({})
        check(settings, arguments)
        _serve(settings, arguments)
    except StartupError as error:
        print(f"gpt2: {error}", file=sys.stderr, flush=True)
        return error.exit_code
    return 0


def _arguments() -> Arguments:
    parser = argparse.ArgumentParser(prog="python -m deploy.ray", description=__doc__.partition("\n")[0])
    for name in ("replicas", "max_replicas", "target_tokens", "cpus", "gpus", "max_ahead", "doors"):
        field = Arguments.model_fields[name]
        parser.add_argument(f"--{name.replace('_', '-')}", type=field.annotation, default=field.default, help=field.description)
    try:
        return Arguments(**vars(parser.parse_args()))
    except ValidationError as error:
        first = error.errors()[0]
        raise StartupError(f"--{'.'.join(map(str, first['loc']))}: {first['msg']}, not {first['input']!r}") from None


def check(settings: Settings, arguments: Arguments) -> None:
    """What can be known before Ray starts. Raises StartupError, naming the setting."""
    if settings.device == "cuda" and not arguments.gpus:
        raise StartupError("GPT2_DEVICE: cuda needs --gpus above 0, or Ray shows the replicas none of the machine's GPUs")
    _check_room(arguments)
    try:
        resolve_model(settings.model)
    except CheckpointError as error:
        raise StartupError(f"GPT2_MODEL: {error}") from None
    if not settings.port:
        raise StartupError("GPT2_PORT: Ray would not tell which port 0 has become; name one")
    # Ray's proxy shares ports where the system lets it: two services would answer in turn.
    for taken in take_address(settings.host, settings.port):
        taken.close()


def _check_room(arguments: Arguments) -> None:
    """Ray waits without end for what the machine does not have."""
    num, cpus, gpus = arguments.replicas, arguments.cpus, arguments.gpus
    if num * cpus > (found := len(os.sched_getaffinity(0))):
        raise StartupError(
            f"--replicas: {num} of {cpus:g} CPUs need {num * cpus:g}, and this process may use {found}; lower it or --cpus"
        )
    if gpus and num * gpus > (found := num_cuda_devices()):
        raise StartupError(
            f"--gpus: {num} of {gpus:g} GPUs need {num * gpus:g}, and the driver shows this process {found}; lower it or --replicas"
        )


def _serve(settings: Settings, arguments: Arguments) -> None:
    os.environ.setdefault("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))  # where Ray's processes find the same code
    if not is_loopback(settings.host) and not (settings.api_keys or settings.api_keys_file):
        print(f"gpt2: {settings.host} can be reached from other machines, and asks for no API key", file=sys.stderr)
    # Short, since sockets lie in it.
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True) as directory:
        ray.init(include_dashboard=False, object_store_memory=OBJECT_STORE_BYTES, _temp_dir=directory)
        try:
            keep_alive = settings.keep_alive_seconds
            serve.start(http_options={"host": settings.host, "port": settings.port, "keep_alive_timeout_s": keep_alive})
            _run(arguments)
            print(f"gpt2: ready at http://{settings.host}:{settings.port}", file=sys.stderr, flush=True)
            print(f"gpt2: {_ending()}: what is under way may finish", file=sys.stderr, flush=True)
            serve.delete("default")  # doors, then replicas, each once it has nothing under way; the proxy goes after them
        finally:
            serve.shutdown()
            ray.shutdown()


def _ending() -> str:
    """Wait for the signal that ends this; its name. Until now it was Ray's own to take, which ends at once."""
    taken: queue.SimpleQueue[int] = queue.SimpleQueue()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: taken.put(number))
    return signal.Signals(taken.get()).name


def _run(arguments: Arguments) -> None:
    try:
        serve.run(build(arguments))
    except RuntimeError as error:
        message = "\n".join(deployment.message for deployment in serve.status().applications["default"].deployments.values())
        reason = REASON.search(message)
        raise StartupError(reason[1].strip() if reason else f"the replicas do not start: {error}") from None


if __name__ == "__main__":
    sys.exit(main())
