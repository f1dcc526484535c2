"""The host's own work a token, beside a runner that computes nothing: 64 sequences, at 1 and at 8 steps a call, layer by layer.

    python -m benchmarks.host_work

At most 6 us wanted for events and launches together at 8 steps a call, or a GPU would wait for its host. It is processor time
between two steps in which all decode, medians of rounds; a layer holds those above it, and each step is served before the next.
Apart from these, `launch` is what CUDA's runner does on the host to launch a step and to read it.
"""

import argparse
import asyncio
import contextlib
import gc
import logging
import multiprocessing
import statistics
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from concurrent.futures import ProcessPoolExecutor
from typing import Any
from unittest import mock

import orjson
import uvloop
from fastapi import FastAPI
from starlette.types import ASGIApp, Message

from app.api.outputs import PING_SECONDS
from app.bench.dialects import DIALECTS
from app.bench.exchange import Endpoint
from app.bench.load import ClosedLoop, run_load
from app.bootstrap import Service, build_service, make_engine
from app.engine.client import EngineClient
from app.engine.engine import StepResult
from app.engine.sequence import EngineRequest
from app.engine.worker import Command, Publish, Worker
from app.generation import GenerationRequest, TextGenerator
from app.logs import configure_logging
from app.main import create_app
from app.server import Server
from app.settings import DEFAULT_MODEL, Settings
from benchmarks.idle_kernels import launch_microseconds
from benchmarks.machine import VOCABULARY, prompts_of, write_result
from model.batch import Capabilities, Chunk, ChunkOutput, ForwardBatch, Runner, SampledToken, SamplingParams, StepOutput
from model.checkpoint import load_tokenizer
from model.choice import Chosen
from model.steps import Done

NUM_SEQUENCES, NUM_PROMPT, NUM_NEW = 64, 32, 193
SERVING_SECONDS = 60e-6  # a token over sockets takes no longer: so long a step takes for each, that the next one finds it served
SETTINGS = Settings(port=0, max_running=NUM_SEQUENCES, _env_file=None)
TOKENIZER = load_tokenizer(DEFAULT_MODEL)
PROMPTS = prompts_of(TOKENIZER, NUM_PROMPT, NUM_SEQUENCES)
GENERATE = [{"inputs": prompt, "parameters": {"max_new_tokens": NUM_NEW, "ignore_eos": True}, "stream": True} for prompt in PROMPTS]
COMPLETIONS = [{"prompt": prompt, "max_tokens": NUM_NEW, "ignore_eos": True, "stream": True} for prompt in PROMPTS]


class IdleRunner:
    """Answers at once, with the tokens of a text by their positions; `seconds` pass in each step, if a reader is to keep up."""

    num_slots, max_positions, vocab_size = NUM_SEQUENCES, 512, TOKENIZER.vocab_size

    def __init__(self, num_steps: int) -> None:
        self.capabilities = Capabilities(exact_at_any_cut=True, max_draws=64, num_steps=num_steps)
        self.seconds = 0.0
        self.begun: list[float] = []  # when steps began in which all decode
        ids = TOKENIZER.encode((VOCABULARY / "shakespeare.txt").read_text(encoding="utf-8"))[: self.max_positions + num_steps]
        tokens = tuple(SampledToken(token_id, -(1 + i % 97) / 7) for i, token_id in enumerate(ids))
        # By the number of tokens drawn, then by position: nothing is made anew within a step.
        self._outputs = [[ChunkOutput((tokens[i : i + n],)) for i in range(len(tokens))] for n in range(num_steps + 1)]

    def warm_up(self) -> None:
        pass

    def launch(self, batch: ForwardBatch) -> Done:
        if len(batch.chunks) == NUM_SEQUENCES and all(chunk.start >= NUM_PROMPT for chunk in batch.chunks):
            self.begun.append(time.process_time())
        if self.seconds:
            time.sleep(self.seconds)
        return Done(StepOutput(tuple([self._output(chunk, batch.num_steps) for chunk in batch.chunks])))

    def _output(self, chunk: Chunk, num_steps: int) -> ChunkOutput:
        return self._outputs[min(num_steps, chunk.draws[0].max_new)][chunk.end] if chunk.draws else ChunkOutput()

    def copy_prefix(self, source: int, target: int, length: int) -> None:
        raise AssertionError("these prompts share nothing")

    @property
    def microseconds(self) -> float:
        """A token's, from one of those steps to the next."""
        num_tokens = (len(self.begun) - 1) * NUM_SEQUENCES * self.capabilities.num_steps
        assert num_tokens > NUM_SEQUENCES * NUM_NEW // 2
        return (self.begun[-1] - self.begun[0]) / num_tokens * 1e6


class WorkerByHand:
    """A worker that takes its turns when it is told to, on the event loop's own thread."""

    is_alive = True

    def __init__(self, runner: IdleRunner, publish: Publish) -> None:
        self._worker = Worker(make_engine(SETTINGS, runner), publish)
        self._worker.warm_up()

    def send(self, command: Command) -> None:
        self._worker.commands.put(command)

    def join(self, seconds: float) -> bool:
        return True

    async def serve(self, readers: Iterable[Coroutine[Any, Any, None]]) -> None:
        """Take turns until all readers are done; between two turns they read whatever is there."""
        tasks = [asyncio.create_task(reader) for reader in readers]
        while not all(task.done() for task in tasks):
            for _ in range(4):  # the engine's callback, the readers it wakes, and those whom they wake
                await asyncio.sleep(0)
            self._worker.turn(0.0)
        await asyncio.gather(*tasks)


class Writes:
    """The server's side of an exchange: gives a body, and counts what the application writes."""

    def __init__(self, path: str, body: object) -> None:
        self.num_writes = 0
        self._scope = {"type": "http", "method": "POST", "path": path, "headers": [], "query_string": b"", "http_version": "1.1"}
        self._body = orjson.dumps(body)
        self._left = asyncio.Event()

    async def run(self, app: ASGIApp) -> None:
        await app(self._scope, self._receive, self._send)
        self._left.set()

    async def _receive(self) -> Message:
        body, self._body = self._body, b""
        if not body:
            await self._left.wait()
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": body, "more_body": False}

    async def _send(self, message: Message) -> None:
        self.num_writes += len(message.get("body", b"")) > 0


def build(runner: Runner, settings: Settings = SETTINGS) -> tuple[Service, FastAPI]:
    chosen = Chosen(runner, "none", "idle", "none", "none", 0)
    with mock.patch("app.bootstrap.choose_runner", return_value=chosen):
        service = build_service(settings, lambda line: None)
    app = create_app(settings, service.generator, service.info, service.metrics, service.chat, service.lane, service.keys)
    gc.collect()
    gc.freeze()  # as `gpt2 serve` does
    return service, app


@contextlib.asynccontextmanager
async def by_hand(runner: IdleRunner) -> AsyncIterator[tuple[TextGenerator, FastAPI, WorkerByHand]]:
    """A service whose engine runs when its worker is told to."""
    (service, app), workers = build(runner), list[WorkerByHand]()
    client = service.generator.client

    def start_worker(publish: Publish) -> WorkerByHand:
        workers.append(WorkerByHand(runner, publish))
        return workers[0]

    def observe(result: StepResult) -> None:
        service.metrics.observe_step(result.stats)

    service.generator.client = EngineClient(start_worker, client.limits, SETTINGS.max_waiting, observe)
    await service.generator.client.start()
    yield service.generator, app, workers[0]
    await service.generator.client.stop()


def engine(runner: IdleRunner) -> None:
    """Planning and publishing alone."""
    engine = make_engine(SETTINGS, runner)
    for i, prompt in enumerate(PROMPTS):
        engine.submit(i, EngineRequest(tuple(TOKENIZER.encode(prompt)), SamplingParams(), NUM_NEW))
    while engine.has_work:
        engine.step()


def text(runner: IdleRunner) -> None:
    """With delivery to readers, and text."""

    async def read(generator: TextGenerator, prompt: str) -> None:
        generation = await generator.start(GenerationRequest((prompt,), SamplingParams(), NUM_NEW, ignore_eos=True))
        while not generation.is_finished:
            await generation.next(PING_SECONDS)

    async def run() -> None:
        async with by_hand(runner) as (generator, _, worker):
            await worker.serve(read(generator, prompt) for prompt in PROMPTS)

    uvloop.run(run())


def events(runner: IdleRunner, path: str, bodies: list[dict[str, Any]]) -> None:
    """With the events of streams as the server is given them."""

    async def run() -> None:
        async with by_hand(runner) as (_, app, worker):
            exchanges = [Writes(path, body) for body in bodies]
            await worker.serve(exchange.run(app) for exchange in exchanges)
            assert min(exchange.num_writes for exchange in exchanges) >= len(runner.begun), "a reader has missed a step"

    uvloop.run(run())


def sockets(runner: IdleRunner) -> float:
    """With real ones, and the engine in its thread; returns the client's own microseconds a token, in a process apart."""
    runner.seconds = SERVING_SECONDS * NUM_SEQUENCES * runner.capabilities.num_steps
    (_, app), addresses, ready = build(runner), list[str](), threading.Event()
    server = Server(app, SETTINGS, lambda address: (addresses.append(address), ready.set())[0])
    thread = threading.Thread(target=server.run)
    thread.start()
    ready.wait()
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as beside:
        client_us = beside.submit(read_streams, addresses[0]).result()
    server.should_exit = True
    thread.join()
    return client_us


def read_streams(url: str) -> float:
    started = time.process_time()
    measurement = run_load(Endpoint(url), DIALECTS["generate"], GENERATE, ClosedLoop(NUM_SEQUENCES))
    assert measurement.num_tokens == NUM_SEQUENCES * NUM_NEW, measurement.failed
    return (time.process_time() - started) / measurement.num_tokens * 1e6


LAYERS: dict[str, Callable[[IdleRunner], float | None]] = {
    "engine": engine,
    "text": text,
    "events": lambda runner: events(runner, "/generate", GENERATE),
    "events_openai": lambda runner: events(runner, "/v1/completions", COMPLETIONS),
    "sockets": sockets,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    configure_logging("json")
    logging.getLogger("gpt2").setLevel(logging.WARNING)
    result = {f"{n}_steps": measured(n, options.rounds) for n in (1, 8)}
    write_result("host_work", "python -m benchmarks.host_work", result)


def measured(num_steps: int, rounds: int) -> dict[str, float]:
    """Microseconds a token by layer; of the client's, which are no part of the server's, apart."""
    taken: dict[str, list[float]] = {}
    for _ in range(rounds):
        for name, run in LAYERS.items():
            runner = IdleRunner(num_steps)
            client_us = run(runner)
            taken.setdefault(name, []).append(runner.microseconds)
            if client_us is not None:
                taken.setdefault("sockets_client", []).append(client_us)
        taken.setdefault("launch", []).append(launch_microseconds(NUM_SEQUENCES, num_steps))
    medians = {name: round(statistics.median(values), 2) for name, values in taken.items()}
    print(f"{num_steps} steps a call, us a token: {medians}")
    return medians


if __name__ == "__main__":
    main()
