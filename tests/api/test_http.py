"""HTTP alone: HEAD, HTTP/1.0, idle connections, methods, headers of streams, and what pages of other origins may read."""

import socket
from contextlib import closing

import httpx
import pytest

GET_ROUTES = [
    "/", "/client.js", "/page/main.js", "/docs", "/docs/swagger-ui.css", "/docs/swagger-ui-bundle.js", "/openapi.json", "/health",
    "/health/live", "/health/ready", "/health/startup", "/metrics", "/info", "/v1/models", "/v1/models/tiny-gpt2",
]  # fmt: skip
STREAMS = {
    "/generate_stream": b'{"inputs": "The old man", "parameters": {"max_new_tokens": 5}}',
    "/generate": b'{"inputs": "The old man", "parameters": {"max_new_tokens": 5}, "stream": true}',
    "/v1/completions": b'{"prompt": "The old man", "max_tokens": 5, "seed": 1, "ignore_eos": true, "stream": true}',
}
CHANGING = {"content-length", "date", "x-request-id"}


def request_of(version, path, body, *headers):
    """A request by hand."""
    head = [f"POST {path} HTTP/{version}".encode(), b"Host: a", b"Content-Length: %d" % len(body), *headers]
    return b"\r\n".join([*head, b"", body])


def parsed(answer):
    """Status line, headers and body."""
    head, _, body = answer.partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    return status, dict(line.lower().split(": ", 1) for line in lines), body


@pytest.mark.row("route.head")
@pytest.mark.parametrize("path", GET_ROUTES)
def test_head_answers_as_get_does_without_a_body(client, path):
    head, get = client.head(path), client.get(path)
    assert head.status_code == get.status_code == 200
    assert head.content == b""
    told = [{name: value for name, value in response.headers.items() if name not in CHANGING} for response in (head, get)]
    assert told[0] == told[1]
    if path != "/metrics":  # which grows
        assert head.headers["content-length"] == get.headers["content-length"]


def test_head_of_what_is_not_there_or_no_get_route_says_so(client):
    assert client.head("/nowhere").status_code == 404
    response = client.head("/generate")
    assert (response.status_code, response.headers["allow"]) == (405, "POST")


@pytest.mark.row("error.method")
@pytest.mark.parametrize(
    ("path", "methods"),
    [
        ("/", "GET, HEAD, POST"),
        ("/generate", "POST"),
        ("/info", "GET, HEAD"),
        ("/client.js", "GET, HEAD"),
        ("/page/main.js", "GET, HEAD"),
        ("/v1/models/a", "GET, HEAD"),
    ],
)
def test_a_wrong_method_is_told_all_right_ones(client, path, methods):
    response = client.delete(path)
    assert (response.status_code, response.headers["allow"]) == (405, methods)


@pytest.mark.row("http.http10")
@pytest.mark.parametrize("path", STREAMS)
@pytest.mark.parametrize("headers", [[], [b"Connection: keep-alive"]], ids=["plain", "keep-alive"])
def test_a_stream_to_http_1_0_has_no_chunks_and_ends_with_its_connection(raw_answer, path, headers):
    status, told, body = parsed(raw_answer(request_of("1.0", path, STREAMS[path], *headers)))
    assert status.split(" ", 1)[1] == "200 OK"
    assert "transfer-encoding" not in told
    assert "content-length" not in told
    assert told["connection"] == "close"
    events = body.decode().removesuffix("\n\n").split("\n\n")
    assert all(event.startswith("data: ") for event in events)
    assert len(events) == 5 + path.startswith("/v1")


def test_an_answer_of_known_length_to_http_1_0_is_whole_and_ends_with_its_connection(raw_answer, client):
    body = b'{"inputs": "The old man", "parameters": {"max_new_tokens": 5}}'
    _, told, answer = parsed(raw_answer(request_of("1.0", "/generate", body)))
    assert told["connection"] == "close"
    assert int(told["content-length"]) == len(answer)
    assert answer == client.post("/generate", content=body).content
    assert raw_answer(b"HEAD /info HTTP/1.0\r\n\r\n").endswith(b"\r\n\r\n")
    assert parsed(raw_answer(b"GET /docs/swagger-ui.css HTTP/1.0\r\n\r\n"))[2] == client.get("/docs/swagger-ui.css").content


@pytest.mark.row("stream.headers")
@pytest.mark.parametrize("path", STREAMS)
def test_a_stream_tells_its_type_once_and_is_not_to_be_kept(client, path):
    headers = client.post(path, content=STREAMS[path]).headers
    assert headers.get_list("content-type") == ["text/event-stream; charset=utf-8"]
    assert headers.get_list("cache-control") == ["no-cache, no-transform"]
    assert headers.get_list("x-accel-buffering") == ["no"]
    assert headers["transfer-encoding"] == "chunked"


@pytest.mark.row("http.keep_alive")
def test_an_idle_connection_is_closed_when_its_time_is_up_and_not_before(start_server):
    server = start_server(keep_alive_seconds=1)
    host, port = server.url.removeprefix("http://").split(":")
    with closing(socket.create_connection((host, int(port)), timeout=60)) as connection:
        for _ in range(2):
            connection.sendall(b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n")
            assert connection.recv(65536).startswith(b"HTTP/1.1 200")
        assert connection.recv(65536) == b""


@pytest.mark.row("http.keep_alive")
def test_connections_may_be_idle_for_longer_than_load_balancers_keep_theirs(server):
    assert server.server.config.timeout_keep_alive == 75


@pytest.mark.row("http.cors")
def test_a_page_of_a_named_origin_reads_every_header_of_ours_and_errors_too(stepped_server, in_background, eventually):
    server, runner = stepped_server(cors_origins="https://a.example", max_running=1, max_waiting=0)
    origin = {"origin": "https://a.example"}
    occupant = in_background(server, "/generate", {"inputs": "a"})
    eventually(lambda: runner.arrived)
    full = httpx.post(server.url + "/generate", json={"inputs": "a"}, headers=origin)
    runner.open()
    assert occupant.response.status_code == 200
    answer = httpx.post(server.url + "/generate", json={"inputs": "a"}, headers=origin, timeout=60)
    assert (full.status_code, answer.status_code) == (429, 200)
    for response in (full, answer):
        assert response.headers["access-control-allow-origin"] == "https://a.example"
        exposed = response.headers["access-control-expose-headers"].split(", ")
        assert {name for name in response.headers if name.startswith("x-") or name == "retry-after"} <= set(exposed)
    assert "retry-after" in full.headers
    assert "x-time-per-token" in answer.headers


def test_a_fault_of_ours_is_readable_from_a_named_origin(start_server, monkeypatch):
    server = start_server(cors_origins="https://a.example")
    monkeypatch.setattr(server.service.generator.tokenizer.__class__, "spans", lambda *_: 1 / 0)
    response = httpx.post(server.url + "/tokenize", json={"inputs": "a"}, headers={"origin": "https://a.example"})
    assert response.status_code == 500
    assert response.headers["access-control-allow-origin"] == "https://a.example"
    assert response.headers["x-request-id"] in response.json()["error"]


class Panic(BaseException):
    """As libraries written in Rust raise it."""


def test_a_panic_of_a_library_is_answered_as_any_fault_of_ours(start_server, monkeypatch):
    def panic(*_):
        raise Panic

    server = start_server()
    monkeypatch.setattr(server.service.generator.tokenizer.__class__, "spans", panic)
    response = httpx.post(server.url + "/tokenize", json={"inputs": "a"})
    assert response.status_code == 500
    assert response.headers["x-request-id"] in response.json()["error"]
    assert httpx.get(server.url + "/health").status_code == 200


@pytest.mark.row("http.cors")
@pytest.mark.parametrize("asked", ["authorization, content-type", "x-stainless-os, x-stainless-retry-count, x-api-key"])
def test_a_preflight_gets_whatever_headers_it_asks_for(start_server, asked):
    server = start_server(cors_origins="https://a.example")
    preflight = {"origin": "https://a.example", "access-control-request-method": "POST", "access-control-request-headers": asked}
    response = httpx.options(server.url + "/v1/completions", headers=preflight)
    assert response.status_code == 200
    assert response.headers["access-control-allow-headers"] == asked
