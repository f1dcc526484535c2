"""Server-sent events of the native routes: one a token, adding up to the unstreamed text, ending visibly."""

import httpx
import pytest

from app.sse import PING

ROUTES = [("/generate_stream", {}), ("/generate", {"stream": True}), ("/", {"stream": True})]


@pytest.mark.row("route.generate_stream", "generate.stream", "stream.headers", "stream.native_event", "stream.native_last")
@pytest.mark.parametrize(("path", "extra"), ROUTES)
def test_each_route_streams_one_event_a_token(client, sse, path, extra):
    response = client.post(path, json={"inputs": "The old man", "parameters": {"max_new_tokens": 5, "seed": 9}, **extra})
    assert response.status_code == 200
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert response.headers["cache-control"] == "no-cache, no-transform"
    assert response.headers["x-accel-buffering"] == "no"
    assert response.headers["x-seed"] == "9"
    assert "content-length" not in response.headers
    events = sse(response)
    assert [event["index"] for event in events] == [1, 2, 3, 4, 5]
    assert all(list(event) == ["index", "token", "generated_text", "details"] for event in events)
    assert all(event["generated_text"] is None and event["details"] is None for event in events[:-1])
    assert events[-1]["details"] == {"finish_reason": "length", "generated_tokens": 5, "input_length": 5, "seed": 9}


@pytest.mark.row("route.generate_stream")
def test_generate_stream_streams_even_if_the_body_says_no(client, sse):
    response = client.post("/generate_stream", json={"inputs": "a", "stream": False, "parameters": {"max_new_tokens": 2}})
    assert len(sse(response)) == 2


def bytes_of(server):
    """The token id of each single byte."""
    tokenizer = server.service.generator.tokenizer
    return {tokenizer.token_bytes(i)[0]: i for i in range(256)}


PARAMETERS = {
    "greedy": {},
    "sampled, mostly bytes that are no UTF-8": {"temperature": 3.0, "seed": 1},
    "sampled, another seed": {"temperature": 3.0, "seed": 2},
    "stop string": {"temperature": 3.0, "seed": 1, "stop": ["e", "\ufffd\ufffd"]},
    "stop string that never comes": {"temperature": 3.0, "seed": 2, "stop": ["\ufffd\ufffd\ufffd\ufffd\ufffd\ufffd\ufffd\x00"]},
    "first byte of a character only": {"logit_bias": {"201": 100}, "max_new_tokens": 4},
    "two-byte characters": {"logit_bias": {"127": 100}, "max_new_tokens": 4},
    "end token": {"logit_bias": {"499": 100}},
    "end token after a few": {"logit_bias": {"499": 100}, "min_new_tokens": 4, "temperature": 2.0, "seed": 3},
    "stop token": {"logit_bias": {"42": 100}, "min_new_tokens": 2, "stop_token_ids": [42]},
    "one token": {"max_new_tokens": 1},
    "the full text": {"return_full_text": True},
    "more than the context holds": {"max_new_tokens": 5000, "temperature": 1.5, "seed": 4},
}


@pytest.mark.row("stream.same_text")
@pytest.mark.parametrize("parameters", PARAMETERS.values(), ids=PARAMETERS.keys())
def test_a_stream_adds_up_to_the_unstreamed_answer(generate, stream, parameters):
    answer = generate("Café 日本", **({"max_new_tokens": 60, "seed": 1} | parameters))
    events = stream("Café 日本", **({"max_new_tokens": 60, "seed": 1} | parameters))
    assert [event["token"] for event in events] == answer["details"]["tokens"]
    assert [event["index"] for event in events] == list(range(1, len(events) + 1))
    last = events[-1]
    assert last["generated_text"] == answer["generated_text"]
    prompt = "Café 日本" if parameters.get("return_full_text") else ""
    assert prompt + "".join(event["token"]["text"] for event in events) == last["generated_text"]
    assert last["details"] == {name: answer["details"][name] for name in last["details"]}


@pytest.mark.row("stream.utf8")
def test_a_character_cut_over_tokens_comes_whole_with_the_last_of_them(stepped_server, sse):
    server, runner = stepped_server()
    runner.open()
    byte_ids = bytes_of(server)
    runner.script = [byte_ids[byte] for byte in "é🎉a".encode() + b"\xc3"]
    answer = httpx.post(server.url + "/generate_stream", json={"inputs": "a", "parameters": {"max_new_tokens": 8}})
    events = sse(answer)
    assert [event["token"]["text"] for event in events] == ["", "é", "", "", "", "🎉", "a", "\ufffd"]
    assert events[-1]["generated_text"] == "é🎉a\ufffd"


@pytest.mark.row("stream.stop_strings")
def test_a_stop_string_across_characters_and_tokens_is_held_back_until_it_is_clear(stepped_server, sse):
    server, runner = stepped_server()
    runner.open()
    byte_ids = bytes_of(server)
    runner.script = [byte_ids[byte] for byte in "aébéc".encode()]
    answer = httpx.post(server.url + "/generate_stream", json={"inputs": "a", "parameters": {"max_new_tokens": 9, "stop": ["éc"]}})
    events = sse(answer)
    assert [event["token"]["text"] for event in events] == ["a", "", "", "éb", "", "", ""]
    assert events[-1]["generated_text"] == "aéb"
    assert events[-1]["details"]["finish_reason"] == "stop_sequence"


@pytest.mark.row("stream.first_error")
def test_an_error_before_the_first_token_is_a_real_status(client):
    for path, extra in ROUTES:
        response = client.post(path, json={"inputs": "the sea " * 2000, **extra})
        assert response.status_code == 422
        assert response.headers["content-type"] == "application/json"


@pytest.mark.row("stream.first_error", "error.generation")
def test_an_engine_failure_before_the_first_token_is_a_500(stepped_server, caplog):
    server, runner = stepped_server()
    runner.failures.append(RuntimeError("the first step breaks"))
    runner.open()
    response = httpx.post(server.url + "/generate_stream", json={"inputs": "a"})
    assert response.status_code == 500
    assert response.json()["error_type"] == "generation"
    assert f"the log has it under {response.headers['x-request-id']}" in response.json()["error"]
    assert any(response.headers["x-request-id"] in record.getMessage() for record in caplog.records if record.levelname == "ERROR")


@pytest.mark.row("stream.later_error")
def test_an_engine_failure_after_the_first_token_is_an_event(stepped_server, sse):
    server, runner = stepped_server()
    runner.let_through(2)
    with httpx.stream("POST", server.url + "/generate_stream", json={"inputs": "a"}, timeout=60) as response:
        assert response.status_code == 200
        runner.failures.append(RuntimeError("the third step breaks"))
        runner.open()
        events = sse(response)
    assert len(events) == 3
    assert events[-1]["error_type"] == "generation"
    assert "the step failed: RuntimeError" in events[-1]["error"]
    assert f"the log has it under {response.headers['x-request-id']}" in events[-1]["error"]


@pytest.mark.row("stream.ping")
def test_silence_is_filled_with_comments(stepped_server, monkeypatch):
    monkeypatch.setattr("app.api.outputs.PING_SECONDS", 0.02)
    server, runner = stepped_server()
    with httpx.stream(
        "POST", server.url + "/generate_stream", json={"inputs": "a", "parameters": {"max_new_tokens": 2}}, timeout=60
    ) as response:
        assert response.status_code == 200, "the first comment sends the headers"
        lines, seen = response.iter_lines(), []
        while seen.count(PING.decode().strip()) < 3:
            seen.append(next(lines))
        runner.open()
        events = [line for line in lines if line.startswith("data: ")]
    assert set(seen) == {": ping", ""}
    assert len(events) == 2


@pytest.mark.row("stream.ping")
def test_who_waits_in_the_queue_is_sent_comments_and_may_leave(stepped_server, in_background, eventually, monkeypatch):
    monkeypatch.setattr("app.api.outputs.PING_SECONDS", 0.02)
    server, runner = stepped_server(max_running=1)
    running = in_background(server, "/generate", {"inputs": "b", "parameters": {"max_new_tokens": 2}})
    eventually(lambda: len(runner.arrived) == 1)
    body = {"inputs": "a", "parameters": {"max_new_tokens": 2}}
    with httpx.stream("POST", server.url + "/generate_stream", json=body, timeout=60) as response:
        lines = response.iter_lines()
        assert [next(lines) for _ in range(4)] == [": ping", ""] * 2
    eventually(lambda: server.service.generator.client.num_unfinished == 1)
    runner.open()
    assert running.response.status_code == 200
    assert len(runner.arrived) == 2, "the one that left was never computed"


def test_a_failure_after_a_comment_is_an_event(stepped_server, monkeypatch, sse):
    monkeypatch.setattr("app.api.outputs.PING_SECONDS", 0.02)
    server, runner = stepped_server()
    with httpx.stream("POST", server.url + "/generate_stream", json={"inputs": "a"}, timeout=60) as response:
        runner.failures.append(RuntimeError("broken"))
        runner.open()
        (event,) = sse(response)
    assert event["error_type"] == "generation"


@pytest.mark.row("stream.utf8")
def test_every_event_is_one_line_of_utf8(client):
    body = {"inputs": "a", "parameters": {"temperature": 5.0, "seed": 1, "max_new_tokens": 200}}
    content = client.post("/generate_stream", json=body).content
    blocks = content.decode("utf-8", errors="strict").split("\n\n")
    assert blocks[-1] == ""
    assert all(block.startswith("data: {") and "\n" not in block and "\r" not in block for block in blocks[:-1])


@pytest.mark.row("stream.end_token")
def test_the_end_token_has_an_event_that_is_special_and_without_a_text(stream):
    *_, last = stream(max_new_tokens=5, logit_bias={"499": 100})
    assert (last["index"], last["generated_text"]) == (1, "")
    assert last["token"] == {"id": 499, "text": "", "logprob": last["token"]["logprob"], "special": True}
