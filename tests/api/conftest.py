"""Helpers of the HTTP tests: reading streams, waiting without a clock, a runner that stops between steps, clients that leave."""

import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from typing import Any, Protocol

import httpx
import pytest

from model.batch import NOT_FINITE, Capabilities, Chunk, ChunkOutput, ForwardBatch, Runner, SampledToken, StepOutput

Json = dict[str, Any]
PATIENCE_SECONDS = 120  # no test measures time: this only ends a test that would hang


class Running(Protocol):
    url: str
    service: Any

    def metric(self, name: str, **labels: str) -> float: ...


def _parse(line: str) -> Json | str:
    data = line.removeprefix("data: ")
    return data if data == "[DONE]" else json.loads(data)


@pytest.fixture(scope="module")
def client(server: Running) -> Iterator[httpx.Client]:
    """One connection for a module's many small requests."""
    with httpx.Client(base_url=server.url, timeout=PATIENCE_SECONDS) as client:
        yield client


@pytest.fixture
def sse() -> Callable[[httpx.Response], list[Any]]:
    """The events of a streamed response, read to its end; comments are left out, `[DONE]` stays a string."""

    def read(response: httpx.Response) -> list[Any]:
        response.read()
        return [_parse(line) for line in response.text.splitlines() if line.startswith("data: ")]

    return read


@pytest.fixture
def generate(client: httpx.Client) -> Callable[..., Json]:
    """POST /generate with details; the answer of a request that succeeds."""

    def post(inputs: object = "The old man", **parameters: object) -> Json:
        response = client.post("/generate", json={"inputs": inputs, "parameters": {"details": True, **parameters}})
        assert response.status_code == 200, response.text
        return response.json()

    return post


@pytest.fixture
def stream(client: httpx.Client, sse: Callable[[httpx.Response], list[Any]]) -> Callable[..., list[Any]]:
    """The events of POST /generate_stream."""

    def post(inputs: object = "The old man", **parameters: object) -> list[Any]:
        response = client.post("/generate_stream", json={"inputs": inputs, "parameters": parameters})
        assert response.status_code == 200, response.text
        return sse(response)

    return post


@pytest.fixture
def complete(client: httpx.Client) -> Callable[..., Json]:
    """POST /v1/completions; the answer of a request that succeeds."""

    def post(prompt: object = "The old man", **fields: object) -> Json:
        response = client.post("/v1/completions", json={"prompt": prompt, "seed": 1, **fields})
        assert response.status_code == 200, response.text
        return response.json()

    return post


@pytest.fixture
def chunks(client: httpx.Client, sse: Callable[[httpx.Response], list[Any]]) -> Callable[..., list[Any]]:
    """The same, streamed."""

    def post(prompt: object = "The old man", **fields: object) -> list[Any]:
        response = client.post("/v1/completions", json={"prompt": prompt, "seed": 1, "stream": True, **fields})
        assert response.status_code == 200, response.text
        return sse(response)

    return post


@pytest.fixture
def eventually() -> Callable[[Callable[[], object]], None]:
    """Wait until something is true."""

    def wait(condition: Callable[[], object]) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not condition():
            assert time.monotonic() < deadline, "what was waited for did not come"
            time.sleep(0.005)

    return wait


class Done:
    """A step whose output is known."""

    def __init__(self, output: StepOutput) -> None:
        self._output = output

    def collect(self) -> StepOutput:
        return self._output


class SteppedRunner:
    """The real runner behind a gate that lets as many steps through as it is told; it can also be told to fail."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._permits = threading.Semaphore(0)
        self._opened = threading.Event()
        self.arrived: list[ForwardBatch] = []  # batches that have come to the gate
        self.script: list[int] = []  # token ids to draw instead of the model's own
        self.poisoned_token: int | None = None  # a chunk that holds it computes no number
        self.failures: list[Exception] = []  # the next steps raise these, and again when they are run again in parts
        self._error: Exception | None = None
        self._num_again = 0

    def __getattr__(self, name: str) -> Any:  # whatever the runner has
        return getattr(self._runner, name)

    @property
    def capabilities(self) -> Capabilities:
        return replace(self._runner.capabilities, num_steps=1)  # a step is a token here

    def launch(self, batch: ForwardBatch) -> Done:
        if self._num_again:
            self._num_again -= 1
            raise self._error
        self.arrived.append(batch)
        if not self._opened.is_set():
            self._permits.acquire()
        if self.failures:
            self._error = self.failures.pop(0)
            num_rows = sum(len(chunk.draws) or 1 for chunk in batch.chunks)
            self._num_again = max(2 * num_rows - 2, 1)  # as often as it takes to halve it, where no part goes well
            raise self._error
        output = self._runner.launch(batch).collect()
        return Done(StepOutput(tuple(self._changed(chunk, out) for chunk, out in zip(batch.chunks, output.chunks, strict=True))))

    def _changed(self, chunk: Chunk, output: ChunkOutput) -> ChunkOutput:
        if self.poisoned_token in chunk.token_ids:
            return ChunkOutput(error=NOT_FINITE)
        tokens = tuple(tuple(self._scripted(token) for token in drawn) for drawn in output.tokens)
        return output._replace(tokens=tokens)

    def _scripted(self, token: SampledToken) -> SampledToken:
        return token._replace(token_id=self.script.pop(0)) if self.script else token

    def let_through(self, num_steps: int) -> None:
        for _ in range(num_steps):
            self._permits.release()

    def open(self) -> None:
        self._opened.set()
        self._permits.release()


@pytest.fixture
def stepped_server(start_server: Callable[..., Running]) -> Iterator[Callable[..., tuple[Running, SteppedRunner]]]:
    """Start a server whose engine stands still until the runner that comes with it lets steps through."""
    runners: list[SteppedRunner] = []

    def start(**settings: object) -> tuple[Running, SteppedRunner]:
        def wrap(runner: Runner) -> SteppedRunner:
            runners.append(SteppedRunner(runner))
            return runners[-1]

        return start_server(runner=wrap, **settings), runners[-1]

    yield start
    for runner in runners:
        runner.open()  # or the server could not stop


class Caller:
    """A client by hand on a bare socket: it sends a request and may leave at any moment."""

    def __init__(self, url: str, path: str, body: object) -> None:
        host, port = url.removeprefix("http://").split(":")
        content = json.dumps(body).encode()
        self._socket = socket.create_connection((host, int(port)), timeout=PATIENCE_SECONDS)
        head = f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
        self._socket.sendall(head.encode() + content)

    def leave(self) -> None:
        self._socket.close()


@pytest.fixture
def call() -> Iterator[Callable[..., Caller]]:
    """Send a request without waiting for its answer."""
    callers: list[Caller] = []

    def send(server: Running, path: str, body: object) -> Caller:
        callers.append(Caller(server.url, path, body))
        return callers[-1]

    yield send
    for caller in callers:
        caller.leave()


@pytest.fixture
def no_telemetry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without what this machine says of traces; where a test asks for some, they leave soon."""
    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")


@pytest.fixture
def collector() -> Iterator[Any]:
    from tests.api.collector import Collector  # needs the extra `otel`

    with closing(Collector()) as collector:
        yield collector


class Background:
    """A request in a thread of its own."""

    def __init__(self, url: str, path: str, body: object) -> None:
        self._response: httpx.Response | None = None
        self._thread = threading.Thread(target=self._post, args=(url + path, body), daemon=True)
        self._thread.start()

    def _post(self, url: str, body: object) -> None:
        self._response = httpx.post(url, json=body, timeout=PATIENCE_SECONDS)

    @property
    def response(self) -> httpx.Response:
        self._thread.join(PATIENCE_SECONDS)
        assert self._response is not None, "no answer came"
        return self._response


@pytest.fixture
def in_background() -> Callable[..., Background]:
    """Send a request and go on; its `response` waits for the answer."""
    return lambda server, path, body: Background(server.url, path, body)


@pytest.fixture
def raw_answer(server: Running) -> Callable[[bytes], bytes]:
    """Send bytes to the server and return all that comes back until it closes the connection."""

    def send(request: bytes) -> bytes:
        host, port = server.url.removeprefix("http://").split(":")
        with closing(socket.create_connection((host, int(port)), timeout=PATIENCE_SECONDS)) as connection:
            connection.sendall(request)
            chunks = []
            while chunk := connection.recv(65536):
                chunks.append(chunk)
            return b"".join(chunks)

    return send


@pytest.fixture
def serve(tiny_checkpoint):
    """Start `gpt2 serve` as a process of its own, with options; it ends with the test."""
    from tests.api.test_shutdown import Process  # here, or its assertions would be imported before pytest has rewritten them

    processes = []

    def start(*options):
        processes.append(Process(tiny_checkpoint, *options))
        return processes[-1]

    yield start
    for process in processes:
        process.end()
