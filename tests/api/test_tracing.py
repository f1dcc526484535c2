"""Traces, as a collector receives them: a span a request with its phases, by the conventions' names, never a word of its text."""

import os
import socket
from contextlib import closing
from urllib.parse import urlsplit

import httpx
import pytest

pytest.importorskip("opentelemetry.sdk", reason="the extra `otel` is not installed")

from opentelemetry.semconv._incubating.attributes import gen_ai_attributes
from opentelemetry.semconv.attributes import (
    error_attributes,
    http_attributes,
    network_attributes,
    server_attributes,
    url_attributes,
)

from app.telemetry import open_tracing
from tests.api.conftest import PATIENCE_SECONDS
from tests.api.test_log_lines import CANARY

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
CONVENTIONS = (gen_ai_attributes, error_attributes, http_attributes, network_attributes, server_attributes, url_attributes)
KEY = "a-key-of-some-length"
PHASES = ["queue", "prefill", "decode"]
ROUTES = {
    "/generate": {"inputs": "The old man", "parameters": {"max_new_tokens": 5, "ignore_eos": True}},
    "/generate_stream": {"inputs": "The old man", "parameters": {"max_new_tokens": 5, "ignore_eos": True}},
    "/": {"inputs": "The old man", "parameters": {"max_new_tokens": 5, "ignore_eos": True}},
    "/v1/completions": {"prompt": "The old man", "max_tokens": 5, "ignore_eos": True, "temperature": 0.5, "seed": 7},
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "The old man"}], "max_tokens": 5, "ignore_eos": True},
}
STREAMED = {path: ROUTES[path] | {"stream": True} for path in ("/generate", "/v1/completions", "/v1/chat/completions")}


pytestmark = pytest.mark.usefixtures("no_telemetry")


@pytest.fixture
def tracing(collector, monkeypatch):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
    return open_tracing(os.environ)


@pytest.fixture
def server(start_server, tracing):
    return start_server(tracing=tracing, chat_template="plain")


# ---- a request's span and its phases


@pytest.mark.parametrize(("path", "body"), [*ROUTES.items(), *STREAMED.items()])
def test_a_request_has_a_span_with_its_queue_its_prefill_and_its_decode(server, collector, path, body):
    response = httpx.post(server.url + path, json=body, timeout=PATIENCE_SECONDS)
    assert response.status_code == 200, response.text
    span = collector.one()
    assert span.name == f"POST {path}"
    assert (span.parent, span.is_error) == ("", False)
    expected = {
        "http.request.method": "POST",
        "http.route": path,
        "http.response.status_code": 200,
        "url.path": path,
        "server.address": "127.0.0.1",
        "gen_ai.operation.name": "chat" if "chat" in path else "text_completion",
        "gen_ai.provider.name": "gpt2-service",
        "gen_ai.request.model": server.service.info.model_id,
        "gen_ai.request.max_tokens": 5,
        "gen_ai.request.choice.count": 1,
        "gen_ai.usage.input_tokens": int(response.headers["x-prompt-tokens"]),
        "gen_ai.usage.output_tokens": 5,
        "gen_ai.usage.cache_read.input_tokens": 0,
        "gen_ai.response.finish_reasons": ["length"],
        "gpt2.outcome": "completed",
        "gpt2.request_id": response.headers["x-request-id"],
    }
    assert expected.items() <= span.attributes.items()
    children = collector.children(span)
    assert [child.name for child in children] == PHASES
    edges = [span.span.start_time_unix_nano, *(child.span.start_time_unix_nano for child in children)]
    assert edges == sorted(edges)
    ends = [child.span.end_time_unix_nano for child in children]
    assert ends[:2] == [child.span.start_time_unix_nano for child in children[1:]], "one begins where another ends"
    assert ends == sorted(ends)
    assert ends[-1] <= span.span.end_time_unix_nano
    assert [child.trace for child in children] == [span.trace] * 3
    assert len(collector.spans) == 4, "none for the parts of a stream"


def test_a_completion_tells_what_was_asked_for_and_by_which_id_it_was_answered(server, collector):
    answer = httpx.post(server.url + "/v1/completions", json=ROUTES["/v1/completions"] | {"n": 2}).json()
    expected = {
        "gen_ai.response.id": answer["id"],
        "gen_ai.request.temperature": 0.5,
        "gen_ai.request.seed": 7,
        "gen_ai.request.choice.count": 2,
        "gen_ai.response.finish_reasons": ["length"] * 2,
        "gen_ai.usage.output_tokens": 10,
    }
    assert expected.items() <= collector.one().attributes.items()


def test_scores_have_no_decode(server, collector):
    body = {"prompt": "The old man", "candidates": [" was", " sea"]}
    usage = httpx.post(server.url + "/v1/score", json=body).json()["usage"]
    span = collector.one()
    assert [child.name for child in collector.children(span)] == ["queue", "prefill"]
    assert span.attributes["gen_ai.operation.name"] == "score"
    assert span.attributes["gen_ai.usage.input_tokens"] == usage["prompt_tokens"]
    assert span.attributes["gen_ai.usage.output_tokens"] == 0


def test_tokens_from_the_cache_are_told(server, collector):
    body = {"inputs": "The old man and the sea " * 40, "parameters": {"max_new_tokens": 1}}
    for _ in range(2):
        assert httpx.post(server.url + "/generate", json=body).status_code == 200
    *_, second = collector.wait_for(2)
    reused = server.num_reusable(second.attributes["gen_ai.usage.input_tokens"])
    assert second.attributes["gen_ai.usage.cache_read.input_tokens"] == reused > 0


def test_an_inspection_has_a_span_of_its_own(server, collector):
    response = httpx.post(server.url + "/v1/inspect", json={"prompt": "The old man"}, timeout=PATIENCE_SECONDS)
    assert response.status_code == 200, response.text
    span = collector.one()
    assert (span.name, span.attributes["http.route"]) == ("POST /v1/inspect", "/v1/inspect")
    assert span.attributes["gen_ai.usage.input_tokens"] == response.json()["usage"]["prompt_tokens"]
    assert response.headers["traceresponse"].startswith("00-")


def test_every_name_is_one_of_the_conventions_or_begins_with_gpt2(server, collector):
    for path, body in ROUTES.items():
        httpx.post(server.url + path, json=body)
    httpx.get(server.url + "/nowhere")
    collector.wait_for(len(ROUTES) + 1)
    known = {value for module in CONVENTIONS for name, value in vars(module).items() if name.isupper()}
    used = {name for span in collector.spans for name in span.attributes}
    assert {name for name in used - known if not name.startswith("gpt2.")} == set()


def test_routes_are_templates_and_what_has_no_route_is_named_by_its_method(server, collector):
    name = server.service.info.model_id
    for path in (f"/v1/models/{name}", "/v1/models/other", "/info", "/nowhere", "/generate"):
        httpx.get(server.url + path)
    template = "GET /v1/models/{model_id}"
    assert [span.name for span in collector.wait_for(5)] == [template, template, "GET /info", "GET", "GET /generate"]


@pytest.mark.row("http.traceresponse")
def test_what_is_asked_for_every_few_seconds_is_not_traced(server, collector):
    for path in ("/health", "/health/live", "/health/ready", "/metrics", "/info"):
        response = httpx.get(server.url + path)
        assert ("traceresponse" in response.headers) == (path == "/info")
    assert collector.one().name == "GET /info"


# ---- the context, in and out


@pytest.mark.row("http.traceresponse")
def test_a_callers_trace_is_carried_on_and_the_answer_names_its_span(server, collector):
    response = httpx.get(server.url + "/info", headers={"traceparent": f"00-{TRACE}-{PARENT}-01"})
    span = collector.one()
    assert (span.trace, span.parent) == (TRACE, PARENT)
    assert response.headers["traceresponse"] == f"00-{TRACE}-{span.id}-01"
    assert len(response.headers["x-request-id"]) == 32


def test_what_a_caller_does_not_sample_is_not_sampled(server, collector):
    response = httpx.get(server.url + "/info", headers={"traceparent": f"00-{TRACE}-{PARENT}-00"})
    assert response.headers["traceresponse"].startswith(f"00-{TRACE}-")
    assert response.headers["traceresponse"].endswith("-00")
    httpx.post(server.url + "/generate", json=ROUTES["/generate"], headers={"traceparent": f"00-{TRACE}-{PARENT}-00"})
    httpx.get(server.url + "/docs")
    assert collector.one().name == "GET /docs"


def test_a_pipelined_request_is_no_child_of_the_one_before_it(server, collector):
    address = urlsplit(server.url)
    request = b"GET /info HTTP/1.1\r\nHost: a\r\n\r\n"
    with closing(socket.create_connection((address.hostname, address.port), timeout=PATIENCE_SECONDS)) as connection:
        connection.sendall(3 * request)
        spans = collector.wait_for(3)
    assert {span.parent for span in spans} == {""}
    assert len({span.trace for span in spans}) == 3


# ---- how requests fail


def test_a_request_that_is_refused_is_no_error_of_the_service(start_server, tracing, collector):
    server = start_server(tracing=tracing, api_keys=KEY, max_queued_tokens=64, max_body_bytes=2048)
    right = {"authorization": f"Bearer {KEY}"}
    long = {"inputs": "a", "parameters": {"max_new_tokens": 500}}
    answers = [
        httpx.post(server.url + "/generate", json=ROUTES["/generate"]),
        httpx.post(server.url + "/generate", json={"inputs": "a" * 4000}, headers=right),
        httpx.post(server.url + "/generate", json={"inputs": 1}, headers=right),
        httpx.post(server.url + "/generate", json=long, headers=right),
        httpx.get(server.url + "/nowhere", headers=right),
    ]
    spans = collector.wait_for(len(answers))
    told = [(span.attributes["http.response.status_code"], span.attributes["gpt2.outcome"]) for span in spans]
    assert told == [(401, "unauthorized"), (413, "invalid"), (422, "invalid"), (422, "invalid"), (404, "invalid")]
    assert [answer.status_code for answer in answers] == [status for status, _ in told]
    assert not [span for span in spans if span.is_error or "error.type" in span.attributes or collector.children(span)]
    assert spans[0].attributes["gpt2.reason"] == "unauthorized"


def test_a_request_without_room_tells_why(stepped_server, tracing, collector, in_background, eventually):
    server, runner = stepped_server(tracing=tracing, max_running=1, max_waiting=0)
    first = in_background(server, "/generate", ROUTES["/generate"])
    eventually(lambda: runner.arrived)
    assert httpx.post(server.url + "/generate", json=ROUTES["/generate"]).status_code == 429
    span = collector.one()
    assert not span.is_error
    assert "error.type" not in span.attributes
    assert (span.attributes["gpt2.outcome"], span.attributes["gpt2.reason"]) == ("rejected", "queue_full")
    runner.open()
    assert first.response.status_code == 200


def test_a_request_whose_time_passes_is_an_error_and_says_how_far_it_came(stepped_server, tracing, collector):
    server, _ = stepped_server(tracing=tracing)
    body = ROUTES["/v1/completions"] | {"timeout_seconds": 0.05}
    assert httpx.post(server.url + "/v1/completions", json=body, timeout=PATIENCE_SECONDS).status_code == 504
    span = collector.one()
    assert span.is_error
    assert (span.attributes["error.type"], span.attributes["gpt2.outcome"]) == ("504", "expired")
    assert [child.name for child in collector.children(span)] == ["queue or prefill"]


def test_a_stream_that_fails_on_its_way_is_an_error_whatever_its_status(stepped_server, tracing, collector):
    server, runner = stepped_server(tracing=tracing)
    runner.let_through(2)
    with httpx.stream("POST", server.url + "/generate_stream", json=ROUTES["/generate"], timeout=PATIENCE_SECONDS) as response:
        lines = response.iter_lines()
        next(lines)
        runner.failures.append(RuntimeError("some kernel failed"))
        runner.open()
        assert "error" in "".join(lines)
    span = collector.one()
    assert span.is_error
    assert (span.attributes["error.type"], span.attributes["gpt2.outcome"]) == ("failed", "failed")
    assert span.attributes["http.response.status_code"] == 200
    assert "gen_ai.response.finish_reasons" not in span.attributes
    assert [child.name for child in collector.children(span)] == PHASES


def test_a_client_that_leaves_is_no_error_and_its_span_ends(stepped_server, tracing, collector, call, eventually):
    server, runner = stepped_server(tracing=tracing)
    caller = call(server, "/generate_stream", ROUTES["/generate"])
    eventually(lambda: runner.arrived)
    caller.leave()
    span = collector.one()
    assert span.attributes["gpt2.outcome"] == "aborted"
    assert not span.is_error
    assert "error.type" not in span.attributes


def test_a_fault_is_an_error_without_its_message(server, collector, monkeypatch):
    def break_over(_, text, *more):
        raise RuntimeError(f"cannot read {text}")

    monkeypatch.setattr(server.service.generator.tokenizer.__class__, "spans", break_over)
    assert httpx.post(server.url + "/tokenize", json={"inputs": CANARY}).status_code == 500
    span = collector.one()
    assert span.is_error
    assert span.attributes["error.type"] == "500"
    assert CANARY.encode() not in b"".join(collector.bodies)


def test_what_breaks_outside_of_all_handlers_is_told_by_its_type_alone(server, collector, monkeypatch):
    def break_over(*_):
        raise LookupError(CANARY)

    monkeypatch.setattr("app.middleware.RequestMiddleware._record", break_over)
    httpx.get(server.url + "/info")
    span = collector.one()
    assert span.is_error
    assert span.attributes["error.type"] == "LookupError"
    assert CANARY.encode() not in b"".join(collector.bodies)


def test_a_number_that_the_protocol_has_no_room_for_loses_nothing(server, collector):
    body = ROUTES["/v1/completions"] | {"seed": 2**64 - 1}
    assert httpx.post(server.url + "/v1/completions", json=body).status_code == 200
    assert "gen_ai.request.seed" not in collector.one().attributes
