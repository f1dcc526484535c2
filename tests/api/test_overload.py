"""A full queue and a failing engine: a clear status for those concerned, and nothing for the others."""

import re
import socket

import httpx
import pytest
import structlog

from app.metrics import REASONS
from app.middleware import MAX_TOLD

ONE = {"inputs": "a", "parameters": {"max_new_tokens": 3}}


@pytest.mark.row("error.overloaded")
@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/generate", ONE),
        ("/generate_stream", ONE),
        ("/", ONE),
        ("/v1/completions", {"prompt": "a"}),
        ("/v1/score", {"prompt": "a", "candidates": ["b"]}),
    ],
)
def test_a_full_queue_is_a_429_with_whole_seconds_to_wait(stepped_server, in_background, eventually, path, body):
    server, runner = stepped_server(max_running=1, max_waiting=2)
    accepted = [in_background(server, "/generate", ONE) for _ in range(3)]
    eventually(lambda: server.service.generator.client.num_unfinished == 3)
    response = httpx.post(server.url + path, json=body)
    assert response.status_code == 429
    assert re.fullmatch("[1-9][0-9]*", response.headers["retry-after"])
    error = response.json()["error"]
    message = error["message"] if path.startswith("/v1") else error
    assert "2" in message
    assert (error["code"] if path.startswith("/v1") else response.json()["error_type"]) == "overloaded"
    runner.open()
    assert [request.response.status_code for request in accepted] == [200] * 3
    assert httpx.post(server.url + path, json=body).status_code == 200
    assert server.metric("gpt2_requests_total", route=path, outcome="rejected") == 1


@pytest.fixture
def full(stepped_server, in_background, eventually):
    """A server whose engine stands still with one request in its slot and one in its queue, the most that it takes."""
    server, runner = stepped_server(max_running=1, max_waiting=1)
    accepted = [in_background(server, "/generate", ONE) for _ in range(2)]
    eventually(lambda: server.service.generator.client.num_unfinished == 2)
    yield server
    runner.open()
    assert [request.response.status_code for request in accepted] == [200] * 2


def reasons(server):
    return {reason: int(n) for reason in REASONS if (n := server.metric("gpt2_rejected_total", reason=reason))}


def test_a_full_queue_refuses_before_it_reads(full):
    """Its body has not come yet, and will not be waited for."""
    host, port = full.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        connection.sendall(b"POST /generate HTTP/1.1\r\nHost: a\r\nContent-Length: 20\r\n\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 429 ")
        connection.sendall(b"x" * 20 + b"GET /health/live HTTP/1.1\r\nHost: a\r\n\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 200 "), "the connection lives on"
    assert reasons(full) == {"queue_full": 1}


class StandingClock:
    """The time module in a second that does not end."""

    @staticmethod
    def monotonic():
        return 1.5


def test_of_many_who_are_refused_a_few_are_logged_and_all_are_counted(full, monkeypatch):
    monkeypatch.setattr("app.middleware.time", StandingClock)
    with structlog.testing.capture_logs() as lines:
        for _ in range(3 * MAX_TOLD):
            assert httpx.post(full.url + "/generate", json=ONE).status_code == 429
        assert httpx.post(full.url + "/tokenize", json={"inputs": "a"}).status_code == 200
    assert [line["status"] for line in lines] == [429] * MAX_TOLD + [200]
    assert reasons(full) == {"queue_full": 3 * MAX_TOLD}


def test_other_routes_do_not_care(full):
    assert httpx.get(full.url + "/health").status_code == 200
    assert httpx.post(full.url + "/tokenize", json={"inputs": "a"}).status_code == 200
    assert httpx.get(full.url + "/generate").status_code == 405
    assert reasons(full) == {}


def test_many_who_are_refused_are_told_different_times(full):
    told = [int(httpx.post(full.url + "/generate", json=ONE).headers["retry-after"]) for _ in range(20)]
    assert all(1 <= seconds <= 60 for seconds in told)


def test_work_beyond_its_bound_is_a_429_and_what_never_fits_a_422(stepped_server, in_background, eventually):
    server, runner = stepped_server(max_queued_tokens=100)
    long = {"inputs": "a", "parameters": {"max_new_tokens": 80}}
    accepted = in_background(server, "/generate", long)
    eventually(lambda: server.service.generator.client.num_unfinished == 1)
    assert server.metric("gpt2_queued_tokens") == 81
    response = httpx.post(server.url + "/generate", json=long)
    assert response.status_code == 429
    assert "81 tokens of work are taken on already, this request has 81 or more, the limit is 100" in response.json()["error"]
    assert httpx.post(server.url + "/v1/completions", json={"prompt": "a", "max_tokens": 50, "n": 2}).status_code == 400
    assert reasons(server) == {"work_full": 1}
    runner.open()
    assert accepted.response.status_code == 200
    eventually(lambda: server.metric("gpt2_queued_tokens") == 0)


def test_who_would_wait_longer_than_anybody_may_is_refused_and_comes_in_later(stepped_server, in_background, eventually):
    server, runner = stepped_server(max_running=1, max_wait_seconds=0.000_001)
    runner.let_through(2)
    one = {"inputs": "a", "parameters": {"max_new_tokens": 1}}
    for _ in range(2):
        assert httpx.post(server.url + "/generate", json=one).status_code == 200
    accepted = in_background(server, "/generate", one)
    eventually(lambda: server.service.generator.client.num_unfinished == 1)
    response = httpx.post(server.url + "/generate", json=one)
    assert response.status_code == 429
    assert "would pass before this request starts, the limit is 1e-06 s" in response.json()["error"]
    assert server.metric("gpt2_estimated_wait_seconds") > 0
    runner.open()
    assert accepted.response.status_code == 200
    assert httpx.post(server.url + "/generate", json=one).status_code == 200
    assert reasons(server) == {"wait_too_long": 1}


@pytest.mark.row("error.not_ready")
def test_while_it_drains_a_503_says_that_another_connection_may_lead_elsewhere(start_server):
    server = start_server()
    server.service.generator.client._door.close()
    for path in ("/generate", "/v1/completions", "/health/ready"):
        response = httpx.request("GET" if path.startswith("/health") else "POST", server.url + path)
        assert (response.status_code, response.headers["connection"]) == (503, "close")
        assert re.fullmatch("[1-9][0-9]*", response.headers["retry-after"])
    assert reasons(server) == {"draining": 2}, "probes are no requests that were turned away"


def test_without_a_queue_only_the_slots_take_requests(stepped_server, in_background, eventually):
    server, runner = stepped_server(max_running=2, max_waiting=0)
    accepted = [in_background(server, "/generate", ONE) for _ in range(2)]
    eventually(lambda: server.service.generator.client.num_unfinished == 2)
    assert httpx.post(server.url + "/generate", json=ONE).status_code == 429
    runner.open()
    assert [request.response.status_code for request in accepted] == [200] * 2


def test_those_that_wait_come_in_their_order(stepped_server, call, eventually):
    server, runner = stepped_server(max_running=1)
    for number in range(4):
        call(server, "/generate", {"inputs": "abcd"[number], "parameters": {"max_new_tokens": 1}})
        eventually(lambda: server.service.generator.client.num_unfinished == number + 1)  # noqa: B023  # waited for here and now
    runner.open()
    eventually(lambda: len(runner.arrived) == 4)
    tokenizer = server.service.generator.tokenizer
    assert "".join(tokenizer.decode(batch.chunks[0].token_ids) for batch in runner.arrived) == "abcd"


@pytest.mark.row("error.generation")
@pytest.mark.parametrize("route", ["/generate", "/v1/completions"])
def test_what_the_model_cannot_compute_fails_one_request_alone(stepped_server, in_background, eventually, route):
    server, runner = stepped_server()
    (poison,) = (token.id for token in server.service.generator.tokenizer.spans("!"))
    runner.poisoned_token = poison
    neighbours = [
        in_background(server, "/generate", {"inputs": f"a {i}", "parameters": {"max_new_tokens": 8, "details": True}})
        for i in range(4)
    ]
    broken = in_background(server, route, {"prompt": "!"})
    eventually(lambda: server.service.generator.client.num_unfinished == 5)
    runner.open()
    assert broken.response.status_code == 500
    assert broken.response.headers["x-request-id"]
    assert "not a number" in broken.response.text
    answers = [neighbour.response.json() for neighbour in neighbours]
    assert server.metric("gpt2_requests_total", route=route, outcome="failed") == 1
    runner.poisoned_token = None
    for i, answer in enumerate(answers):
        again = httpx.post(
            server.url + "/generate", json={"inputs": f"a {i}", "parameters": {"max_new_tokens": 8, "details": True}}
        ).json()
        assert [t["id"] for t in again["details"]["tokens"]] == [t["id"] for t in answer["details"]["tokens"]]


def test_a_failed_step_is_forgotten_by_the_next_request(stepped_server):
    server, runner = stepped_server()
    runner.open()
    body = {"inputs": "word " * 200, "parameters": {"max_new_tokens": 5, "details": True, "seed": 1}}
    before = httpx.post(server.url + "/generate", json=body).json()
    for _ in range(3):
        runner.failures.append(MemoryError("no room"))
        response = httpx.post(server.url + "/generate", json=body)
        assert response.status_code == 500
        assert "MemoryError" in response.json()["error"]
        assert "no room" not in response.json()["error"]
        assert httpx.post(server.url + "/generate", json=body).json() == before
    assert server.metric("gpt2_slots_used") == 0
