"""What is written down of a request: one line with its id, its key and its trace, and never a word of its text."""

import json
import logging
from collections import Counter

import httpx
import pytest
import structlog

from app.middleware import SAFE_ID
from tests.api.test_shutdown import Process

CANARY = "canary-sings-at-dawn"
TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


class Panic(BaseException):
    """What a library in Rust raises when it breaks."""


@pytest.fixture
def log(caplog):
    """All that is logged from here on, at every level: structlog's lines as dictionaries, and the standard library's as text."""
    caplog.set_level(logging.DEBUG)
    with structlog.testing.capture_logs() as lines:
        yield lambda: [*lines, *({"text": caplog.handler.format(record)} for record in caplog.records if is_ours(record))]


def is_ours(record):
    """Not the clients' of these tests, nor uvicorn's own lines a request, which a service has turned off."""
    return not record.name.startswith(("httpx", "httpcore", "openai", "uvicorn.access"))


def line_of(log, eventually, response):
    """The one line of an answered request."""
    found = []
    eventually(lambda: found.extend(line for line in log() if line.get("id") == response.headers["x-request-id"]) or found)
    return found[0]


@pytest.mark.row("http.traceparent")
@pytest.mark.parametrize(
    "value",
    [f"00-{TRACE}-{PARENT}-01", f"00-{TRACE}-{PARENT}-00", f"fe-{TRACE}-{PARENT}-01-what-comes-later", f"01-{TRACE}-{PARENT}-ff"],
)
def test_a_requests_line_has_its_trace(client, log, eventually, value):
    assert line_of(log, eventually, client.get("/info", headers={"traceparent": value}))["trace"] == TRACE


@pytest.mark.row("http.traceparent")
@pytest.mark.parametrize(
    "value",
    [
        "", TRACE, f"00-{TRACE}-{PARENT}", f"00-{TRACE}-{PARENT}-01-", f"00-{TRACE}-{PARENT}-01-more", f"ff-{TRACE}-{PARENT}-01",
        f"00-{'0' * 32}-{PARENT}-01", f"00-{TRACE}-{'0' * 16}-01", f"00-{TRACE.upper()}-{PARENT}-01", f"00-{TRACE}-{PARENT}-0g",
        f"00_{TRACE}_{PARENT}_01", f"00-{TRACE[:-1]}-{PARENT}-01", f"00-{CANARY}-{PARENT}-01", f"00-{TRACE}-{PARENT}-01, 00",
    ],
)  # fmt: skip
def test_what_is_no_traceparent_is_passed_over(client, log, eventually, value):
    assert "trace" not in line_of(log, eventually, client.get("/info", headers={"traceparent": value}))


@pytest.mark.row("http.request_id")
@pytest.mark.parametrize(
    "value",
    ["a b", "a" * 129, "a;b", "a/b", 'a"b', "<script>", "a,b", "{}", "%0a", "a\tb", b"\xe9", b"\xc3\xa9", "", "$(id)", "a\\b"],
)
def test_an_id_that_could_harm_a_log_is_replaced(client, value):
    response = client.get("/info", headers={"x-request-id": value})
    assert len(response.headers["x-request-id"]) == 32
    assert SAFE_ID.fullmatch(response.headers["x-request-id"])


@pytest.mark.parametrize("path", ["/a%0ab", "/a%0d%0ab", "/a%1b%5b31m", "/a%00", "/a%e2%80%ae", "/a%c2%85b"])
def test_a_path_begins_no_line_of_the_log_and_steers_no_terminal(client, log, eventually, path):
    line = line_of(log, eventually, client.get(path))
    assert line["path"].isascii()
    assert line["path"].isprintable()


def bodies_of(schema, prefix=()):
    """The place of every field of a body, and of the objects in it."""
    for name, field in schema.get("properties", {}).items():
        yield (*prefix, name)
        for part in (field, *field.get("anyOf", ())):
            yield from bodies_of(part, (*prefix, name))


def planted(place, value, body):
    """A body with a value in one of its fields."""
    body = json.loads(json.dumps(body))
    inner = body
    for name in place[:-1]:
        inner = inner.setdefault(name, {})
    inner[place[-1]] = value
    return body


VALID = {
    "/generate": {"inputs": CANARY, "parameters": {"max_new_tokens": 1, "stop": [CANARY], "return_full_text": True}},
    "/generate_stream": {"inputs": CANARY, "parameters": {"max_new_tokens": 1, "details": True}},
    "/": {"inputs": CANARY, "parameters": {"max_new_tokens": 1}},
    "/v1/completions": {"prompt": CANARY, "max_tokens": 1, "echo": True, "logprobs": 2, "user": CANARY, "model": CANARY},
    "/v1/chat/completions": {"messages": [{"role": "user", "content": CANARY}], "max_tokens": 1},
    "/v1/score": {"prompt": CANARY, "candidates": [CANARY]},
    "/tokenize": {"inputs": CANARY},
    "/detokenize": {"ids": [1]},
}
VALUES = (CANARY, [CANARY], {CANARY: CANARY}, [[CANARY]], 10**9)
BROKEN = [
    b'{"inputs": "' + CANARY.encode(), CANARY.encode(), b'"' + CANARY.encode() + b'"', CANARY.encode() + b"\xff",
    b'{"' + CANARY.encode() + b'": NaN}', b'{"%b": 1, "%b": 2}' % (CANARY.encode(), CANARY.encode()),
    CANARY.encode() * 60_000, b'{"inputs": "' + CANARY.encode() + b'\\ud800"}', b"[" * 5000 + CANARY.encode(),
]  # fmt: skip
HEADERS = dict.fromkeys(("user-agent", "cookie", "referer", "origin", "x-forwarded-for", "accept", "content-type"), CANARY)
HEADERS |= {"authorization": f"Bearer {CANARY}", "x-request-id": f"{CANARY} {CANARY}", "traceparent": f"00-{CANARY}-01"}


def all_requests(client):
    """Every field of every route with what fits it and what does not, and what is no body at all."""
    document = client.get("/openapi.json").json()
    for path, valid in VALID.items():
        schema = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
        places = list(bodies_of(schema))
        assert places, path
        yield path, json.dumps(valid).encode()
        yield path, json.dumps(valid | {CANARY: CANARY}).encode()
        for place in places:
            for value in VALUES:
                yield path, json.dumps(planted(place, value, valid)).encode()
        yield from ((path, body) for body in BROKEN)


def check_that_nothing_is_told(server, log, capfd):
    written = "".join(capfd.readouterr())
    assert CANARY not in written
    assert CANARY not in str(log())
    assert CANARY not in server.service.metrics.exposition().decode()


# `gpt2 serve` that logs all there is to log, as no setting makes it.
LOUD = """
import logging, sys
from app.commands import serve
configure = serve.configure_logging
def configure_loudly(form):
    configure(form)
    for name in (None, "uvicorn.error", "asyncio"):
        logging.getLogger(name).setLevel(logging.DEBUG)
serve.configure_logging = configure_loudly
from app.cli import main
sys.exit(main())
"""


@pytest.fixture
def loud_process(tiny_checkpoint):
    process = Process(tiny_checkpoint, "--chat-template", "plain", program=("-c", LOUD))
    yield process
    process.end()


def test_no_text_of_a_request_is_written_anywhere_whatever_field_it_is_in(loud_process):
    statuses, num_shown, metrics = with_canaries(loud_process.url)
    assert {200, 400, 413, 422} <= statuses.keys()
    assert not [status for status in statuses if status >= 500]
    assert num_shown > 100, "clients are told of their own text, so that it was there to be logged"
    loud_process.terminate()
    assert loud_process.exit_code() == 0
    log = "".join(loud_process.log)
    assert log.count('"event": "request"') >= statuses.total() > 600
    assert "gpt2_requests_total" in metrics
    assert CANARY not in log + metrics


def with_canaries(url):
    """All requests; how many were answered by each status, how many of the answers had the canary, and the metrics."""
    statuses, num_shown = Counter(), 0
    with httpx.Client(base_url=url, timeout=60, headers=HEADERS, params={"q": CANARY}) as client:
        for path, body in all_requests(client):
            response = client.post(path, content=body)
            statuses[response.status_code] += 1
            num_shown += CANARY in response.text
        return statuses, num_shown, client.get("/metrics").text


@pytest.mark.parametrize("kind", [KeyError, ValueError, RuntimeError, UnicodeError, Panic], ids=lambda kind: kind.__name__)
def test_a_fault_with_text_in_its_message_is_logged_under_its_id_without_it(start_server, monkeypatch, log, capfd, kind):
    server = start_server()

    def break_over(_, text, *more):
        try:
            raise LookupError(f"cannot read {text}")
        except LookupError as error:
            raise kind(f"no token for {text}") from error

    monkeypatch.setattr(server.service.generator.tokenizer.__class__, "spans", break_over)
    for size in (1, 2000):  # on the event loop, and in a thread
        response = httpx.post(server.url + "/tokenize", json={"inputs": CANARY * size})
        assert response.status_code == 500
        assert response.headers["x-request-id"] in response.json()["error"]
        (line,) = (one for one in log() if one.get("event") == "something broke" and one["id"] == response.headers["x-request-id"])
        assert "in break_over" in line["traceback"]
        assert "builtins.LookupError" in line["traceback"]
        assert kind.__name__ in line["traceback"]
    check_that_nothing_is_told(server, log, capfd)


def test_a_stream_that_breaks_over_its_text_tells_none_of_it(start_server, monkeypatch, log, capfd):
    server = start_server()

    def break_over(*_):
        raise ValueError(f"cannot write {CANARY}")

    monkeypatch.setattr("app.sample.Sample.take", break_over)
    for stream in (True, False):
        body = {"inputs": CANARY, "stream": stream, "parameters": {"max_new_tokens": 2}}
        response = httpx.post(server.url + "/generate", json=body, timeout=60)
        assert response.status_code == 500 or '"error"' in response.text
    assert "in break_over" in str(log())
    check_that_nothing_is_told(server, log, capfd)


def test_an_answer_that_breaks_off_by_a_panic_ends_with_its_connection_and_is_logged_once(stepped_server, monkeypatch, log, capfd):
    server, runner = stepped_server()
    runner.let_through(2)

    def panic(*_):
        raise Panic(f"cannot write {CANARY}")

    with httpx.stream("POST", server.url + "/generate_stream", json={"inputs": CANARY}, timeout=60) as response:
        lines = response.iter_lines()
        assert next(lines).startswith("data: ")
        monkeypatch.setattr("app.sample.Sample.take", panic)
        runner.open()
        with pytest.raises(httpx.RemoteProtocolError):
            list(lines)
    assert sum(line.get("event") == "something broke" for line in log()) == 1
    assert "Panic" in str(log())
    check_that_nothing_is_told(server, log, capfd)


def test_a_step_that_fails_tells_no_prompt(stepped_server, log, capfd):
    server, runner = stepped_server()
    runner.open()
    runner.failures += [RuntimeError("broken")] * 12
    assert httpx.post(server.url + "/generate", json={"inputs": CANARY}, timeout=60).status_code in (200, 500)
    check_that_nothing_is_told(server, log, capfd)
