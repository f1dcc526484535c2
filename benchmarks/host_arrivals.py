"""The host beside a card that keeps it waiting: requests that come and go, by the number of clients, without a card.

    python -m benchmarks.host_arrivals

CUDA's runner without anything that computes; a launch lasts as long as an H100 was measured to take for it, and its graphs keep a
core busy without the interpreter's lock, as a driver does. Clients are in the server's own event loop, without sockets, each with
one request after another: a prompt of 128 tokens, 128 new ones.
"""

import argparse
import asyncio
import logging
import statistics
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
import uvloop
from fastapi import FastAPI
from starlette.types import Message

from app.commands.serve import SWITCH_SECONDS
from app.logs import configure_logging
from app.settings import Settings
from benchmarks.host_work import TOKENIZER, Writes, build
from benchmarks.idle_kernels import CONFIG, IdleGraphs
from benchmarks.machine import prompts_of, write_result
from model.batch import Capabilities, ForwardBatch, Launched, StepOutput
from model.cuda.graphs import Captured
from model.cuda.kernel_set import TWINS
from model.cuda.runner import CudaRunner
from model.gpt2 import GPT2

NUM_PROMPT, NUM_NEW, NUM_EACH = 128, 128, 3
STEP_SECONDS, ROW_SECONDS, PROMPT_TOKEN_SECONDS = 450e-6, 6.3e-6, 2.5e-6  # as an H100 was measured
DRIVER_BYTES = bytes(100_000)  # whose checksum takes some 10 microseconds, as a graph's launch does


class DrivenGraphs(IdleGraphs):
    """Graphs whose launch takes the driver a while."""

    def run(self, key: Captured, function: Callable[[int], None]) -> None:
        zlib.crc32(DRIVER_BYTES)
        super().run(key, function)


class Card:
    """CUDA's runner on a card that computes nothing in the time that one takes; notes what the host makes of it."""

    def __init__(self, num_slots: int) -> None:
        self._runner = CudaRunner(GPT2(CONFIG), num_slots, torch.device("cpu"), torch.float32, TWINS)
        self._runner._graphs = DrivenGraphs(self._runner.step)
        self.num_slots, self.max_positions, self.vocab_size = num_slots, CONFIG.n_positions, CONFIG.vocab_size
        self._free_at = 0.0
        self.gaps: list[float] = []  # between two launches, in which the card had nothing to do
        self.num_steps: list[int] = []
        self.engine_seconds = 0.0  # of processor time of the thread that launches

    @property
    def capabilities(self) -> Capabilities:
        return self._runner.capabilities

    def warm_up(self) -> None:
        pass

    def copy_prefix(self, source: int, target: int, length: int) -> None:
        self._runner.copy_prefix(source, target, length)

    def launch(self, batch: ForwardBatch) -> Launched:
        launched = self._runner.launch(batch)
        now, num_prompt = time.perf_counter(), batch.num_tokens - len(batch.chunks)
        self.gaps.append(max(now - self._free_at, 0.0))
        self.num_steps.append(batch.num_steps)
        seconds = batch.num_steps * (STEP_SECONDS + len(batch.chunks) * ROW_SECONDS) + num_prompt * PROMPT_TOKEN_SECONDS
        self._free_at = max(now, self._free_at) + seconds
        self.engine_seconds = time.thread_time()
        return OnCard(launched, self._free_at)


class OnCard:
    """A launch that is done at a time."""

    def __init__(self, launched: Launched, done_at: float) -> None:
        self._launched, self._done_at = launched, done_at

    def collect(self) -> StepOutput:
        time.sleep(max(self._done_at - time.perf_counter(), 0.0))
        return self._launched.collect()


class Client(Writes):
    """An exchange that notes when its first event was written."""

    first: float | None = None

    async def _send(self, message: Message) -> None:
        await super()._send(message)
        if self.first is None and self.num_writes:
            self.first = time.perf_counter()


async def _load(app: FastAPI, bodies: Iterator[dict[str, Any]], num_clients: int) -> list[float]:
    """Seconds to the first event of every request."""
    first: list[float] = []

    async def client() -> None:
        for body in bodies:
            started, exchange = time.perf_counter(), Client("/generate", body)
            await exchange.run(app)
            assert exchange.first is not None
            first.append(exchange.first - started)

    await asyncio.gather(*(client() for _ in range(num_clients)))
    return first


def measured(num_clients: int) -> dict[str, float]:
    card, settings = Card(max(num_clients, 8)), Settings(port=0, max_running=max(num_clients, 8), _env_file=None)
    service, app = build(card, settings)
    num_requests = max(num_clients * NUM_EACH, 24)
    prompts = prompts_of(TOKENIZER, NUM_PROMPT, num_requests)
    parameters = {"max_new_tokens": NUM_NEW, "ignore_eos": True}
    bodies = [{"inputs": prompt, "parameters": parameters, "stream": True} for prompt in prompts]

    async def run() -> dict[str, float]:
        await service.generator.client.start()
        began, loop_began = time.perf_counter(), time.thread_time()
        first = await _load(app, iter(bodies), num_clients)
        seconds, loop_seconds, num_tokens = time.perf_counter() - began, time.thread_time() - loop_began, num_requests * NUM_NEW
        await service.generator.client.stop()
        return {
            "tokens_per_second": round(num_tokens / seconds),
            "event_loop_us": round(loop_seconds / num_tokens * 1e6, 2),
            "engine_us": round(card.engine_seconds / num_tokens * 1e6, 2),
            "steps_a_launch": round(statistics.mean(card.num_steps), 2),
            "gap_us": round(statistics.median(card.gaps) * 1e6),
            "first_token_ms": round(statistics.median(first) * 1e3, 2),
        }

    return uvloop.run(run())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 64, 256])
    options = parser.parse_args()
    configure_logging("json")
    logging.getLogger("gpt2").setLevel(logging.WARNING)
    sys.setswitchinterval(SWITCH_SECONDS)
    result = {}
    for num_clients in options.clients:
        result[str(num_clients)] = measured(num_clients)
        print(f"{num_clients} clients: {result[str(num_clients)]}", flush=True)
    write_result("host_arrivals", "python -m benchmarks.host_arrivals", result)


if __name__ == "__main__":
    main()
