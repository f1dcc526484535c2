"""API keys over HTTP: which routes answer without one, that no spelling of a request gets past, and what one key may take."""

import json
import re
import signal
import socket
from contextlib import closing

import httpx
import openai
import pytest

from app.authentication import RunningRequests
from app.errors import KeyLimitReached
from app.settings import Settings
from tests.conftest import running_server

KEY, OTHER_KEY = "alices-key-0123456789", "bobs-key-9876543210"
RAW = KEY.encode()
RIGHT = b"Bearer " + RAW
BEARER = {"authorization": f"Bearer {KEY}"}
PATHS = {
    "GET": [
        "/", "/client.js", "/page/main.js", "/page/nowhere.js", "/docs", "/docs/start.js", "/docs/swagger-ui.css",
        "/docs/swagger-ui-bundle.js", "/openapi.json", "/health", "/health/live", "/health/ready", "/health/startup", "/metrics",
        "/info", "/v1/models",
        "/v1/models/tiny-gpt2", "/nowhere",
    ],
    "POST": [
        "/", "/generate", "/generate_stream", "/v1/completions", "/v1/chat/completions", "/v1/score", "/v1/inspect",
        "/tokenize", "/detokenize", "/health", "/nowhere",
    ],
}  # fmt: skip
OPEN = {
    "/", "/client.js", "/page/main.js", "/docs", "/docs/start.js", "/docs/swagger-ui.css", "/docs/swagger-ui-bundle.js",
    "/openapi.json", "/health", "/health/live", "/health/ready", "/health/startup",
}  # fmt: skip
WRONG = [
    b"", b"Bearer", b"Bearer ", RAW, b"Basic " + RAW, b"Token " + RAW, b"Bearer" + RAW, b"Bearer " + KEY[:-1].encode(),
    RIGHT + b"x", b"Bearer " + KEY.upper().encode(), b"Bearer wrong-key-of-16-chars", RIGHT + b"\xa0", RIGHT + b", Bearer x",
    b"Bearer\t" + RAW, b"Bearer alice", b"Bearer alice:" + RAW, b'Bearer "' + RAW + b'"', RIGHT + b" x", b"Bearer *",
    b"Bearer %00", "Bearer sch\u00fcssel".encode(), b"Bearer " + b"a" * 4096, b"Bearer null", b"Bearer undefined",
]  # fmt: skip
HOSTS = [
    b"health", b"/health", b"a/health", b"a/health?", b"a?/health", b"a#/health", b"/health/live#", b"[::1]/health", b"a@b/health",
    b"127.0.0.1:8000/health", b"a/../health", b"%2fhealth",
]  # fmt: skip
PROXIES = [
    b"X-Forwarded-For: 127.0.0.1", b"X-Forwarded-Host: localhost/health", b"X-Forwarded-Prefix: /health",
    b"X-Forwarded-Proto: https", b"X-Forwarded-Path: /health", b"X-Original-URL: /health", b"X-Rewrite-URL: /health",
    b"X-Real-IP: 127.0.0.1", b"Forwarded: for=127.0.0.1;host=localhost", b"X-HTTP-Method-Override: GET",
    b"X-Original-Method: OPTIONS", b"X-Script-Name: /health",
]  # fmt: skip
TARGETS = [
    b"//info", b"///info", b"/health/../info", b"/health/%2e%2e/info", b"/health/..%2finfo", b"/health%2f..%2finfo", b"/info/",
    b"/info?/health", b"/info#/health", b"/info;/health", b"/%69nfo", b"/INFO", b"/./info", b"/docs/../info",
    b"/docs/%2e%2e/info", b"/health/", b"/health//", b"/healthx", b"/Health", b"/health/live/..", b"/docs/",
    b"/docs/swagger-ui.css/../../info", b"/health%00", b"/openapi.json/", b"http://a/info", b"http://a/health/../info",
    b"/page/", b"/page/../info", b"/page/%2e%2e/info", b"/page/main.js/", b"/client.js/", b"/info%20", b"/%2e/info",
    b"/\\info", b"*",
]  # fmt: skip


@pytest.fixture(scope="module")
def server(tiny_checkpoint):
    """One that asks for a key; the log of the module's tests must never have it."""
    settings = Settings(
        model=str(tiny_checkpoint),
        port=0,
        device="cpu",
        chat_template="plain",
        api_keys=f"alice:{KEY},bob:{OTHER_KEY}",
        _env_file=None,
    )
    with running_server(settings) as running:
        yield running


def request_of(method, target, *headers, host=b"a"):
    """A request by hand, which no client would tidy up; the connection ends with its answer."""
    body = [b"Content-Length: 2", b"", b"{}"] if method == "POST" else [b"", b""]
    return b"\r\n".join([b"%s %s HTTP/1.1" % (method.encode(), target), b"Host: " + host, b"Connection: close", *headers, *body])


@pytest.fixture
def status_of(raw_answer):
    """The status of the answer to bytes; 0 if none came."""

    def send(request):
        status = re.match(rb"HTTP/1\.1 (\d+)", raw_answer(request))
        return int(status[1]) if status else 0

    return send


@pytest.mark.row("http.authorization")
@pytest.mark.parametrize(("method", "path"), [(method, path) for method, paths in PATHS.items() for path in paths])
def test_a_route_answers_without_a_key_only_if_it_is_on_the_list(status_of, method, path):
    is_open = method == "GET" and path in OPEN
    target = path.encode()
    assert (status_of(request_of(method, target)) != 401) is is_open
    assert status_of(request_of(method, target, b"Authorization: Bearer " + KEY.encode())) != 401
    for value in WRONG:
        assert (status_of(request_of(method, target, b"Authorization: " + value)) != 401) is is_open, value
    for host in HOSTS:
        assert status_of(request_of(method, target, host=host)) in ((200, 400) if is_open else (400, 401)), host
    for header in PROXIES:
        assert (status_of(request_of(method, target, header)) != 401) is is_open, header


def test_what_the_list_names_is_there(client):
    assert {path: client.get(path).status_code for path in OPEN} == dict.fromkeys(OPEN, 200)
    assert {path: client.head(path).status_code for path in OPEN} == dict.fromkeys(OPEN, 200)


def test_every_route_of_the_service_has_been_asked(client):
    asked = {(method, path.replace("tiny-gpt2", "{model_id}")) for method, paths in PATHS.items() for path in paths}
    document = client.get("/openapi.json").json()
    assert {(method.upper(), path) for path, operations in document["paths"].items() for method in operations} <= asked


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "OPTIONS", "PUT", "DELETE", "PATCH", "TRACE"])
def test_no_spelling_of_a_path_gets_past(status_of, method, target):
    assert status_of(request_of(method, target)) in (400, 401)


@pytest.mark.parametrize("method", ["OPTIONS", "PUT", "DELETE", "PATCH", "TRACE", "PROPFIND", "get"])
@pytest.mark.parametrize("path", [b"/info", b"/generate", b"/health", b"/"])
def test_no_other_method_answers_without_a_key(status_of, method, path):
    assert status_of(request_of(method, path)) in (400, 401)


def test_head_needs_a_key_where_get_does(client):
    assert client.head("/info").status_code == 401
    assert client.head("/info", headers=BEARER).status_code == 200


@pytest.mark.parametrize("value", ["Bearer {}", "bearer {}", "BEARER   {}", "bEaReR {}  "])
def test_the_scheme_has_no_case_and_the_space_around_a_header_is_no_part_of_it(raw_answer, value):
    answer = raw_answer(request_of("GET", b"/info", b"Authorization: " + value.format(KEY).encode()))
    assert answer.startswith(b"HTTP/1.1 200")


def test_two_authorizations_are_none(status_of):
    right, wrong = b"Authorization: Bearer " + KEY.encode(), b"Authorization: Bearer wrong"
    for headers in ((right, wrong), (wrong, right), (right, right)):
        assert status_of(request_of("GET", b"/info", *headers)) == 401


def test_a_key_is_taken_from_its_header_alone(client):
    for name in ("x-api-key", "api-key", "proxy-authorization", "cookie", "x-authorization"):
        assert client.get("/info", headers={name: KEY}).status_code == 401
        assert client.get("/info", headers={name: f"Bearer {KEY}"}).status_code == 401
    assert client.get("/info", params={"api_key": KEY, "authorization": f"Bearer {KEY}"}).status_code == 401


@pytest.mark.row("error.key")
def test_the_answer_is_the_same_whatever_is_wrong(raw_answer, client):
    answers = [raw_answer(request_of("POST", b"/generate", b"Authorization: " + value)) for value in WRONG]
    answers.append(raw_answer(request_of("POST", b"/generate")))
    assert {re.sub(rb"(date|x-request-id): [^\r]+", b"", answer) for answer in answers} == {
        b"HTTP/1.1 401 Unauthorized\r\n\r\nwww-authenticate: Bearer\r\ncontent-length: 111\r\ncontent-type: application/json\r\n"
        b"\r\nconnection: close\r\n\r\n"
        b'{"error":"a valid API key is needed, in the header `Authorization: Bearer KEY`","error_type":"invalid_api_key"}'
    }
    assert len(client.get("/info").headers["x-request-id"]) == 32


@pytest.mark.row("error.key")
def test_openais_client_is_told_in_its_own_words(server):
    with openai.OpenAI(base_url=server.url + "/v1", api_key="wrong", max_retries=0) as client:
        with pytest.raises(openai.AuthenticationError) as refusal:
            client.completions.create(model="gpt2", prompt="a")
        assert (refusal.value.code, refusal.value.type, refusal.value.param) == ("invalid_api_key", "invalid_request_error", None)
    with openai.OpenAI(base_url=server.url + "/v1", api_key=KEY, max_retries=0, timeout=60) as client:
        assert client.completions.create(model="gpt2", prompt="a", max_tokens=2).usage.completion_tokens <= 2
        assert client.models.list().data


def test_a_body_is_not_read_before_its_key(raw_answer):
    head = b"POST /generate HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 1000000\r\n\r\n{"
    assert raw_answer(head).startswith(b"HTTP/1.1 401")


@pytest.mark.row("route.metrics")
def test_metrics_are_open_where_a_setting_says_so(start_server):
    server = start_server(api_keys=KEY, metrics_need_key=False)
    assert httpx.get(server.url + "/metrics").status_code == 200
    assert [httpx.get(server.url + path).status_code for path in ("/metrics/", "/metricsx", "/info")] == [401] * 3
    assert httpx.post(server.url + "/metrics").status_code == 401


def test_without_keys_all_is_open_and_any_key_is_passed_over(start_server):
    server = start_server()
    assert httpx.get(server.url + "/info").status_code == 200
    assert httpx.get(server.url + "/metrics", headers=BEARER).status_code == 200
    assert "securitySchemes" not in httpx.get(server.url + "/openapi.json").json()["components"]


def test_the_document_says_which_operations_need_a_key(client):
    document = client.get("/openapi.json").json()
    assert document["components"]["securitySchemes"] == {"key": {"type": "http", "scheme": "bearer"}}
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            is_open = method == "get" and path in OPEN
            assert ("security" in operation, "401" in operation["responses"]) == ((False, False) if is_open else (True, True)), path


@pytest.mark.row("http.cors")
def test_a_preflight_needs_no_key_and_what_follows_it_does(start_server):
    server = start_server(api_keys=KEY, cors_origins="https://a.example")
    origin = {"origin": "https://a.example"}
    preflight = origin | {"access-control-request-method": "POST", "access-control-request-headers": "authorization"}
    assert httpx.options(server.url + "/generate", headers=preflight).status_code == 200
    refused = httpx.post(server.url + "/generate", json={"inputs": "a"}, headers=origin)
    assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (401, "https://a.example")
    assert httpx.options(server.url + "/generate", headers=origin).status_code == 401, "no preflight"


@pytest.mark.row("http.cors")
def test_by_default_no_page_of_another_origin_reads_anything(start_server):
    server = start_server()
    for method in ("GET", "OPTIONS"):
        response = httpx.request(
            method, server.url + "/info", headers={"origin": "https://a.example", "access-control-request-method": "GET"}
        )
        assert not [name for name in response.headers if name.startswith("access-control")]


def test_refusals_are_counted_apart_and_the_log_names_the_key_but_has_none(client, server, capfd, eventually):
    before = server.metric("gpt2_requests_total", route="/generate", outcome="unauthorized")
    client.post("/generate", json={"inputs": "a"}, headers={"authorization": f"Bearer {KEY[:-1]}"})
    client.post("/generate", json={"inputs": "a", "parameters": {"max_new_tokens": 1}}, headers=BEARER)
    assert server.metric("gpt2_requests_total", route="/generate", outcome="unauthorized") == before + 1
    log = []
    eventually(lambda: log.extend(capfd.readouterr()) or "outcome=completed" in "".join(log))
    assert "outcome=unauthorized" in "".join(log)
    assert "key=alice" in "".join(log)
    assert KEY[:-1] not in "".join(log)


# ---- how much runs under one key


@pytest.mark.row("error.key_limit")
def test_a_key_has_no_more_under_way_than_it_may_and_others_go_on(stepped_server, eventually):
    server, runner = stepped_server(api_keys=f"alice:{KEY},bob:{OTHER_KEY}", max_running_per_key=2)
    bodies = {"/generate": {"inputs": "a"}, "/v1/completions": {"prompt": "a", "stream": True}}
    with httpx.Client(base_url=server.url, headers=BEARER, timeout=60) as alice:
        leavers = [Leaver(server.url, path, body) for path, body in bodies.items()]
        running = server.server.config.app.state.running_requests
        eventually(lambda: running.count("alice") == 2)
        refused = [alice.post("/generate", json={"inputs": "a"}), alice.post("/v1/completions", json={"prompt": "a"})]
        assert [response.status_code for response in refused] == [429, 429]
        assert all(1 <= int(response.headers["retry-after"]) <= 60 for response in refused)
        assert "the limit is 2" in refused[0].json()["error"]
        assert refused[1].json()["error"]["code"] == "overloaded"
        assert alice.get("/info").status_code == 200, "what makes no work is not counted"
        for leaver in leavers:
            leaver.leave()
        eventually(lambda: running.count("alice") == 0)
        runner.open()
        assert alice.post("/generate", json={"inputs": "a"}).status_code == 200
        assert alice.post("/generate", content=b"{").status_code == 422
    assert (
        httpx.post(server.url + "/generate", json={"inputs": "a"}, headers={"authorization": f"Bearer {OTHER_KEY}"}).status_code
        == 200
    )
    assert running.count("alice") == running.count("bob") == 0


class Leaver:
    """A client with a key that leaves without having read its answer."""

    def __init__(self, url, path, body):
        host, port = url.removeprefix("http://").split(":")
        content = json.dumps(body).encode()
        self._socket = socket.create_connection((host, int(port)), timeout=60)
        head = f"POST {path} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {KEY}\r\nContent-Length: {len(content)}\r\n\r\n"
        self._socket.sendall(head.encode() + content)

    def leave(self):
        with closing(self._socket):
            pass


def refused_after(running):
    with pytest.raises(KeyLimitReached) as refusal:
        running.enter("alice")
    return refusal.value.retry_after


def test_retry_after_is_when_the_oldest_request_of_the_key_will_have_ended_as_requests_go():
    now = [100.0]
    running = RunningRequests(1, lambda: now[0])
    first = running.enter("alice")
    now[0] += 3.5
    assert refused_after(running) == 4, "none has ended yet: as long again"
    now[0] += 3.5
    running.leave("alice", first)
    running.enter("alice")
    now[0] += 2
    assert refused_after(running) == 5, "7 s is what requests take"
    now[0] += 4.9
    assert refused_after(running) == 1
    now[0] += 300
    assert refused_after(running) == 60
    running.enter("bob")


def test_a_limit_of_0_is_none():
    running = RunningRequests(0)
    started = [running.enter("alice") for _ in range(1000)]
    assert running.count("alice") == 1000
    for one in started:
        running.leave("alice", one)
    assert running.count("alice") == 0


# ---- the process


def test_a_hangup_reads_the_file_anew_and_a_broken_one_leaves_the_keys_as_they_were(serve, tmp_path, eventually):
    file = tmp_path / "keys"
    file.write_text(f"alice:{KEY}")
    file.chmod(0o600)
    service = serve("--api-keys-file", str(file))

    def statuses():
        keys = (KEY, OTHER_KEY)
        return [httpx.get(service.url + "/info", headers={"authorization": f"Bearer {key}"}).status_code for key in keys]

    def hang_up(text):
        file.write_text(text)
        num_lines = len(service.log)
        service.process.send_signal(signal.SIGHUP)
        eventually(lambda: [line for line in service.log[num_lines:] if "API keys" in line])

    assert statuses() == [200, 401]
    hang_up(f"bob:{OTHER_KEY}")
    assert statuses() == [401, 200]
    hang_up("bob:short")
    assert statuses() == [401, 200]
    assert sum("the API keys stay as they were" in line for line in service.log) == 1
    service.terminate()
    assert service.exit_code() == 0
    assert not [line for line in service.log if KEY in line or OTHER_KEY in line]


def test_a_service_that_others_can_reach_without_a_key_says_so(serve):
    assert "asks for no API key" not in "".join(serve().log)
    assert "0.0.0.0 can be reached from other machines, and asks for no API key" in "".join(serve("--host", "0.0.0.0").log)
