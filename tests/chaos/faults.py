"""Faults of a runner, injected on purpose, and what becomes of the requests: goals 6, 7, 8 and 14."""

import itertools
import json
import logging
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx
from structlog.testing import capture_logs

from app.bootstrap import load
from app.engine.engine import Engine
from app.engine.scheduler import Scheduler
from app.engine.sequence import EngineRequest, FailureOutput, TokensOutput
from app.settings import Settings
from model.batch import NOT_FINITE, ChunkOutput, ForwardBatch, Launched, Runner, SampledToken, SamplingParams, StepOutput
from model.steps import Done
from tests.chaos.goals import Figure, Scale, at_most, exactly, goal
from tests.chaos.service import PATIENCE_SECONDS, until
from tests.conftest import RunningServer, running_server

PAUSE_SECONDS = 0.002
ROW_FAULTS = ("exception", "not a number", "wrong shape", "memory")
LONG = {"inputs": "a", "parameters": {"max_new_tokens": 300, "ignore_eos": True}}


class FaultyRunner:
    """A real runner that fails when it is told to.

    From launch number `after` on, whatever has a chunk of slot `slot` fails in the way `row_fault` names. `strike`, where there is
    one, is called with each batch before it is launched, and may raise, or never return.
    """

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self.num_launches = 0
        self.slots: list[tuple[int, ...]] = []  # of each launch's chunks
        self.row_fault: str | None = None
        self.slot = self.after = 0
        self.has_struck = False
        self.strike: Callable[[ForwardBatch], None] = lambda batch: None

    def __getattr__(self, name: str) -> Any:  # whatever the runner has
        return getattr(self._runner, name)

    def launch(self, batch: ForwardBatch) -> Launched:
        self.num_launches += 1
        self.slots.append(tuple(chunk.slot for chunk in batch.chunks))
        self.strike(batch)
        places = [i for i, chunk in enumerate(batch.chunks) if chunk.slot == self.slot]
        if self.row_fault is None or self.num_launches <= self.after or not places:
            return self._runner.launch(batch)
        self.has_struck = True
        match self.row_fault:
            case "exception":
                raise RuntimeError("injected")
            case "memory":
                raise MemoryError("injected")
            case "not a number":
                self.row_fault = None
                return Done(_replaced(self._runner.launch(batch).collect(), places[0], ChunkOutput(error=NOT_FINITE)))
        more = ChunkOutput(((SampledToken(0, 0.0),),) * 99)
        return Done(_replaced(self._runner.launch(batch).collect(), places[0], more))


def _replaced(output: StepOutput, place: int, out: ChunkOutput) -> StepOutput:
    return StepOutput((*output.chunks[:place], out, *output.chunks[place + 1 :]))


# Goal 6: one of 32 rows.


@goal(6, "One row fails")
def one_row_fails(scale: Scale) -> list[Figure]:
    """Of 32 requests one has a fault at a random step: it alone is to fail, and the others to get the tokens of a clean run."""
    num_faults, num_rows = scale.of(8, 200), scale.of(16, 32)
    faulty = FaultyRunner(load(Settings(max_running=num_rows, device="cpu"), lambda line: None).chosen.runner)
    rng = random.Random(0)
    prompts = [tuple(rng.randrange(faulty.vocab_size) for _ in range(rng.randrange(1, 60))) for _ in range(num_rows)]
    clean, _ = _texts(faulty, prompts)
    clean_slots, num_struck, num_failed, num_changed = faulty.slots, 0, Counter[int](), 0
    for kind in scale.each([*itertools.islice(itertools.cycle(ROW_FAULTS), num_faults)]):
        faulty.num_launches, faulty.slots, faulty.has_struck = 0, [], False
        faulty.row_fault, faulty.after = kind, rng.randrange(len(clean_slots))
        faulty.slot = rng.choice(clean_slots[faulty.after])
        texts, failed = _texts(faulty, prompts)
        faulty.row_fault = None
        num_struck += faulty.has_struck
        num_failed[len(failed)] += 1
        num_changed += sum(texts[i] != clean[i] for i in range(num_rows) if i not in failed)
    return [
        exactly(f"faults of one of {num_rows} rows: exception, not a number, wrong shape, no memory", num_faults, num_struck),
        exactly("of which one request failed", num_faults, num_failed[1]),
        exactly("others whose tokens were not the same", 0, num_changed),
    ]


def _texts(faulty: FaultyRunner, prompts: list[tuple[int, ...]]) -> tuple[dict[int, list[int]], set[int]]:
    """Each prompt's tokens, and which requests failed; a second of the engine's clock is a look at it."""
    seconds = itertools.count()
    engine = Engine(faulty, Scheduler(len(prompts), 128, 256, faulty.capabilities), clock=lambda: float(next(seconds)))
    for i, prompt in enumerate(prompts):
        engine.submit(i, EngineRequest(prompt, SamplingParams(temperature=1.0, seed=i), max_new_tokens=24))
    texts: dict[int, list[int]] = {i: [] for i in range(len(prompts))}
    failed = set()
    while engine.has_work:
        for output in engine.step().outputs:
            if isinstance(output, TokensOutput):
                texts[output.request_id] += output.token_ids
            elif isinstance(output, FailureOutput):
                failed.add(output.request_id)
    return texts, failed


# A server in this process, and clients that ask again and again.


@contextmanager
def faulty_server(**settings: object) -> Iterator[tuple[RunningServer, FaultyRunner]]:
    runners: list[FaultyRunner] = []

    def wrap(runner: Runner) -> FaultyRunner:
        runners.append(FaultyRunner(runner))
        return runners[-1]

    values = {"port": 0, "device": "cpu", **settings}
    quiet = logging.NullHandler()  # or each request, and each fault, would be a line between the figures
    logging.getLogger("gpt2").addHandler(quiet)
    try:
        with capture_logs(), running_server(Settings(**values), wrap) as server:
            yield server, runners[0]
    finally:
        logging.getLogger("gpt2").removeHandler(quiet)


@contextmanager
def load_of(url: str, num_clients: int, endings: Counter[str]) -> Iterator[None]:
    """Clients that stream one answer after another until the block ends; how each answer ended is counted."""
    is_over = threading.Event()

    def ask() -> None:
        with httpx.Client(base_url=url, timeout=PATIENCE_SECONDS) as client:
            while not is_over.is_set():
                endings[ending_of_a_stream(client)] += 1

    with ThreadPoolExecutor(num_clients) as pool:
        clients = [pool.submit(ask) for _ in range(num_clients)]
        try:
            yield
        finally:
            is_over.set()
            for client in clients:
                client.result(2 * PATIENCE_SECONDS)


def ending_of_a_stream(client: httpx.Client, on_first: Callable[[], object] = lambda: None) -> str:
    """whole, error (an event or a status), truncated, or hung."""
    last: dict[str, Any] = {}
    try:
        with client.stream("POST", "/generate_stream", json=LONG) as response:
            if response.status_code != 200:
                time.sleep(0.05)
                return "error"
            for line in response.iter_lines():
                if line.startswith("data: "):
                    last = json.loads(line.removeprefix("data: "))
                    on_first()
    except httpx.TimeoutException:
        return "hung"
    except httpx.TransportError:
        return "truncated"
    return "whole" if last.get("details") else "error" if "error" in last else "truncated"


# Goal 7: an engine that is killed again and again.


@goal(7, "The engine dies")
def kills(scale: Scale) -> list[Figure]:
    """The engine's thread ends under load, again and again: how long until it is ready, and what the clients see."""
    num_kills, seconds_between, endings, seconds = scale.of(2, 50), scale.of(1, 13), Counter[str](), []
    with faulty_server() as (server, faulty), load_of(server.url, 2, endings):
        engine = server.service.generator.client
        for _ in scale.each(range(num_kills)):
            time.sleep(seconds_between)
            died, number = threading.Event(), engine._worker._number

            def kill(batch: ForwardBatch, died: threading.Event = died) -> None:
                faulty.strike = lambda batch: None
                died.set()
                raise SystemExit("killed")

            faulty.strike = kill
            assert died.wait(PATIENCE_SECONDS)
            started = time.monotonic()
            until(lambda number=number: engine._worker._number > number, PAUSE_SECONDS)
            until(lambda: _status(server, "/health/ready") == 200, PAUSE_SECONDS)
            seconds.append(time.monotonic() - started)
        is_lost = engine.lost.is_set()
    return [
        exactly("deaths after which the process went on", num_kills, len(seconds) - is_lost),
        at_most("until it was ready again", 3.0, max(seconds), "s"),
        exactly(f"of {endings.total():,} streams without an end or an error event", 0, endings["truncated"] + endings["hung"]),
    ]


def _status(server: RunningServer, path: str) -> int:
    return httpx.get(server.url + path, timeout=PATIENCE_SECONDS).status_code


# Goal 8: a step that hangs, and prompts that only look like it.


@goal(8, "The engine hangs")
def hangs(scale: Scale) -> list[Figure]:
    return [*_hang(), *_worst_prefills(scale.of(2, 1800), scale.of(4, 32))]


def _hang(stall_seconds: float = 2.0) -> list[Figure]:
    """A step that does not return: how long until its client is told, and what the process makes of it."""
    told: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: told.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("gpt2.engine").addHandler(handler)
    may_go_on, began = threading.Event(), []
    try:
        with faulty_server(stall_seconds=stall_seconds) as (server, faulty):

            def stand_still(batch: ForwardBatch) -> None:
                began.append(time.monotonic())
                may_go_on.wait(PATIENCE_SECONDS)

            faulty.strike = stand_still
            with httpx.Client(base_url=server.url, timeout=PATIENCE_SECONDS) as client:
                ending = ending_of_a_stream(client)
            seconds = time.monotonic() - began[0]
            exit_code = server.server.exit_code
            may_go_on.set()
    finally:
        logging.getLogger("gpt2.engine").removeHandler(handler)
    num_stacks = sum("thread gpt2-engine" in line and "stand_still" in line for line in told)
    return [
        at_most(f"a hang is found, the limit being {stall_seconds:g} s, after", stall_seconds + 1.0, seconds, "s"),
        exactly("clients told by an error", 1, int(ending == "error")),
        exactly("stacks in the log", 1, num_stacks),
        exactly("exit code", 70, exit_code),
    ]


def _worst_prefills(seconds: float, num_clients: int) -> list[Figure]:
    """The longest prompts there can be, all the time: the longest silence of the engine, and answers that were none."""
    statuses, longest = Counter[int](), 0.0
    with faulty_server() as (server, _):
        engine, info, rng = server.service.generator.client, server.service.info, random.Random(0)
        ends_at = time.monotonic() + seconds

        def ask() -> None:
            with httpx.Client(base_url=server.url, timeout=5 * PATIENCE_SECONDS) as client:
                while time.monotonic() < ends_at:
                    prompt = [rng.randrange(info.vocab_size) for _ in range(info.max_total_tokens - 1)]
                    statuses[client.post("/v1/completions", json={"prompt": prompt, "max_tokens": 1}).status_code] += 1

        with ThreadPoolExecutor(num_clients) as pool:
            clients = [pool.submit(ask) for _ in range(num_clients)]
            while not all(client.done() for client in clients):
                longest = max(longest, engine._worker._supervisor.silent_seconds)
                time.sleep(0.02)
        for client in clients:
            client.result()
        is_lost = engine.lost.is_set()
    return [
        exactly(f"false alarms in {seconds:g} s of {num_clients} clients with the longest prompts", 0, int(is_lost)),
        exactly("of their requests without an answer", 0, statuses.total() - statuses[200] - statuses[429]),
        at_most("the longest silence", 30.0, longest, "s"),
    ]


# Goal 14: no memory, again and again.


@goal(14, "No memory, again and again")
def no_memory(scale: Scale) -> list[Figure]:
    """Steps of more than one token find no memory, so often: answers that were none, and how long steps stay small afterwards."""
    num_failures, endings = scale.of(5, 100), Counter[str]()
    left, small = [num_failures], {"max_running": 4, "prefill_chunk": 1, "max_batch_tokens": 4}
    with faulty_server(**{} if scale.is_long else small) as (server, faulty), load_of(server.url, 4, endings):
        engine = server.service.generator.client

        def refuse(batch: ForwardBatch) -> None:
            if left[0] and batch.num_tokens > 1:
                left[0] -= 1
                raise MemoryError("injected")

        faulty.strike = refuse
        while left[0]:
            until(lambda: engine._max_tokens in (None, 1) or not left[0], PAUSE_SECONDS)
            engine._worker._worker._worker._engine.scheduler.room.lift()  # or one step of a single token would follow another
            time.sleep(0.005)
        seconds = until(lambda: engine._max_tokens is None, PAUSE_SECONDS)
        is_lost = engine.lost.is_set()
    return [
        exactly(f"exits in {num_failures} steps without memory", 0, int(is_lost)),
        exactly(f"of {endings.total():,} streams that were not whole", 0, endings.total() - endings["whole"]),
        at_most("until steps were as large as before", 60.0, seconds, "s"),
    ]
