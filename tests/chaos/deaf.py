"""A service whose log goes where nobody reads it: to a full disk, into a pipe whose reader has gone, into one that is full."""

import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import httpx

from tests.chaos.service import PATIENCE_SECONDS, tiny_checkpoint
from tests.ports import free_port

NUM_REQUESTS = 100  # whose lines fill a pipe of a page twice
OUTPUTS = ("a full disk", "a pipe that has closed", "a pipe that nobody reads")


def answers_all(output: str) -> bool:
    """Whether such a service answers NUM_REQUESTS and ends when it is told to."""
    with _standard_error(output) as stream, _service(stream) as (process, url), httpx.Client(base_url=url, timeout=30) as client:
        is_well = all(_is_answered(client) for _ in range(NUM_REQUESTS))
        process.terminate()
        return is_well and process.wait(60) == 0


def _is_answered(client: httpx.Client) -> bool:
    try:
        return client.post("/generate", json={"inputs": "a", "parameters": {"max_new_tokens": 1}}).status_code == 200
    except httpx.HTTPError:
        return False


@contextmanager
def _standard_error(output: str) -> Iterator[BinaryIO]:
    if output == "a full disk":
        with Path("/dev/full").open("wb") as full:
            yield full
        return
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
    if output == "a pipe that has closed":
        os.close(reading)
    with os.fdopen(writing, "wb") as stream:
        yield stream
    if output == "a pipe that nobody reads":
        os.close(reading)


@contextmanager
def _service(stream: BinaryIO) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """On a port by its number, since its address would be in the log."""
    port = free_port()
    settings = {"GPT2_MODEL": str(tiny_checkpoint()), "GPT2_PORT": str(port), "GPT2_DEVICE": "cpu", "GPT2_LOG_FORMAT": "console"}
    process = subprocess.Popen([sys.executable, "-m", "app", "serve"], env=os.environ | settings, stdout=stream, stderr=stream)
    try:
        url = f"http://127.0.0.1:{port}"
        _wait_until_ready(process, url)
        yield process, url
    finally:
        process.kill()
        process.wait()


def _wait_until_ready(process: subprocess.Popen[bytes], url: str) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if httpx.get(f"{url}/health/ready").status_code == 200:
                return
        except httpx.HTTPError:
            time.sleep(0.05)
    raise AssertionError(f"the service did not come up: {process.poll()}")
