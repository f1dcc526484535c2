"""Goal 17: every request of the hostile corpus is answered at once, by no 5xx, and leaves the service as it was."""

import time
from collections import Counter

from tests.chaos.goals import Figure, Scale, at_least, at_most, exactly, goal
from tests.chaos.hostile import Hostile, bodies_and_fields
from tests.chaos.hostile_heads import heads_and_paths
from tests.chaos.service import ServiceProcess, nothing_unaccounted, service, tiny_checkpoint

HANG_SECONDS = 1.0
GROWTH_BYTES = 16 << 20


@goal(17, "The hostile corpus")
def hostile_corpus(scale: Scale) -> list[Figure]:
    requests = [*bodies_and_fields(), *heads_and_paths()]
    with service(tiny_checkpoint(n_positions=64)) as running:  # no answer is long
        _send(running, requests[0])  # what the first request takes is no growth
        before = running.private_bytes()
        outcomes = [(request, *_send(running, request)) for request in scale.each(requests) for _ in range(scale.of(1, 3))]
        grown = running.private_bytes() - before
        is_well = _send(running, requests[0])[0] is not None and running.process.poll() is None
        conserved = nothing_unaccounted(running)
    statuses = Counter(status for _, status, _ in outcomes)
    unexpected = [request.name for request, status, _ in outcomes if not _is_fine(request, status)]
    return [
        at_least("requests tried", 400, len(requests), "requests", by_clock=False),
        exactly(
            f"5xx{_named([r.name for r, status, _ in outcomes if (status or 0) in (500, 502, 503, 504)])}",
            0,
            sum(statuses[status] for status in (500, 502, 503, 504)),
        ),
        exactly(f"answered otherwise than they may be{_named(unexpected)}", 0, len(unexpected)),
        at_most(
            f"the slowest answer{_named([r.name for r, _, s in outcomes if s > HANG_SECONDS])}",
            HANG_SECONDS,
            max(s for *_, s in outcomes),
            "s",
        ),
        at_most("growth of memory", GROWTH_BYTES / 1e6, grown / 1e6, "MB"),
        exactly("services that went on", 1, int(is_well)),
        conserved,
    ]


def _is_fine(request: Hostile, status: int | None) -> bool:
    return request.may_hang_up if status is None else status in request.statuses


def _named(names: list[str]) -> str:
    return f" ({'; '.join(dict.fromkeys(names[:5]))})" if names else ""


def _send(running: ServiceProcess, request: Hostile) -> tuple[int | None, float]:
    """The status, None if the service closed the connection without one, and the seconds that passed."""
    started = time.monotonic()
    status = running.status_of(request.raw, half_closes=request.may_hang_up)  # then there is no more of it
    return status, time.monotonic() - started
