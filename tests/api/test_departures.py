"""A client that leaves frees its slot within one step: streaming or not, while queued, before the first token and between tokens.

The engine stands still between steps here, so that "within one step" is counted, not timed.
"""

import httpx
import pytest

LONG = "word after word " * 100  # several prefill chunks
REQUESTS = {
    "native": ("/generate", {"inputs": "a", "parameters": {"max_new_tokens": 500}}),
    "native, streamed": ("/generate_stream", {"inputs": "a", "parameters": {"max_new_tokens": 500}}),
    "compat": ("/", {"inputs": "a", "parameters": {"max_new_tokens": 500}}),
    # This dialect draws by default, and might draw the end token.
    "openai": ("/v1/completions", {"prompt": "a", "max_tokens": 500, "ignore_eos": True}),
    "openai, streamed": ("/v1/completions", {"prompt": "a", "max_tokens": 500, "ignore_eos": True, "stream": True}),
}
each_kind = pytest.mark.parametrize(("path", "body"), REQUESTS.values(), ids=REQUESTS.keys())


def num_unfinished(server):
    return server.service.generator.client.num_unfinished


def is_idle(server):
    return not any(server.metric(f"gpt2_{name}") for name in ("requests_running", "requests_waiting", "slots_used"))


@pytest.mark.row("stream.departure")
@each_kind
def test_between_two_tokens(stepped_server, call, eventually, path, body):
    server, runner = stepped_server()
    caller = call(server, path, body)
    runner.let_through(3)
    eventually(lambda: len(runner.arrived) == 4)
    caller.leave()
    eventually(lambda: num_unfinished(server) == 0)
    runner.let_through(1)
    eventually(lambda: is_idle(server))
    assert len(runner.arrived) == 4, "the step that was under way was its last"
    eventually(lambda: server.metric("gpt2_requests_total", route=path, outcome="aborted") == 1)


@pytest.mark.row("stream.departure")
@each_kind
def test_before_the_first_token(stepped_server, call, eventually, path, body):
    server, runner = stepped_server()
    caller = call(server, path, {**body, "prompt" if "prompt" in body else "inputs": LONG})
    runner.let_through(1)
    eventually(lambda: len(runner.arrived) == 2)
    assert not runner.arrived[-1].chunks[0].draws, "the prompt is not through yet"
    caller.leave()
    eventually(lambda: num_unfinished(server) == 0)
    runner.let_through(1)
    eventually(lambda: is_idle(server))
    assert len(runner.arrived) == 2
    eventually(lambda: server.metric("gpt2_requests_total", route=path, outcome="aborted") == 1)


@each_kind
def test_while_queued(stepped_server, call, in_background, eventually, path, body):
    server, runner = stepped_server(max_running=1)
    running = in_background(server, "/generate", {"inputs": "b", "parameters": {"max_new_tokens": 5}})
    eventually(lambda: len(runner.arrived) == 1)
    caller = call(server, path, body)
    eventually(lambda: num_unfinished(server) == 2)
    runner.let_through(2)  # the first was planned before the caller came
    eventually(lambda: server.metric("gpt2_requests_waiting") == 1)
    caller.leave()
    eventually(lambda: num_unfinished(server) == 1)
    runner.let_through(2)
    eventually(lambda: server.metric("gpt2_requests_waiting") == 0)
    runner.open()
    assert running.response.status_code == 200
    assert len(runner.arrived) == 5, "the one that left was never computed"
    eventually(lambda: is_idle(server))


def test_its_slot_goes_to_the_next_in_the_queue(stepped_server, call, in_background, eventually):
    server, runner = stepped_server(max_running=1)
    caller = call(server, *REQUESTS["native, streamed"])
    eventually(lambda: len(runner.arrived) == 1)
    waiting = in_background(server, "/generate", {"inputs": "b", "parameters": {"max_new_tokens": 2}})
    eventually(lambda: num_unfinished(server) == 2)
    caller.leave()
    eventually(lambda: num_unfinished(server) == 1)
    runner.open()
    assert waiting.response.status_code == 200
    assert len(runner.arrived) == 1 + 2


def test_after_its_neighbours_left_a_request_gets_what_it_gets_alone(stepped_server, call, in_background, eventually):
    server, runner = stepped_server()
    body = {"inputs": LONG, "parameters": {"max_new_tokens": 30, "temperature": 1.0, "seed": 1, "details": True}}
    request = in_background(server, "/generate", body)
    eventually(lambda: runner.arrived)
    leaving = [call(server, *kind) for kind in REQUESTS.values()]
    eventually(lambda: num_unfinished(server) == 1 + len(REQUESTS))
    runner.let_through(12)
    eventually(lambda: len(runner.arrived) == 13)
    for caller in leaving:
        caller.leave()
    eventually(lambda: num_unfinished(server) == 1)
    runner.open()
    crowded = request.response.json()
    assert httpx.post(server.url + "/generate", json=body).json() == crowded


def test_one_that_leaves_while_it_sends_its_body_is_no_error(server, client, eventually):
    import socket

    host, port = server.url.removeprefix("http://").split(":")
    before = server.metric("gpt2_requests_total", route="/generate", outcome="aborted")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(b"POST /generate HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n{")
    eventually(lambda: server.metric("gpt2_requests_total", route="/generate", outcome="aborted") == before + 1)
    assert client.get("/health").status_code == 200
