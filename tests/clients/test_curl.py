"""curl: streams, HTTP/1.0, HEAD, and the statuses that scripts branch on."""

import json
import subprocess

import pytest

BODY = '{"inputs": "The old man", "parameters": {"max_new_tokens": 8}}'
HEADER = ("-H", "Content-Type: application/json")


def curl(*arguments):
    return subprocess.run(["curl", "-sS", "--max-time", "60", *arguments], capture_output=True, encoding="utf-8", timeout=90)


def said(*arguments):
    result = curl(*arguments)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.parametrize("version", ["--http1.1", "--http1.0"])
def test_it_posts(version, service):
    answer = json.loads(said(version, f"{service.url}/generate", *HEADER, "-d", BODY))
    assert answer["generated_text"] == service.generated("The old man", max_new_tokens=8)


@pytest.mark.parametrize("version", ["--http1.1", "--http1.0"])
def test_it_streams_without_a_buffer(version, service):
    printed = said("-N", version, f"{service.url}/generate_stream", *HEADER, "-d", BODY)
    events = [json.loads(line.removeprefix("data:")) for line in printed.splitlines() if line]
    assert len(events) == 8
    assert "".join(event["token"]["text"] for event in events) == service.generated("The old man", max_new_tokens=8)


def test_a_stream_to_an_old_client_ends_with_the_connection(service):
    head = said("-0", "-N", "-D", "-", "-o", "/dev/null", f"{service.url}/generate_stream", *HEADER, "-d", BODY).lower()
    assert "connection: close" in head
    assert "transfer-encoding" not in head


def test_its_exit_status_tells_of_an_error(service):
    assert curl("--fail", f"{service.url}/generate", *HEADER, "-d", "{").returncode == 22
    assert said("-o", "/dev/null", "-w", "%{http_code}", f"{service.url}/generate", *HEADER, "-d", "{") == "422"
    assert said("-o", "/dev/null", "-w", "%{http_code}", f"{service.v1}/completions", *HEADER, "-d", "{") == "400"
    assert said("-o", "/dev/null", "-w", "%{http_code}", f"{service.url}/no-such-route") == "404"


@pytest.mark.parametrize("path", ["/", "/health", "/health/live", "/health/ready", "/info", "/metrics", "/v1/models", "/docs"])
def test_head_answers_as_get_without_a_body(path, service):
    head = said("--head", "-w", "%{http_code} %{size_download}", f"{service.url}{path}")
    assert head.endswith("200 0")
    assert f"content-length: {len(said(f'{service.url}{path}').encode())}" in head.lower() or path in ("/metrics",)


def test_two_requests_go_over_one_connection(service):
    format_ = "%{num_connects} "
    assert said("-o", "/dev/null", "-o", "/dev/null", "-w", format_, f"{service.url}/health", f"{service.url}/info") == "1 0 "


def test_a_body_that_it_announces_first_is_taken(service):
    """curl waits for `100 Continue` before it sends more than a megabyte; asked to, it waits with less."""
    answer = said(f"{service.url}/generate", *HEADER, "-H", "Expect: 100-continue", "-d", BODY)
    assert json.loads(answer)["generated_text"]
