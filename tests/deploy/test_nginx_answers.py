"""What nginx makes of a service's answer or silence, what it answers itself, what it tells a service, and TLS."""

import json
import re
import socket
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.network.limits import MAX_HEADERS, MAX_URL_BYTES
from app.settings import Settings
from tests.chaos.service import ServiceProcess, service, until
from tests.deploy.nginx import MISSING, NGINX, Config, Proxy, get, post, proxy, running_nginx
from tests.deploy.stubs import OK, refusal, stubs
from tests.ports import unanswered_address

pytestmark = pytest.mark.skipif(NGINX is None, reason=MISSING)

SHORT = {"inputs": "a", "parameters": {"max_new_tokens": 2}}
MAX_BODY_BYTES = Settings.model_fields["max_body_bytes"].default


@pytest.fixture(scope="module")
def running() -> Iterator[ServiceProcess]:
    with service() as running:
        yield running


@pytest.fixture(scope="module")
def front(running: ServiceProcess) -> Iterator[Proxy]:
    with proxy([running.address]) as front:
        yield front


# ---- whom it asks next


@pytest.mark.parametrize("first", [refusal("503 Service Unavailable"), b""], ids=["503", "closed without an answer"])
def test_who_meets_a_service_that_ends_is_served_by_another(first: bytes) -> None:
    with stubs(first, OK) as upstreams, proxy(upstreams.addresses) as front, front.client() as client:
        assert client.post("/generate", json=SHORT).text == "ok"
        assert len(upstreams.asked) == 2
        assert len(set(upstreams.asked)) == 1, "the same request, its body too"


def test_a_503_that_all_give_is_passed_on_as_it_is() -> None:
    with (
        stubs(*2 * [refusal("503 Service Unavailable")]) as upstreams,
        proxy(upstreams.addresses) as front,
        front.client() as client,
    ):
        response = client.post("/generate", json=SHORT)
        assert (response.status_code, response.text, response.headers["retry-after"]) == (503, "refused", "7")


@pytest.mark.parametrize("status", ["429 Too Many Requests", "500 Internal Server Error", "504 Gateway Timeout"])
def test_what_asking_another_would_not_mend_is_passed_on(status: str) -> None:
    answers = [refusal(status), *5 * [OK]]
    with stubs(*answers) as upstreams, proxy(upstreams.addresses) as front, front.client() as client:
        response = client.post("/generate", json=SHORT)
        assert (response.status_code, response.text) == (int(status[:3]), "refused")
        assert [client.get("/info").text for _ in range(5)] == 5 * ["ok"]
        assert len(upstreams.asked) == 6


def test_an_answer_that_breaks_off_is_not_asked_for_again_and_ends_visibly() -> None:
    half = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n"
    with stubs(half, OK) as upstreams, proxy(upstreams.addresses) as front, front.client() as client:
        with pytest.raises(httpx.RemoteProtocolError):
            client.post("/generate", json=SHORT)
        assert len(upstreams.asked) == 1


def test_so_it_does_over_http_2() -> None:
    half = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n"
    with stubs(half, OK) as upstreams, proxy(upstreams.addresses) as front, front.curl(path="/generate_stream") as curl:
        assert curl.communicate()[0] == b"hello"
        assert curl.returncode == 92  # the stream was not closed cleanly


# ---- errors of nginx' own


OWN_ERRORS = [
    (400, "validation", lambda path: get(path, "content-length: x")),
    (404, "not_found", lambda path: get("/metrics")),
    (405, "validation", lambda path: get(path).replace(b"GET", b"TRACE")),
    (413, "validation", lambda path: post(path, b"", MAX_BODY_BYTES + 1)),
    (414, "validation", lambda path: get(path + "?" + "a" * MAX_URL_BYTES)),
    (431, "validation", lambda path: get(path, "a: " + "b" * MAX_URL_BYTES)),
    (431, "validation", lambda path: get(path, "\r\n".join(f"a{i}: " + "b" * 5000 for i in range(7)))),
    (501, "validation", lambda path: get(path, "transfer-encoding: gzip")),
]


@pytest.mark.parametrize(("status", "code", "request_for"), OWN_ERRORS, ids=[f"{i}-{row[0]}" for i, row in enumerate(OWN_ERRORS)])
def test_what_nginx_refuses_itself_is_told_in_the_contracts_words(front: Proxy, status: int, code: str, request_for: Any) -> None:
    found, headers, body = front.answer_to(request_for("/generate"))
    assert found == status
    assert headers["content-type"] == "application/json"
    assert re.fullmatch(r"[0-9a-f]{32}", headers["x-request-id"])
    assert body["error_type"] == code
    assert body.keys() == {"error", "error_type"}


def test_under_v1_it_is_told_in_openais(front: Proxy) -> None:
    status, _, body = front.answer_to(post("/v1/completions", b"", MAX_BODY_BYTES + 1))
    assert status == 413
    assert body["error"].pop("message").startswith(f"the body is larger than {MAX_BODY_BYTES} bytes")
    assert body == {"error": {"type": "invalid_request_error", "param": None, "code": "validation"}}


@pytest.mark.parametrize("path", ["/generate", "/v1/completions"])
def test_a_body_is_too_large_for_nginx_and_service_alike_and_in_the_same_words(
    front: Proxy, running: ServiceProcess, path: str
) -> None:
    body = json.dumps(SHORT if path == "/generate" else {"prompt": "a", "max_tokens": 2}).encode().ljust(MAX_BODY_BYTES)
    with front.client() as client:
        assert client.post(path, content=body).status_code == 200
        beyond = client.post(path, content=body + b" ")
    own = httpx.post(running.url + path, content=body + b" ")
    assert (beyond.status_code, beyond.json()) == (own.status_code, own.json())
    assert own.status_code == 413


@pytest.mark.parametrize("length", [[], ["--header", "content-length:"]], ids=["announced", "found out"])
def test_a_body_that_is_too_large_over_http_2_is_told_in_the_contracts_words_too(
    front: Proxy, tmp_path: Path, length: list[str]
) -> None:
    body, head = tmp_path / "body", tmp_path / "head"
    body.write_bytes(b" " * (MAX_BODY_BYTES + 1))
    with front.curl("--dump-header", str(head), *length, "--data-binary", f"@{body}", path="/generate") as curl:
        said = json.loads(curl.communicate()[0])
    status, *lines = head.read_text().strip().split("\n")
    headers = dict(line.strip().split(": ", 1) for line in lines)
    assert status.split() == ["HTTP/2", "413"]
    assert said["error"] == f"the body is larger than {MAX_BODY_BYTES} bytes, the most that is accepted"
    assert said["error_type"] == "validation"
    assert re.fullmatch(r"[0-9a-f]{32}", headers["x-request-id"])
    assert "strict-transport-security" in headers


def test_the_services_limit_of_headers_holds_for_those_that_nginx_adds_too(front: Proxy) -> None:
    def with_headers(count: int) -> int:
        """`Host` is one of them."""
        return front.answer_to(get("/v1/models", "\r\n".join(f"a{i}: b" for i in range(count - 1))))[0]

    assert (with_headers(MAX_HEADERS - 4), with_headers(MAX_HEADERS - 3)) == (200, 431)


def test_a_service_that_says_nothing_is_given_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        config = Config()
        config.replace("proxy_read_timeout 600s", "proxy_read_timeout 1s")
        config.replace("proxy_next_upstream_timeout 10s", "proxy_next_upstream_timeout 1s")
        config.name_services([silent.getsockname()])
        with running_nginx(config) as front, front.client() as client:
            response = client.post("/generate", json=SHORT)
    assert (response.status_code, response.json()["error_type"]) == (504, "timeout")


def test_where_no_service_is_clients_are_told_when_to_come_again() -> None:
    with unanswered_address() as address, proxy([address]) as front, front.client() as client:
        response = client.post("/generate", json=SHORT)
    assert (response.status_code, response.json()["error_type"]) == (502, "not_ready")
    assert response.headers["retry-after"] == "5"


def test_one_address_cannot_take_every_place() -> None:
    config = Config()
    config.replace("512", "2")
    with ExitStack() as opened:
        silent = opened.enter_context(socket.create_server(("127.0.0.1", 0)))
        config.name_services([silent.getsockname()])
        front = opened.enter_context(running_nginx(config))
        for _ in range(2):
            connection = opened.enter_context(front.connect())
            connection.sendall(get("/info"))
            opened.enter_context(silent.accept()[0])
        status, headers, body = front.answer_to(get("/info"))
    assert (status, headers["retry-after"], body["error_type"]) == (429, "1", "overloaded")
    assert body["error"] == "2 requests of this address are under way, the limit is 2"


def test_a_service_is_asked_for_no_more_connections_than_it_serves() -> None:
    with ExitStack() as opened:
        silent = opened.enter_context(socket.create_server(("127.0.0.1", 0)))
        front = opened.enter_context(proxy([silent.getsockname()], max_connections=1))
        connection = opened.enter_context(front.connect())
        connection.sendall(get("/info"))
        opened.enter_context(silent.accept()[0])
        status, headers, body = front.answer_to(get("/info"))
    assert (status, headers["retry-after"], body["error_type"]) == (502, "5", "not_ready")


def test_an_error_of_the_services_own_comes_through_as_it_is(front: Proxy, running: ServiceProcess) -> None:
    wrong = {"inputs": "a", "parameters": {"temperature": -1}}
    with front.client() as client:
        through = client.post("/generate", json=wrong)
        assert through.status_code == 422
        assert through.json() == httpx.post(running.url + "/generate", json=wrong).json()


@pytest.mark.parametrize(
    "path", ["/metrics", "/metrics?a", "//metrics", "/%6detrics", "/a/../metrics", "/metrics/", "/./metrics", "/METRICS"]
)
def test_metrics_are_not_for_the_outside_however_they_are_spelt(front: Proxy, path: str) -> None:
    status, _, body = front.answer_to(get(path))
    assert (status, body["error_type"]) == (404, "not_found")
    status, _, body = front.answer_to(get(f"http://a{path}"))
    assert (status, body["error_type"]) == (404, "not_found")


# ---- what a service is told


def lines_of(log: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.splitlines() if line.startswith("{")]


def ids(log: str) -> list[str]:
    return [line["id"] for line in lines_of(log) if "id" in line]


@pytest.mark.parametrize(("given", "is_kept"), [("mine-1", True), ("x" * 129, False), ('"; a', False), (None, False)])
def test_a_harmless_request_id_is_kept_and_any_other_is_made_and_all_logs_have_it(
    front: Proxy, running: ServiceProcess, given: str | None, is_kept: bool
) -> None:
    with front.client() as client:
        response = client.post("/generate", json=SHORT, headers={"x-request-id": given} if given else {})
    [request_id] = response.headers.get_list("x-request-id")
    assert (request_id == given) is is_kept
    until(lambda: request_id in ids(running.log), pause=0.02)
    until(lambda: request_id in ids(front.log), pause=0.02)


def test_a_service_hears_of_the_client_what_nginx_saw_and_not_what_was_claimed() -> None:
    claims = {"x-forwarded-for": "1.2.3.4", "forwarded": "for=1.2.3.4", "x-forwarded-proto": "http", "x-forwarded-host": "evil"}
    with stubs(OK) as upstreams, proxy(upstreams.addresses) as front, front.client() as client:
        client.post("/generate", json=SHORT, headers=claims | {"host": "gpt2.example:8443", "authorization": "Bearer k"})
    lines = upstreams.asked[0].decode().partition("\r\n\r\n")[0].lower().split("\r\n")
    assert lines[0] == "post /generate http/1.1"
    told = dict(line.split(": ", 1) for line in lines[1:])
    assert told["x-forwarded-for"] == "127.0.0.1"
    assert told["x-forwarded-proto"] == "https"
    assert told["host"] == told["x-forwarded-host"] == "gpt2.example"
    assert told["authorization"] == "bearer k"
    assert not told.keys() & {"forwarded", "connection", "expect"}


def test_its_log_has_no_query_and_no_body(front: Proxy) -> None:
    with front.client() as client:
        client.post("/generate?canary-query", json={"inputs": "canary-prompt", "parameters": {"max_new_tokens": 1}})
        client.get("/health/ready", headers={"x-request-id": "quiet"})
        client.get("/info", headers={"x-request-id": "last"})
    until(lambda: "last" in ids(front.log), pause=0.02)
    assert "canary" not in front.log
    assert "quiet" not in ids(front.log)
    [line] = [line for line in lines_of(front.log) if line["id"] == "last"]
    assert (line["method"], line["path"], line["status"]) == ("GET", "/info", 200)


def test_what_fails_is_logged_by_its_status_without_what_was_asked() -> None:
    canaries = dict.fromkeys(("host", "referer", "authorization"), "canary")
    with unanswered_address() as address, proxy([address]) as front, front.client() as client:
        assert client.post("/generate?canary", json=SHORT, headers=canaries).status_code == 502
        front.directory.joinpath("body").rmdir()  # as on a disk that takes nothing more
        large = json.dumps({"inputs": "canary " * 20_000})
        assert client.post("/generate?canary", content=large, headers=canaries).status_code == 500
        until(lambda: len(lines_of(front.log)) == 2, pause=0.02)
        log = front.log
    assert [(line["path"], line["status"], line["services"] != "") for line in lines_of(log)] == [
        ("/generate", 502, True),
        ("/generate", 500, False),
    ]
    assert "canary" not in log


# ---- TLS


def test_plain_http_is_sent_to_https_with_its_method_path_and_query(front: Proxy) -> None:
    response = httpx.post(f"{front.plain_url}/generate?a=b", json=SHORT)
    assert response.status_code == 308
    assert response.headers["location"] == "https://127.0.0.1:443/generate?a=b"


@pytest.mark.parametrize("path", ["/generate", "/v1/completions"])
def test_a_key_that_was_sent_in_the_clear_is_refused_so_that_its_client_notices(front: Proxy, path: str) -> None:
    response = httpx.post(front.plain_url + path, json=SHORT, headers={"authorization": "Bearer k"})
    assert response.status_code == 403
    assert "location" not in response.headers
    said = response.json()
    if path == "/generate":
        assert said.keys() == {"error", "error_type"}
        assert said["error_type"] == "validation"
        assert said["error"].startswith("a key was sent without TLS")
    else:
        assert said["error"].pop("message").startswith("a key was sent without TLS")
        assert said == {"error": {"type": "invalid_request_error", "param": None, "code": "validation"}}
    assert "x-request-id" in response.headers


@pytest.mark.parametrize("highest", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_modern_tls_leads_to_http_2(front: Proxy, highest: ssl.TLSVersion) -> None:
    context = ssl.create_default_context(cafile=str(front.certificate))
    context.maximum_version = highest
    context.set_alpn_protocols(["h2", "http/1.1"])
    with (
        socket.create_connection(("127.0.0.1", front.https_port)) as connection,
        context.wrap_socket(connection, server_hostname="127.0.0.1") as encrypted,
    ):
        assert encrypted.selected_alpn_protocol() == "h2"
        assert encrypted.version() == highest.name.replace("_", ".")


def test_older_tls_is_refused_by_the_server(front: Proxy) -> None:
    command = ["openssl", "s_client", "-connect", f"127.0.0.1:{front.https_port}", "-tls1_1", "-cipher", "DEFAULT@SECLEVEL=0"]
    result = subprocess.run(command, input="", capture_output=True, text=True)
    assert result.returncode == 1
    assert "alert protocol version" in result.stderr
