"""Goal 21: nobody without a key gets in, and no time tells of one. Goal 23: the service calls nobody, and repeats no prompt.

The requests are those of tests/api/test_authentication.py, tests/api/test_log_lines.py and tests/test_isolation.py.
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.key_timing import NUM_TIMINGS, compared, over_http
from tests.api.test_authentication import HOSTS, KEY, OPEN, PATHS, PROXIES, RIGHT, TARGETS, WRONG, request_of
from tests.api.test_log_lines import CANARY, LOUD, with_canaries
from tests.api.test_shutdown import Process
from tests.chaos.goals import Figure, Scale, at_least, at_most, exactly, goal
from tests.chaos.service import service, tiny_checkpoint
from tests.test_isolation import WATCHED, can_strace, outward, traced, use

MAX_T = 4.5
KEPT_OUT = (400, 401)
METHODS = ("GET", "HEAD", "POST", "OPTIONS", "PUT", "DELETE", "PATCH", "TRACE")
OWN_ADDRESS = "CALLS socket.getaddrinfo '127.0.0.1'"


@goal(21, "Requests without a key")
def without_a_key(scale: Scale) -> list[Figure]:
    requests = [*_strange_requests()]
    with service(api_keys=f"alice:{KEY}", chat_template="plain") as running:
        statuses = [(running.status_of(raw), is_open) for raw, is_open in scale.each(requests)]
        right = [running.status_of(request_of(method, path, b"Authorization: " + RIGHT)) for method, path in _routes()]
    figures = [
        at_least("requests without a key, with a wrong one, and past it", 1000, len(statuses), "requests", by_clock=False),
        exactly("let in that should not be", 0, sum(status not in KEPT_OUT for status, is_open in statuses if not is_open)),
        exactly("kept out that need no key", 0, sum(status in (None, 401) for status, is_open in statuses if is_open)),
        exactly("kept out with the right key", 0, sum(status in (None, 401) for status in right)),
    ]
    if not scale.is_long:
        return figures
    return [
        *figures,
        at_most(f"|t| of {NUM_TIMINGS:,} comparisons, nearly right or wrong", MAX_T, abs(compared()), ""),
        at_most(f"|t| of {NUM_TIMINGS:,} answers", MAX_T, abs(over_http()), ""),
    ]


def _routes() -> list[tuple[str, bytes]]:
    return [(method, path.encode()) for method, paths in PATHS.items() for path in paths]


def _strange_requests() -> Iterator[tuple[bytes, bool]]:
    """Each with whether it is to be let in."""
    for method, path in _routes():
        is_open = method == "GET" and path.decode() in OPEN
        yield request_of(method, path), is_open
        yield from ((request_of(method, path, b"Authorization: " + value), is_open) for value in WRONG)
        yield from ((request_of(method, path, header), is_open) for header in PROXIES)
        if not is_open:  # such a Host may well be refused for itself
            yield from ((request_of(method, path, host=host), False) for host in HOSTS)
    yield from ((request_of(method, target), False) for method in METHODS for target in TARGETS)


@goal(23, "No calls, no prompts told")
def silence(scale: Scale) -> list[Figure]:
    with _process(WATCHED) as process:
        use(process)
        calls = [line.strip() for line in process.log if line.startswith("CALLS")]
    with _process(LOUD) as process:
        statuses, num_shown, metrics = with_canaries(process.url)
        process.terminate()
        process.exit_code()
        written = "".join(process.log) + metrics
    return [
        at_least("look-ups that the audit saw, its own among them", 1, len(calls), "", by_clock=False),
        exactly("of which were of others than itself", 0, len(set(calls) - {OWN_ADDRESS})),
        _connects(),
        at_least("requests with a canary in some field", 600, statuses.total(), "requests", by_clock=False),
        at_least("of which were told of it themselves", 100, num_shown, "requests", by_clock=False),
        exactly("canaries in logs and metrics", 0, written.count(CANARY)),
    ]


def _connects() -> Figure:
    what = "connections to others, by strace"
    if not can_strace():
        return Figure(what, "0", "strace is missing, or may not trace here", holds=False, by_clock=True)
    with tempfile.TemporaryDirectory() as folder, _process(traced(trace := Path(folder) / "trace")) as process:
        use(process)
        lines = trace.read_text().splitlines()
    assert any("bind(" in line and "127.0.0.1" in line for line in lines), "strace saw nothing"
    return exactly(what, 0, len(outward(lines)))


@contextmanager
def _process(program: str) -> Iterator[Process]:
    process = Process(tiny_checkpoint(), "--chat-template", "plain", program=("-c", program))
    try:
        yield process
    finally:
        process.end()
