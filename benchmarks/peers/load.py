"""The load on peers that serve: `gpt2 bench`'s generator, in each server's own dialect."""

from dataclasses import dataclass
from typing import Any

from app.bench import load
from app.bench.dialects import Arrival
from app.bench.exchange import Endpoint
from benchmarks.peers.servers import SERVERS, Server


def run_load(name: str, url: str, prompts: list[list[int]], max_new_tokens: int) -> dict[str, Any]:
    """Send every prompt at once and read the streams; the same document as a worker answers."""
    bodies = [SERVERS[name].body(prompt, max_new_tokens) for prompt in prompts]
    measurement = load.run_load(Endpoint(url), PeerDialect(SERVERS[name]), bodies, load.ClosedLoop(len(bodies)))
    if measurement.is_interrupted:
        raise KeyboardInterrupt
    for answer in measurement.answers:
        if answer.failure or answer.num_tokens != max_new_tokens:
            raise RuntimeError(f"{max_new_tokens} tokens a sequence were asked for, {answer.num_tokens} came: {answer.failure}")
    token_times = [[time for time, count in answer.arrivals for _ in range(count)] for answer in measurement.answers]
    return {
        "seconds": measurement.seconds,
        "first_token_seconds": [times[0] for times in token_times],
        "token_times": token_times,
        "tokens": measurement.num_tokens,
    }


@dataclass(frozen=True, slots=True)
class PeerDialect:
    server: Server
    path: str = ""  # a peer's address has it already

    def reader(self) -> "PeerReader":
        return PeerReader(self.server)


class PeerReader:
    """Counts the tokens of a stream as its server does; who asked knows how many there must be."""

    num_prompt: int | None = None
    is_finished = is_counted = True

    def __init__(self, server: Server) -> None:
        self._server, self._seen = server, 0
        self._arrivals: list[Arrival] = []

    def read(self, event: dict[str, Any], now: float) -> None:
        seen = self._server.num_tokens(event, self._seen)
        if seen > self._seen:
            self._arrivals.append(Arrival(now, seen - self._seen))
        self._seen = seen

    def arrivals(self) -> list[Arrival]:
        return self._arrivals
