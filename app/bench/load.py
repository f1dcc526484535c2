"""The load generator: sends requests at their times and notes when tokens come back. Knows no options and prints nothing."""

import asyncio
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import orjson

from app.bench.dialects import Arrival, Dialect, Json, Reader
from app.bench.exchange import Endpoint, RequestFailed, message_of


@dataclass(frozen=True, slots=True)
class ClosedLoop:
    """So many requests at once: the next one is sent when an answer has ended."""

    concurrency: int


@dataclass(frozen=True, slots=True)
class OpenLoop:
    """A Poisson process of `rate` requests a second on average, however many are unanswered."""

    rate: float
    seed: int = 0

    def due(self, num_requests: int) -> list[float]:
        """Seconds after the start at which each request is sent, the first one at once."""
        draw, now, times = random.Random(self.seed), 0.0, []
        for _ in range(num_requests):
            times.append(now)
            now += draw.expovariate(self.rate)
        return times


@dataclass(slots=True)
class Answer:
    """What came of one request; times are in seconds since the load began."""

    index: int
    started: float
    ended: float | None = None
    arrivals: list[Arrival] = field(default_factory=list)
    num_prompt: int | None = None  # as the server told
    is_counted: bool = False  # the server told the number of tokens; else each event counts as one
    failure: RequestFailed | None = None

    @property
    def is_whole(self) -> bool:
        return self.ended is not None and self.failure is None

    @property
    def num_tokens(self) -> int:
        return sum(count for _, count in self.arrivals)

    @property
    def first_token_seconds(self) -> float:
        return self.arrivals[0].time - self.started

    @property
    def inter_token_seconds(self) -> list[float]:
        """One value a token after the first event's: the time since the event before, shared by the tokens that came together."""
        return [(time - before.time) / count for before, (time, count) in pairwise(self.arrivals) for _ in range(count)]


@dataclass(slots=True)
class Measurement:
    """What a load brought, in the order in which the requests were sent; those that an interruption cut short have no end."""

    answers: list[Answer] = field(default_factory=list)
    seconds: float = 0.0
    is_interrupted: bool = False

    @property
    def whole(self) -> list[Answer]:
        return [answer for answer in self.answers if answer.is_whole]

    @property
    def failed(self) -> list[Answer]:
        return [answer for answer in self.answers if answer.failure]

    @property
    def num_tokens(self) -> int:
        """Those of answers that failed do not count."""
        return sum(answer.num_tokens for answer in self.answers if not answer.failure)

    @property
    def tokens_per_second(self) -> float:
        return self.num_tokens / self.seconds if self.seconds else 0.0


def run_load(
    endpoint: Endpoint,
    dialect: Dialect,
    bodies: Sequence[Json],
    pace: ClosedLoop | OpenLoop,
    on_end: Callable[[Answer], None] = lambda answer: None,
) -> Measurement:
    """Send each body and read its stream; SIGINT ends it early, with what has been measured so far."""
    load = Load(endpoint, dialect, bodies, on_end)
    try:
        with asyncio.Runner(loop_factory=_new_loop) as runner:
            runner.run(load.run(pace))
    except KeyboardInterrupt:
        load.measurement.is_interrupted = True
    return load.measurement


def _new_loop() -> asyncio.AbstractEventLoop:
    """uvloop's, where it exists: a token takes 18 us of this process with it, 37 with asyncio's own (two cores, 32 clients)."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


class Load:
    """One run of a load generator; what it has measured so far is always in `measurement`."""

    def __init__(
        self, endpoint: Endpoint, dialect: Dialect, bodies: Sequence[Json], on_end: Callable[[Answer], None] = lambda answer: None
    ) -> None:
        self.measurement = Measurement()
        self._endpoint, self._dialect, self._on_end = endpoint, dialect, on_end
        # Written before the clock runs, or the first ones would wait for the last.
        self._requests = [endpoint.request("POST", dialect.path, orjson.dumps(body)) for body in bodies]

    async def run(self, pace: ClosedLoop | OpenLoop) -> None:
        self._epoch = time.perf_counter()
        try:
            async with asyncio.TaskGroup() as tasks:
                if isinstance(pace, ClosedLoop):
                    todo = iter(range(len(self._requests)))
                    for _ in range(pace.concurrency):
                        tasks.create_task(self._client(todo))
                else:
                    for index, due in enumerate(pace.due(len(self._requests))):
                        await asyncio.sleep(self._epoch + due - time.perf_counter())
                        tasks.create_task(self._request(index))
        finally:
            self.measurement.seconds = self._now()

    async def _client(self, todo: Iterator[int]) -> None:
        for index in todo:
            await self._request(index)

    async def _request(self, index: int) -> None:
        answer, reader = Answer(index, self._now()), self._dialect.reader()
        self.measurement.answers.append(answer)
        try:
            await self._endpoint.stream(self._requests[index], lambda data, now: read_event(reader, data, now - self._epoch))
            if not reader.is_finished:
                raise RequestFailed("cut off", "the stream ended before the answer did")
        except RequestFailed as error:
            answer.failure = error
        finally:
            answer.arrivals, answer.num_prompt, answer.is_counted = reader.arrivals(), reader.num_prompt, reader.is_counted
        answer.ended = self._now()
        self._on_end(answer)

    def _now(self) -> float:
        return time.perf_counter() - self._epoch


def read_event(reader: Reader, data: bytes, now: float) -> None:
    """RequestFailed if the event is an error, or is none of the dialect's."""
    if data == b"[DONE]":
        reader.is_finished = True
        return
    try:
        event = orjson.loads(data)
        if not event.get("error"):
            reader.read(event, now)
            return
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
        raise RequestFailed("malformed", f"the event is none of this dialect: {data[:100]!r}") from None
    raise RequestFailed("error in stream", message_of(event))
