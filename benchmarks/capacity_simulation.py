"""Replicas behind a balancer, simulated: requests that come at random, steps that take what was measured, an autoscaler that lags.

Knows no HTTP, no clock and no files; the same seed gives the same result. Of the engine it has what decides about time: slots, a
queue with the door's bounds, prompts in chunks within a step's budget, all that decode in every step. It has no prefix cache.
"""

import heapq
import itertools
import math
import random
from bisect import bisect_left
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

CAUTION = 1.25  # of app/engine/door.py


@dataclass(frozen=True, slots=True)
class ServiceTimes:
    """Seconds of a step by the number of rows that decode, linear in between and beyond, and those that a prompt's token adds."""

    rows: tuple[int, ...]
    seconds: tuple[float, ...]
    prompt_token_seconds: float

    def step_seconds(self, num_rows: int, num_prompt_tokens: int) -> float:
        prompts = num_prompt_tokens * self.prompt_token_seconds
        return self._decode(num_rows) + prompts if num_rows else max(self._decode(1), prompts)

    def requests_per_second(self, num_slots: int, num_prompt: float, num_output: float) -> float:
        """What one replica can serve while all of its slots decode."""
        return 1 / (num_prompt * self.prompt_token_seconds + num_output * self._decode(num_slots) / num_slots)

    def _decode(self, num_rows: int) -> float:
        if len(self.rows) == 1:
            return self.seconds[0]
        right = min(max(bisect_left(self.rows, num_rows), 1), len(self.rows) - 1)
        x0, x1, y0, y1 = *self.rows[right - 1 : right + 1], *self.seconds[right - 1 : right + 1]
        return y0 + (y1 - y0) * (num_rows - x0) / (x1 - x0)


@dataclass(frozen=True, slots=True)
class Limits:
    """The settings of a replica. `tokens_per_second` is the rate that the door goes by, which the service measures for itself."""

    max_running: int = 32
    max_waiting: int = 1024
    max_queued_tokens: float = math.inf
    max_wait_seconds: float = math.inf
    max_batch_tokens: int = 256
    prefill_chunk: int = 128
    tokens_per_second: float = math.inf


@dataclass(slots=True, eq=False)
class Request:
    """What is asked, and what becomes of it; None is never."""

    arrival: float
    num_prompt: int
    num_output: int
    first_token: float | None = None
    end: float | None = None
    is_refused: bool = False

    @property
    def work(self) -> int:
        return self.num_prompt + self.num_output


class Arrivals(Protocol):
    """Requests in the order of their times."""

    @property
    def seconds(self) -> float: ...

    def requests(self, seed: int) -> Iterator[Request]: ...


@dataclass(frozen=True, slots=True)
class Load:
    """Poisson arrivals whose rate changes at times: (seconds, requests a second), the first at 0. Lengths are any of a range."""

    rates: tuple[tuple[float, float], ...]
    seconds: float
    prompt: tuple[int, int] = (128, 128)
    output: tuple[int, int] = (128, 128)

    def requests(self, seed: int) -> Iterator[Request]:
        draw, now = random.Random(seed), 0.0
        ends = [start for start, _ in self.rates[1:]] + [self.seconds]
        for (start, rate), end in zip(self.rates, ends, strict=True):
            now = start  # arrivals have no memory
            while rate > 0 and (now := now + draw.expovariate(rate)) < end:
                yield Request(now, draw.randint(*self.prompt), draw.randint(*self.output))


class Replica:
    """One process: who waits, who is in a slot, and the step under way."""

    def __init__(self, times: ServiceTimes, limits: Limits) -> None:
        self._times, self._limits = times, limits
        self.waiting: deque[Request] = deque()
        self._prefilling: deque[Request] = deque()
        self._left = 0  # prompt tokens of the first of them
        self._decoding: list[tuple[int, int, Request]] = []  # by the step that they end with
        self._prompts_done: list[Request] = []  # in the step under way
        self._num_steps, self._number = 0, itertools.count()
        self.num_tokens = self._num_waiting_tokens = 0
        self.is_stepping = self.is_draining = False

    @property
    def num_running(self) -> int:
        return len(self._prefilling) + len(self._decoding) + len(self._prompts_done)

    @property
    def num_inside(self) -> int:
        return self.num_running + len(self.waiting)

    def has_room(self, request: Request) -> bool:
        limits = self._limits
        if len(self.waiting) >= limits.max_waiting or self.num_tokens + request.work > limits.max_queued_tokens:
            return False
        return self.num_inside < limits.max_running or self._wait_seconds() <= limits.max_wait_seconds

    def enter(self, request: Request) -> None:
        self.waiting.append(request)
        self.num_tokens += request.work
        self._num_waiting_tokens += request.work

    def begin_step(self) -> float:
        """Who waits takes free slots, then prompts take what the step's budget allows; the step's seconds."""
        self.is_stepping = True
        while self.waiting and self.num_running < self._limits.max_running:
            request = self.waiting.popleft()
            self._num_waiting_tokens -= request.work
            if not self._prefilling:
                self._left = request.num_prompt
            self._prefilling.append(request)
        num_rows = len(self._decoding)
        budget = room = max(self._limits.max_batch_tokens - num_rows, self._limits.prefill_chunk)
        while self._prefilling and room:
            taken = min(self._left, room)
            room -= taken
            self._left -= taken
            if not self._left:
                self._prompts_done.append(self._prefilling.popleft())
                self._left = self._prefilling[0].num_prompt if self._prefilling else 0
        return self._times.step_seconds(num_rows, budget - room)

    def end_step(self, now: float) -> None:
        """A prompt's last row draws the first token, in the same step."""
        self.is_stepping = False
        self._num_steps += 1
        for request in self._prompts_done:
            request.first_token = now
            heapq.heappush(self._decoding, (self._num_steps + request.num_output - 1, next(self._number), request))
        self._prompts_done.clear()
        while self._decoding and self._decoding[0][0] <= self._num_steps:
            request = heapq.heappop(self._decoding)[2]
            request.end = now
            self.num_tokens -= request.work

    def _wait_seconds(self) -> float:
        """As app/engine/door.py has it, with a rate that is known beforehand."""
        running = (self.num_tokens - self._num_waiting_tokens) / max(self.num_running, 1)
        return CAUTION * (self._num_waiting_tokens + running) / self._limits.tokens_per_second


@dataclass(frozen=True, slots=True)
class Autoscaler:
    """deploy/kubernetes' rule: as many replicas as either series wants, by sums as they were last scraped.

    A decision may double the replicas; a new one serves `start_seconds` after it. One at a time goes, once a minute, and only to
    what no decision of the last `calm_seconds` was above.
    """

    min_replicas: int = 2
    max_replicas: int = 10
    tokens_each: float = 5120
    waiting_each: float = 4
    scrape_seconds: float = 5
    decision_seconds: float = 15
    start_seconds: float = 10
    calm_seconds: float = 300
    down_seconds: float = 60
    tolerance: float = 0.1  # of the number there is, within which Kubernetes leaves it

    def wanted(self, num_replicas: int, num_tokens: float, num_waiting: float) -> int:
        found = [num_tokens / self.tokens_each, num_waiting / self.waiting_each]
        wanted = max(num_replicas if abs(each / num_replicas - 1) <= self.tolerance else math.ceil(each) for each in found)
        return min(max(wanted, self.min_replicas), self.max_replicas)


@dataclass(slots=True)
class Course:
    """What came of a load: its requests in their order, and how many replicas served from when on."""

    seconds: float
    requests: list[Request] = field(default_factory=list)
    replicas: list[tuple[float, int]] = field(default_factory=list)


def simulate(
    load: Arrivals, times: ServiceTimes, limits: Limits, num_replicas: int = 1, scaler: Autoscaler | None = None, seed: int = 0
) -> Course:
    """Each request goes to the replica with the fewest inside, or is refused there; all that came in end."""
    return _Run(load, times, limits, num_replicas, scaler).run(seed)


class _Run:
    def __init__(self, load: Arrivals, times: ServiceTimes, limits: Limits, num_replicas: int, scaler: Autoscaler | None) -> None:
        self._times, self._limits, self._scaler = times, limits, scaler
        self._course = Course(load.seconds)
        self._load = load
        self._events: list[tuple[float, int, str, Replica | None]] = []
        self._number = itertools.count()
        self._num_started = num_replicas  # those that are on their way among them
        self._scraped = (0.0, 0.0)
        self._decisions: deque[tuple[float, int]] = deque()
        self._last_down = -math.inf
        self._replicas = [Replica(times, limits) for _ in range(num_replicas)]
        self._note_replicas(0.0)
        if scaler:
            self._at(0.0, "scrape")
            self._at(scaler.decision_seconds, "decide")

    def run(self, seed: int) -> Course:
        for request in self._load.requests(seed):
            self._until(request.arrival)
            self._course.requests.append(request)
            self._arrive(request)
        self._until(math.inf)
        return self._course

    def _until(self, time: float) -> None:
        while self._events and self._events[0][0] <= time:
            now, _, what, replica = heapq.heappop(self._events)
            if what == "step":
                assert replica is not None
                replica.end_step(now)
                self._step(replica, now)
            elif what == "start":
                self._add_replica(now)
            elif now < self._course.seconds:  # or the scaler would keep an ended run alive
                self._scrape(now) if what == "scrape" else self._decide(now)

    def _at(self, time: float, what: str, replica: Replica | None = None) -> None:
        heapq.heappush(self._events, (time, next(self._number), what, replica))

    def _arrive(self, request: Request) -> None:
        replica = min(self._serving(), key=lambda replica: replica.num_inside)
        if not replica.has_room(request):
            request.is_refused = True
            return
        replica.enter(request)
        if not replica.is_stepping:
            self._step(replica, request.arrival)

    def _step(self, replica: Replica, now: float) -> None:
        if replica.num_inside:
            self._at(now + replica.begin_step(), "step", replica)
        elif replica.is_draining:
            self._replicas.remove(replica)

    def _serving(self) -> list[Replica]:
        return [replica for replica in self._replicas if not replica.is_draining]

    def _add_replica(self, now: float) -> None:
        self._replicas.append(Replica(self._times, self._limits))
        self._note_replicas(now)

    def _note_replicas(self, now: float) -> None:
        self._course.replicas.append((now, len(self._serving())))

    def _scrape(self, now: float) -> None:
        assert self._scaler is not None
        serving = self._serving()
        self._scraped = float(sum(r.num_tokens for r in serving)), float(sum(len(r.waiting) for r in serving))
        self._at(now + self._scaler.scrape_seconds, "scrape")

    def _decide(self, now: float) -> None:
        assert self._scaler is not None
        scaler = self._scaler
        wanted = scaler.wanted(self._num_started, *self._scraped)
        self._decisions.append((now, wanted))
        while self._decisions[0][0] < now - scaler.calm_seconds:
            self._decisions.popleft()
        for _ in range(min(wanted, 2 * self._num_started) - self._num_started):
            self._num_started += 1
            self._at(now + scaler.start_seconds, "start")
        calm = now >= scaler.calm_seconds and max(number for _, number in self._decisions) < self._num_started
        if calm and now - self._last_down >= scaler.down_seconds and len(self._serving()) > 1:
            self._drain_one(now)
        self._at(now + scaler.decision_seconds, "decide")

    def _drain_one(self, now: float) -> None:
        self._last_down = now
        self._num_started -= 1
        replica = self._serving()[-1]
        replica.is_draining = True
        self._note_replicas(now)
        if not replica.num_inside:
            self._replicas.remove(replica)


def first_token_seconds(requests: Sequence[Request]) -> list[float]:
    """Of those that were served, in ascending order."""
    return sorted(request.first_token - request.arrival for request in requests if request.first_token is not None)
