"""timeout_seconds: an answer is complete in time, queue and all, or its request fails with 504 and frees what it had."""

import time

import httpx
import pytest
from starlette.responses import Response

SOON = 0.5  # long enough for two steps on a busy machine; only the engine's standing still makes it pass


class LaterClock:
    """The time module of those who look at the clock two thousand seconds from now."""

    @staticmethod
    def monotonic():
        return time.monotonic() + 2000


@pytest.fixture
def standing(stepped_server):
    return stepped_server()


def post(server, path="/generate", **parameters):
    return httpx.post(server.url + path, json={"inputs": "a", "parameters": {"max_new_tokens": 5, **parameters}}, timeout=60)


def check_passed(server, response, eventually):
    assert response.status_code == 504
    assert response.json()["error_type"] == "timeout"
    assert f"timeout_seconds: the {SOON} s" in response.json()["error"]
    eventually(lambda: server.service.generator.client.num_unfinished == 0)


@pytest.mark.row("generate.timeout_seconds", "error.timeout")
@pytest.mark.parametrize("path", ["/generate", "/generate_stream", "/"])
def test_before_the_first_token_it_is_a_504(standing, eventually, path):
    server, _ = standing
    check_passed(server, post(server, path, timeout_seconds=SOON), eventually)


def test_between_two_tokens_it_is_a_504_for_who_waits_for_the_whole(standing, eventually):
    server, runner = standing
    runner.let_through(2)
    check_passed(server, post(server, timeout_seconds=SOON), eventually)


@pytest.mark.row("error.timeout")
def test_between_two_tokens_it_is_the_last_event_of_a_stream(standing, eventually, sse):
    server, runner = standing
    runner.let_through(2)
    events = sse(post(server, "/generate_stream", timeout_seconds=SOON))
    assert [event.get("index") for event in events] == [1, 2, None]
    assert events[-1]["error_type"] == "timeout"
    eventually(lambda: server.service.generator.client.num_unfinished == 0)


@pytest.mark.row("generate.timeout_seconds")
def test_the_time_in_the_queue_counts(stepped_server, in_background, eventually):
    server, runner = stepped_server(max_running=1)
    running = in_background(server, "/generate", {"inputs": "b", "parameters": {"max_new_tokens": 2}})
    eventually(lambda: len(runner.arrived) == 1)
    waited = post(server, timeout_seconds=SOON)
    assert waited.status_code == 504
    runner.open()
    assert running.response.status_code == 200


@pytest.mark.row("generate.timeout_seconds")
@pytest.mark.parametrize("path", ["/generate", "/v1/score"])
def test_who_names_no_deadline_has_the_services(stepped_server, eventually, path):
    server, _ = stepped_server(timeout_seconds=SOON)
    body = {"inputs": "a"} if path == "/generate" else {"prompt": "a", "candidates": ["b"]}
    response = httpx.post(server.url + path, json=body, timeout=60)
    assert response.status_code == 504
    assert f"timeout_seconds: the {SOON} s" in response.text
    eventually(lambda: server.service.generator.client.num_unfinished == 0)
    eventually(lambda: server.metric("gpt2_requests_total", route=path, outcome="expired") == 1)
    assert server.metric("gpt2_ended_total", how="expired") == 1


def test_more_than_the_service_takes_is_refused_by_name(stepped_server):
    server, _ = stepped_server(max_timeout_seconds=20)
    response = post(server, timeout_seconds=20.5)
    assert response.status_code == 422
    assert response.json()["error"] == ("parameters.timeout_seconds: 20.5 is refused: the most that this server takes is 20")
    response = httpx.post(server.url + "/v1/completions", json={"prompt": "a", "timeout_seconds": 21})
    assert (response.status_code, response.json()["error"]["param"]) == (400, "timeout_seconds")


@pytest.mark.row("score.timeout_seconds")
def test_scores_have_a_deadline_too(standing, eventually):
    server, _ = standing
    body = {"prompt": "a", "candidates": ["b", "c"], "timeout_seconds": SOON}
    response = httpx.post(server.url + "/v1/score", json=body, timeout=60)
    assert (response.status_code, response.json()["error"]["code"]) == (504, "timeout")
    eventually(lambda: server.service.generator.client.num_unfinished == 0)


@pytest.mark.row("error.timeout")
@pytest.mark.parametrize("path", ["/generate", "/v1/completions", "/v1/score"])
def test_an_answer_that_is_written_too_late_is_none(stepped_server, monkeypatch, path):
    """All of it is there in time, and then it takes too long to be written."""
    server, runner = stepped_server()
    runner.open()

    async def slowly(size, work):
        result = work()
        if isinstance(result, Response):
            monkeypatch.setattr("app.deadline.time", LaterClock)
        return result

    monkeypatch.setattr("app.api.outputs.off_loop", slowly)
    body = {"inputs": "a", "parameters": {"timeout_seconds": 1000}} if path == "/generate" else {"prompt": "a", "candidates": ["b"]}
    response = httpx.post(server.url + path, json=body | ({} if path == "/generate" else {"timeout_seconds": 1000}), timeout=60)
    assert response.status_code == 504


def test_an_answer_in_time_is_what_it_is_without_a_limit(generate):
    assert generate(timeout_seconds=3600, seed=1) == generate(seed=1)


@pytest.mark.row("error.overloaded")
def test_who_would_wait_too_long_is_told_when_to_come_back(stepped_server, in_background, eventually, call):
    """Completions have a rate once there were several; the wait is that of everyone who is before."""
    server, runner = stepped_server(max_running=1, max_wait_seconds=0)
    runner.let_through(2)
    for _ in range(2):
        assert post(server, max_new_tokens=1).status_code == 200
    callers = [call(server, "/generate", {"inputs": "b"}) for _ in range(50)]
    eventually(lambda: server.service.generator.client.num_unfinished == 50)
    response = post(server, timeout_seconds=0.001)
    assert response.status_code == 429
    assert response.json()["error_type"] == "overloaded"
    assert "timeout_seconds is 0.001" in response.json()["error"]
    assert int(response.headers["retry-after"]) >= 1
    for caller in callers:
        caller.leave()


@pytest.mark.parametrize("seconds", [0, -1, 1e9])
def test_a_limit_is_a_reasonable_number_of_seconds(client, seconds):
    response = client.post("/generate", json={"inputs": "a", "parameters": {"timeout_seconds": seconds}})
    assert response.status_code == 422
    assert "timeout_seconds" in response.json()["error"]


@pytest.mark.parametrize(
    ("path", "body"),
    [("/v1/completions", {"prompt": ["a", "b"]}), ("/v1/completions", {"prompt": "a", "stream": True})],
)
def test_under_v1_it_is_a_504_in_openais_form(standing, eventually, path, body):
    server, _ = standing
    response = httpx.post(server.url + path, json={**body, "timeout_seconds": SOON}, timeout=60)
    assert response.status_code == 504
    assert (response.json()["error"]["type"], response.json()["error"]["code"]) == ("server_error", "timeout")
    eventually(lambda: server.service.generator.client.num_unfinished == 0)
