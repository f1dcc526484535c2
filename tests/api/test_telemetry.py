"""Traces of a real `gpt2 serve`, as its environment has it: where they go, what is logged of them, and what they may not hold."""

import json
import os
import socket
import subprocess
import sys
from contextlib import contextmanager

import httpx
import pytest

from app.errors import StartupError
from app.telemetry import open_tracing
from tests.api.conftest import PATIENCE_SECONDS
from tests.api.test_log_lines import CANARY, with_canaries
from tests.api.test_shutdown import Process
from tests.ports import unanswered_address

pytest.importorskip("opentelemetry.sdk", reason="the extra `otel` is not installed")

BODY = {"inputs": "The old man", "parameters": {"max_new_tokens": 5, "ignore_eos": True}}

pytestmark = pytest.mark.usefixtures("no_telemetry")


@pytest.fixture
def serve(tiny_checkpoint):
    """A process of its own, which reads its environment as an operator's does."""
    processes = []

    def start(*options, **program):
        processes.append(Process(tiny_checkpoint, "--chat-template", "plain", *options, **program))
        return processes[-1]

    yield start
    for process in processes:
        process.end()


def test_no_text_of_a_request_is_in_a_trace_whatever_field_it_is_in(serve, collector, monkeypatch):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
    process = serve()
    statuses, num_shown, _ = with_canaries(process.url)
    assert num_shown > 100, "clients are told of their own text, so that it was there to be traced"
    process.terminate()
    assert process.exit_code() == 0
    assert len(collector.servers) == statuses.total() + 1, "all of them, and that for the document"
    assert CANARY.encode() not in b"".join(collector.bodies)
    assert CANARY not in "".join(process.log)


def test_the_log_names_trace_and_span(serve, collector, monkeypatch):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", f"{collector.url}/v1/traces")
    monkeypatch.setenv("OTEL_SERVICE_NAME", "novelist")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test,service.version=7")
    process = serve()
    assert httpx.post(process.url + "/generate", json=BODY).status_code == 200
    span = collector.one()
    process.terminate()
    assert process.exit_code() == 0
    (line,) = (json.loads(line) for line in process.log if '"event": "request"' in line)
    assert (line["trace"], line["span"]) == (span.trace, span.id)
    expected = {"service.name": "novelist", "service.version": "7", "deployment.environment.name": "test"}
    assert expected.items() <= span.resource.items()
    assert all("trace" not in json.loads(line) for line in process.log if '"event": "request"' not in line)


def test_what_has_not_been_sent_is_sent_when_the_service_ends(serve, collector, monkeypatch):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "3600000")
    process = serve()
    assert httpx.post(process.url + "/generate", json=BODY).status_code == 200
    assert not collector.bodies
    process.terminate()
    assert process.exit_code() == 0
    assert [span.name for span in collector.spans] == ["queue", "prefill", "decode", "POST /generate"]


def test_a_sampler_may_leave_all_out(collector, start_server, monkeypatch):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_off")
    server = start_server(tracing=open_tracing(os.environ))
    response = httpx.post(server.url + "/generate", json=BODY)
    assert not int(response.headers["traceresponse"][-2:], 16) & 1, "sampled"
    server.server.should_exit = True
    assert not collector.bodies


def test_a_console_can_take_the_place_of_a_collector(serve, monkeypatch, capfd):
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "console")
    process = serve()
    httpx.get(process.url + "/info")
    process.terminate()
    assert process.exit_code() == 0
    assert '"name": "GET /info"' in capfd.readouterr().out


@contextmanager
def silent_address():
    """Where connections are taken and never answered."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()


@pytest.mark.parametrize("collector", [unanswered_address, silent_address], ids=["refuses", "hangs"])
def test_a_collector_that_is_not_there_stops_nothing_and_is_told_of_in_a_line(serve, monkeypatch, collector):
    with collector() as (host, port):
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://{host}:{port}")
        monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "8")
        monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "2")
        process = serve()
        for _ in range(20):
            assert httpx.post(process.url + "/generate", json=BODY).status_code == 200
        process.terminate()
        assert process.exit_code() == 0
    about = [line for line in process.log if "OpenTelemetry" in line or "last spans" in line]
    assert 1 <= len(about) <= 2, process.log
    assert len([line for line in process.log if '"event": "request"' in line]) == 20


# `gpt2 serve` that tells of each import of what traces need, or does as if it were not installed. FastAPI imports OpenTelemetry's
# API by itself; of that it needs the rest.
TELLS = """
import sys
NEEDED = ("app.tracing", "opentelemetry.sdk", "opentelemetry.exporter", "opentelemetry.instrumentation")
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name.startswith(NEEDED):
            print("IMPORTS", name, file=sys.stderr, flush=True)
            {then}
sys.meta_path.insert(0, Finder())
from app.cli import main
sys.exit(main())
"""
CONSOLE = {"OTEL_TRACES_EXPORTER": "console"}
MISSING = "if name != 'app.tracing': raise ModuleNotFoundError(name, name=name)"


@pytest.mark.parametrize(
    ("variables", "is_on"),
    [
        ({}, False),
        ({"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}, False),
        ({"OTEL_SDK_DISABLED": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}, False),
        ({"OTEL_SERVICE_NAME": "novelist", "OTEL_EXPORTER_OTLP_ENDPOINT": ""}, False),
        ({"OTEL_TRACES_EXPORTER": "console"}, True),
    ],
)
def test_nothing_of_it_is_imported_unless_traces_are_asked_for(serve, monkeypatch, variables, is_on):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    process = serve(program=("-c", TELLS.format(then="return None")))
    response = httpx.post(process.url + "/generate", json=BODY)
    process.terminate()
    assert process.exit_code() == 0
    assert any(line.startswith("IMPORTS app.tracing") for line in process.log) == is_on
    assert any(line.startswith("IMPORTS opentelemetry") for line in process.log) == is_on
    assert ("traceresponse" in response.headers) == is_on


def line_of_a_start_that_fails(checkpoint, *program):
    command = [sys.executable, *program, "serve", "--model", str(checkpoint), "--port", "0"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_SECONDS)
    assert ended.returncode == StartupError.exit_code
    (line,) = (line for line in ended.stderr.splitlines() if not line.startswith("IMPORTS"))
    return line


def test_without_the_extra_the_start_ends_with_its_name(tiny_checkpoint, monkeypatch):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318")
    line = line_of_a_start_that_fails(tiny_checkpoint, "-c", TELLS.format(then=MISSING))
    assert "OTEL_EXPORTER_OTLP_ENDPOINT asks for traces" in line
    assert "pip install 'gpt2-service[otel]'" in line


@pytest.mark.parametrize(
    ("variables", "told"),
    [
        ({"OTEL_TRACES_EXPORTER": "zipkin"}, "OTEL_TRACES_EXPORTER is 'zipkin'; it may be otlp, console or none"),
        ({"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "OTEL_EXPORTER_OTLP_PROTOCOL is 'grpc'"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "collector:4318"}, "OTEL_EXPORTER_OTLP_ENDPOINT is 'collector:4318'"),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://[::1"}, "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT is"),
        (CONSOLE | {"OTEL_BSP_MAX_QUEUE_SIZE": "1"}, "OTEL_BSP_MAX_EXPORT_BATCH_SIZE is 512, more than OTEL_BSP_MAX_QUEUE_SIZE, 1"),
        (CONSOLE | {"OTEL_BSP_MAX_QUEUE_SIZE": "-1"}, "OTEL_BSP_MAX_QUEUE_SIZE is '-1'; it is a whole number"),
        (CONSOLE | {"OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "1.5"}, "OTEL_BSP_MAX_EXPORT_BATCH_SIZE is '1.5'"),
        (CONSOLE | {"OTEL_BSP_SCHEDULE_DELAY": "x"}, "OTEL_BSP_SCHEDULE_DELAY is 'x'"),
        (CONSOLE | {"OTEL_EXPORTER_OTLP_TIMEOUT": "x"}, "OTEL_EXPORTER_OTLP_TIMEOUT is 'x'"),
        (CONSOLE | {"OTEL_EXPORTER_OTLP_TRACES_TIMEOUT": "-1"}, "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT is '-1'"),
        (CONSOLE | {"OTEL_EXPORTER_OTLP_COMPRESSION": "zip"}, "OTEL_EXPORTER_OTLP_COMPRESSION is 'zip'"),
        (CONSOLE | {"OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT": "x"}, "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT"),
        (CONSOLE | {"OTEL_TRACES_SAMPLER": "traceidratoi"}, "OTEL_TRACES_SAMPLER is 'traceidratoi'; it may be always_on"),
        (CONSOLE | {"OTEL_TRACES_SAMPLER": "always_off "}, "OTEL_TRACES_SAMPLER is 'always_off '"),
        (CONSOLE | {"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "1%"}, "OTEL_TRACES_SAMPLER_ARG is '1%'"),
        (CONSOLE | {"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "10"}, "OTEL_TRACES_SAMPLER_ARG is '10'"),
        (CONSOLE | {"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "nan"}, "OTEL_TRACES_SAMPLER_ARG is 'nan'"),
    ],
)
def test_a_variable_that_cannot_be_meant_ends_the_start_with_its_name(monkeypatch, variables, told):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(StartupError) as caught:
        open_tracing(os.environ)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"OTEL_TRACES_SAMPLER": "PARENTBASED_TRACEIDRATIO", "OTEL_TRACES_SAMPLER_ARG": "0.01"},
        {"OTEL_TRACES_SAMPLER": "", "OTEL_TRACES_SAMPLER_ARG": "not read without a sampler"},
        {"OTEL_BSP_MAX_QUEUE_SIZE": "8", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "8", "OTEL_EXPORTER_OTLP_TIMEOUT": "0.5"},
    ],
)
def test_variables_that_can_be_meant_are_taken(monkeypatch, variables):
    for name, value in (CONSOLE | variables).items():
        monkeypatch.setenv(name, value)
    tracing = open_tracing(os.environ)
    assert tracing is not None
    tracing.provider.shutdown()


@pytest.mark.parametrize(("variable", "value"), [("OTEL_TRACES_EXPORTER", "zipkin"), ("OTEL_PROPAGATORS", "pigeon")])
def test_a_startup_error_is_a_line_and_exit_code_78(tiny_checkpoint, monkeypatch, variable, value):
    monkeypatch.setenv(variable, value)
    line = line_of_a_start_that_fails(tiny_checkpoint, "-m", "app")
    assert variable in line
    assert value in line


# `gpt2 serve` in a process that traces all it can to standard output, as `opentelemetry-instrument` sets it up.
ENTANGLED = """
import sys
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(ConsoleSpanExporter()))
trace.set_tracer_provider(provider)
from app.cli import main
sys.exit(main())
"""


def test_a_framework_traces_nothing_behind_the_services_back(serve, capfd):
    process = serve(program=("-c", ENTANGLED))
    assert httpx.post(process.url + "/generate", json={"inputs": [CANARY]}).status_code == 422
    assert httpx.post(process.url + "/generate", json=BODY).status_code == 200
    process.terminate()
    assert process.exit_code() == 0
    assert capfd.readouterr().out == ""
