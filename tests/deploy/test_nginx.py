"""nginx as compose's overlay has it, in front of two real services: its file, its limits, streams and who leaves them."""

import json
import os
import re
import signal
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from app.network.limits import MAX_HEAD_BYTES, MAX_URL_BYTES
from app.server import CLOSE_SECONDS
from app.settings import Settings
from tests.chaos.service import PATIENCE_SECONDS, ServiceProcess, until
from tests.deploy.gates import Gate, gated_service
from tests.deploy.nginx import (
    MISSING,
    NGINX,
    ROOT,
    Config,
    Proxy,
    defaults,
    own_directives,
    post,
    proxy,
    write_certificate,
    written,
)

pytestmark = pytest.mark.skipif(NGINX is None, reason=MISSING)

LONG = {"inputs": "a", "parameters": {"max_new_tokens": 900, "ignore_eos": True}}
SHORT = {"inputs": "a", "parameters": {"max_new_tokens": 2}}
MAX_BODY_BYTES = Settings.model_fields["max_body_bytes"].default


@pytest.fixture(scope="module")
def gated() -> Iterator[list[tuple[ServiceProcess, Gate]]]:
    """Two services."""
    with ExitStack() as services:
        yield [services.enter_context(gated_service()) for _ in range(2)]


@pytest.fixture(scope="module")
def front(gated: list[tuple[ServiceProcess, Gate]]) -> Iterator[Proxy]:
    with proxy([running.address for running, _ in gated]) as running:
        yield running


@pytest.fixture
def gates(gated: list[tuple[ServiceProcess, Gate]]) -> Iterator[list[Gate]]:
    """Closed, until the test is over and nothing is left inside."""
    for _, gate in gated:
        gate.close()
    yield [gate for _, gate in gated]
    for running, gate in gated:
        gate.open()
        until(lambda running=running: running.num_inside() == 0, pause=0.02)


def accepted(services: list[tuple[ServiceProcess, Gate]]) -> list[int]:
    return [round(running.metrics()["gpt2_accepted_total"]) for running, _ in services]


def directive(name: str) -> list[str]:
    """What the template says by that name, each time."""
    return re.findall(rf"(?m)^\s*{name} ([^;]*);", Config().text)


# ---- the file


def test_nginx_accepts_the_file_without_a_warning(tmp_path: Path) -> None:
    config = Config()
    config.name_services([("127.0.0.1", 8000)])
    config.fit(tmp_path, 8443, 8080)
    write_certificate(tmp_path / "certificate", tmp_path / "certificate_key")
    result = subprocess.run([*written(config, tmp_path), "-t", "-g", own_directives()], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert not re.search(r"\[(warn|emerg|error)\]", result.stderr), result.stderr


@pytest.mark.parametrize(
    ("name", "value"), [("read_timeout_seconds", "0.5"), ("max_body_bytes", "1 MB"), ("max_connections", "all")]
)
def test_a_value_that_nginx_cannot_take_ends_its_start_by_the_line_at_fault(tmp_path: Path, name: str, value: str) -> None:
    config = Config(**{name: value})
    config.name_services([("127.0.0.1", 8000)])
    config.fit(tmp_path, 8443, 8080)
    write_certificate(tmp_path / "certificate", tmp_path / "certificate_key")
    result = subprocess.run([*written(config, tmp_path), "-t", "-g", own_directives()], capture_output=True, text=True)
    assert result.returncode == 1
    assert re.search(r"\[emerg\].*nginx.conf:\d+", result.stderr)


def test_a_certificate_that_cannot_be_read_ends_nginx_start_by_its_name(tmp_path: Path) -> None:
    config = Config()
    config.name_services([("127.0.0.1", 8000)])
    config.fit(tmp_path, 8443, 8080)
    result = subprocess.run([*written(config, tmp_path), "-t", "-g", own_directives()], capture_output=True, text=True)
    assert result.returncode == 1
    [line] = re.findall(r"\[emerg\].*", result.stderr)
    assert str(tmp_path / "certificate") in line


def test_what_operators_set_is_by_default_what_the_service_has() -> None:
    settings = {name: str(field.default).removesuffix(".0") for name, field in Settings.model_fields.items()}
    values = {name.removeprefix("GPT2_").lower(): value for name, value in defaults().items() if name.startswith("GPT2_")}
    assert values.pop("https_port") == "443"
    assert values == {name: settings[name] for name in values}


def test_a_head_may_be_as_large_as_the_services() -> None:
    [(count, kilobytes)] = re.findall(r"(\d+) (\d+)k", directive("large_client_header_buffers")[0])
    assert int(count) * int(kilobytes) * 1024 == MAX_HEAD_BYTES
    assert int(kilobytes) * 1024 == MAX_URL_BYTES
    assert f"longer than {MAX_URL_BYTES} bytes" in Config().text
    assert f"more than {MAX_HEAD_BYTES} bytes, or one of them more than {MAX_URL_BYTES}" in Config().text


def test_nginx_closes_idle_connections_before_the_service_does() -> None:
    services, clients = (int(value.removesuffix("s")) for value in directive("keepalive_timeout"))
    assert services + 10 < Settings.model_fields["keep_alive_seconds"].default
    assert clients == Settings.model_fields["keep_alive_seconds"].default


def test_nginx_waits_longer_for_its_streams_than_a_service_drains() -> None:
    [seconds] = directive("worker_shutdown_timeout")
    drain = Settings.model_fields["drain_seconds"].default
    assert int(seconds.removesuffix("s")) >= drain + 2 * CLOSE_SECONDS, "for readers, and for a step that does not end"


def test_the_pages_table_has_every_limit_its_value_and_the_setting_that_it_follows() -> None:
    page = (ROOT / "docs/proxy.md").read_text()
    rows = re.findall(r"(?m)^\| `(\w+)` \| `([^`]*)` \| (?:`GPT2_(\w+)`)?", page)
    for name, value, setting in rows:
        assert value in [*directive(name), *re.findall(rf"\b{name}=(\w+)", Config().text)], name
        if setting:
            assert float(value.removesuffix("s")) == Settings.model_fields[setting.lower()].default, name
    limits = re.findall(
        r"(?m)^ *((?:large_)?client_(?!body_temp)\w+|send_timeout|keepalive_timeout|limit_conn|proxy_\w+_timeout) ", Config().text
    )
    assert {*limits, "max_conns", "worker_shutdown_timeout"} == {name for name, _, _ in rows}


# ---- streams


def read_event(lines: Iterator[str]) -> dict[str, Any]:
    data = next(line for line in lines if line.startswith("data: "))
    return json.loads(data.removeprefix("data: "))


def test_each_event_has_come_before_the_next_one_is_computed(front: Proxy, gates: list[Gate]) -> None:
    with front.client() as client:
        grant(gates)
        with client.stream("POST", "/generate_stream", json=LONG) as response:
            assert "content-encoding" not in response.headers  # though httpx asks for gzip
            assert response.headers["x-accel-buffering"] == "no"  # for another proxy before this one
            lines = response.iter_lines()
            for number in range(1, 20):
                assert read_event(lines)["index"] == number
                grant(gates)


def test_so_it_is_over_http_2(front: Proxy, gates: list[Gate]) -> None:
    grant(gates)
    with front.curl("--json", json.dumps(LONG), "--compressed", "--include", path="/generate_stream") as curl:
        lines = (line.decode() for line in curl.stdout or ())
        assert next(lines) == "HTTP/2 200 \r\n"
        for number in range(1, 20):
            assert read_event(lines)["index"] == number
            grant(gates)
        curl.kill()


def grant(gates: list[Gate]) -> None:
    """One step, whichever service has the request."""
    for gate in gates:
        gate.grant(1)


def test_each_request_goes_to_the_service_with_the_fewest(
    front: Proxy, gated: list[tuple[ServiceProcess, Gate]], gates: list[Gate]
) -> None:
    before = accepted(gated)
    num_ended = front.log.count("/generate_stream")
    with ExitStack() as streams:

        def ask(count: int) -> list[int]:
            """So many streams more; how many each service has got since the test began."""
            wanted = sum(accepted(gated)) + count
            for _ in range(count):
                connection = streams.enter_context(front.connect())
                connection.sendall(post("/generate_stream", json.dumps(SHORT).encode()))
            until(lambda: sum(accepted(gated)) == wanted, pause=0.02)
            return [now - then for now, then in zip(accepted(gated), before, strict=True)]

        assert ask(10) == [5, 5]
        gates[0].open()
        until(lambda: front.log.count("/generate_stream") == num_ended + 5, pause=0.02)
        gates[0].close()
        assert ask(5) == [10, 5], "taking turns would have made it even"


@pytest.mark.parametrize("protocol", ["http/1.1", "http/2"])
def test_a_client_that_leaves_frees_its_slot(
    front: Proxy, gated: list[tuple[ServiceProcess, Gate]], gates: list[Gate], protocol: str
) -> None:
    def aborted() -> float:
        return sum(running.metrics()['gpt2_ended_total{how="aborted"}'] for running, _ in gated)

    before, inside = aborted(), sum(accepted(gated)) + 1
    if protocol == "http/2":
        with front.curl("--json", json.dumps(LONG), path="/generate_stream") as curl:
            until(lambda: sum(accepted(gated)) == inside, pause=0.02)
            curl.kill()
    else:
        with front.connect() as connection:
            connection.sendall(post("/generate_stream", json.dumps(LONG).encode()))
            until(lambda: sum(accepted(gated)) == inside, pause=0.02)
    until(lambda: aborted() == before + 1, pause=0.02)
    for gate in gates:
        gate.open()
    until(lambda: all(running.num_inside() == 0 for running, _ in gated), pause=0.02)


def test_nginx_stopped_as_compose_stops_it_lets_a_stream_end(gated: list[tuple[ServiceProcess, Gate]], gates: list[Gate]) -> None:
    with proxy([running.address for running, _ in gated]) as stopped:
        grant(gates)
        # The client goes before nginx, which else would wait 5 s for more from it.
        with stopped.client() as client, client.stream("POST", "/generate_stream", json=LONG) as response:
            lines = response.iter_lines()
            read_event(lines)
            stopped.stop_gracefully()
            until(lambda: not stopped.listens(), pause=0.02)
            for gate in gates:
                gate.open()
            last = list(lines)[-2]
        assert json.loads(last.removeprefix("data: "))["details"]["generated_tokens"] == 900
        assert stopped.process.wait(PATIENCE_SECONDS) == 0


def test_a_renewed_certificate_is_read_at_sighup_while_a_stream_goes_on(
    gated: list[tuple[ServiceProcess, Gate]], gates: list[Gate]
) -> None:
    with proxy([running.address for running, _ in gated]) as renewed, renewed.client() as client:
        grant(gates)
        with client.stream("POST", "/generate_stream", json=LONG) as response:
            lines = response.iter_lines()
            read_event(lines)
            before = ssl.get_server_certificate(("127.0.0.1", renewed.https_port))
            files = renewed.certificate, renewed.certificate.with_name("certificate_key")
            write_certificate(*files)
            for file in files:  # nginx tells by the second whether a file is another one
                os.utime(file, times=(file.stat().st_mtime + 60,) * 2)
            renewed.process.send_signal(signal.SIGHUP)
            until(lambda: ssl.get_server_certificate(("127.0.0.1", renewed.https_port)) != before, pause=0.02)
            for gate in gates:
                gate.open()
            assert "generated_tokens" in list(lines)[-2]
