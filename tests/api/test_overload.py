"""A full queue and a failing engine: a clear status for those concerned, and nothing for the others."""

import re

import httpx
import pytest

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
        assert "no room" in response.json()["error"]
        assert httpx.post(server.url + "/generate", json=body).json() == before
    assert server.metric("gpt2_slots_used") == 0
