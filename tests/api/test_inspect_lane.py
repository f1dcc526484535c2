"""The slow lane: one process beside the service, its queue, deadlines, departures and ends.

Where a test needs an inspection that does not end, the process is stopped by a signal, and goes on when the test lets it.
"""

import os
import shutil
import signal
import sys
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
import pytest

from app.inspection.lane import MAX_WAITING

BODY = {"prompt": "The old man", "max_new_tokens": 2}
PATH = "/v1/inspect"


def inspect(server, **fields):
    return httpx.post(server.url + PATH, json=BODY | fields, timeout=120)


def children_of(pid):
    return {child for child in psutil.Process(pid).children() if inspects(child)}


def inspects(process):
    try:
        return "model.inspection.process" in process.cmdline()
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return False


def child_of(pid):
    """The youngest, where tests in one process have servers of their own."""
    return max(children_of(pid), key=psutil.Process.create_time)


def started(server):
    return server.metric("gpt2_inspection_process_starts_total")


def inside(server):
    return server.service.lane.num_inside


@pytest.fixture
def child(server):
    """The service's process that inspects, ready."""
    assert inspect(server).status_code == 200
    return child_of(os.getpid())


@contextmanager
def stopped(child):
    child.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        child.send_signal(signal.SIGCONT)


def test_a_service_that_is_not_asked_has_no_such_process(start_server):
    server = start_server()
    assert httpx.post(server.url + "/v1/completions", json={"prompt": "a", "max_tokens": 1}).status_code == 200
    assert started(server) == 0


def test_one_process_serves_all_and_comes_after_everybody_else(server, child):
    num_started = started(server)
    assert inspect(server).status_code == 200
    assert started(server) == num_started
    assert child_of(os.getpid()) == child
    assert child.nice() == 19
    if sys.platform == "linux":
        assert Path(f"/proc/{child.pid}/oom_score_adj").read_text() == "1000\n"


def test_the_process_is_given_no_secrets(start_server, monkeypatch):
    for name in ("GPT2_API_KEYS", "HF_TOKEN", "OTEL_EXPORTER_OTLP_HEADERS"):
        monkeypatch.setenv(name, "a-secret-of-the-service")
    server = start_server(api_keys="")
    assert inspect(server).status_code == 200
    assert "a-secret-of-the-service" not in str(child_of(os.getpid()).environ())


@pytest.mark.row("inspect.queue_full")
def test_beyond_the_queue_the_answer_is_429_at_once(server, child, in_background, eventually):
    rejected = server.metric("gpt2_rejected_total", reason="inspections_full")
    with stopped(child):
        waiting = [in_background(server, PATH, BODY) for _ in range(1 + MAX_WAITING)]
        eventually(lambda: inside(server) == 1 + MAX_WAITING)
        assert server.metric("gpt2_inspections_waiting") == MAX_WAITING
        assert server.metric("gpt2_inspections_running") == 1
        refused = inspect(server)
        assert inspect(server, estimate=True).status_code == 200, "which needs no place"
    assert refused.status_code == 429
    assert 1 <= int(refused.headers["retry-after"]) <= 60
    assert f"{MAX_WAITING} inspections wait already, the limit is {MAX_WAITING}" in refused.json()["error"]["message"]
    assert server.metric("gpt2_rejected_total", reason="inspections_full") == rejected + 1
    assert [each.response.status_code for each in waiting] == [200] * (1 + MAX_WAITING)
    eventually(lambda: inside(server) == server.metric("gpt2_inspections_running") == 0)


@pytest.mark.row("inspect.timeout_seconds", "error.timeout")
def test_what_is_late_is_answered_504_and_not_computed_any_further(server, child, eventually):
    num_started = started(server)
    with stopped(child):
        late = inspect(server, timeout_seconds=0.2)
        assert inside(server) == 1, "the lane is being cleared"
    assert late.status_code == 504
    assert late.json()["error"]["code"] == "timeout"
    eventually(lambda: inside(server) == 0)
    assert inspect(server).status_code == 200
    assert started(server) == num_started, "the process stopped computing, and lived on"


def test_one_that_cannot_stop_in_time_is_killed_and_the_next_request_starts_another(server, child, monkeypatch, eventually):
    monkeypatch.setattr("app.inspection.lane.ABANDON_SECONDS", 0.1)
    num_started = started(server)
    child.send_signal(signal.SIGSTOP)
    assert inspect(server, timeout_seconds=0.2).status_code == 504
    eventually(lambda: inside(server) == 0)
    child.wait(60)
    assert inspect(server).status_code == 200
    assert started(server) == num_started + 1


def test_a_deadline_that_passes_while_the_process_starts_leaves_it_to_the_next_request(start_server, eventually):
    server = start_server()
    assert inspect(server, timeout_seconds=0.05).status_code == 504
    assert inspect(server).status_code == 200
    assert started(server) == 1


def test_a_waiting_request_has_its_deadline_too(server, child, in_background, eventually):
    with stopped(child):
        first = in_background(server, PATH, BODY)
        eventually(lambda: server.metric("gpt2_inspections_running") == 1)
        assert inspect(server, timeout_seconds=0.2).status_code == 504
        eventually(lambda: inside(server) == 1)
    assert first.response.status_code == 200


@pytest.mark.row("stream.departure")
def test_a_client_that_leaves_frees_its_place_waiting_or_running(server, child, call, eventually):
    aborted = server.metric("gpt2_requests_total", route=PATH, outcome="aborted")
    num_started = started(server)
    with stopped(child):
        running = call(server, PATH, BODY)
        eventually(lambda: server.metric("gpt2_inspections_running") == 1)
        waiting = call(server, PATH, BODY)
        eventually(lambda: inside(server) == 2)
        waiting.leave()
        eventually(lambda: inside(server) == 1)
        running.leave()
        eventually(lambda: server.metric("gpt2_requests_total", route=PATH, outcome="aborted") == aborted + 2)
    eventually(lambda: inside(server) == 0)
    assert inspect(server).status_code == 200
    assert started(server) == num_started


@pytest.mark.row("inspect.failed")
def test_a_process_that_is_killed_fails_the_request_under_it_and_no_other(server, child, in_background, eventually):
    num_started = started(server)
    with stopped(child):
        running = in_background(server, PATH, BODY)
        eventually(lambda: server.metric("gpt2_inspections_running") == 1)
        waiting = in_background(server, PATH, BODY)
        eventually(lambda: inside(server) == 2)
        child.kill()
    failed = running.response
    assert failed.status_code == 500
    assert "ended: by signal 9" in failed.json()["error"]["message"]
    assert failed.headers["x-request-id"] in failed.json()["error"]["message"]
    assert waiting.response.status_code == 200
    assert started(server) == num_started + 1


def test_a_process_that_died_between_two_requests_is_nobodys_fault(server, child):
    child.kill()
    child.wait(60)
    assert inspect(server).status_code == 200


def test_a_checkpoint_that_is_gone_fails_requests_until_it_is_back(start_server, tiny_checkpoint, tmp_path):
    directory = shutil.copytree(tiny_checkpoint, tmp_path / "checkpoint")
    server = start_server(model=str(directory))
    weights = directory / "model.safetensors"
    weights.rename(tmp_path / "weights")
    failed = inspect(server)
    assert failed.status_code == 500
    assert "CheckpointError" in failed.json()["error"]["message"]
    (tmp_path / "weights").rename(weights)
    assert inspect(server).status_code == 200


def test_an_idle_process_gives_its_memory_back(start_server, monkeypatch, eventually):
    monkeypatch.setattr("app.inspection.lane.IDLE_SECONDS", 0.0)
    server = start_server()
    others = children_of(os.getpid())
    assert inspect(server).status_code == 200
    eventually(lambda: children_of(os.getpid()) <= others)
    assert inspect(server).status_code == 200
    assert started(server) == 2


def test_nothing_is_left_of_a_service_that_ends(start_server):
    server = start_server()
    assert inspect(server).status_code == 200
    child = child_of(os.getpid())
    server.server.should_exit = True
    child.wait(60)


def test_an_inspection_under_way_finishes_when_the_service_drains(serve, in_background, eventually):
    server = serve()
    assert inspect(server).status_code == 200
    child = child_of(server.process.pid)
    with stopped(child):
        running = in_background(server, PATH, BODY)
        eventually(lambda: "gpt2_inspections_running 1.0" in httpx.get(server.url + "/metrics").text)
        server.terminate()
        eventually(lambda: httpx.get(server.url + "/health/ready").status_code == 503)
        assert inspect(server).status_code == 503
    assert running.response.status_code == 200
    assert server.exit_code() == 0
    assert not child.is_running()


def test_a_signal_to_all_of_a_unit_or_a_terminal_leaves_the_ending_to_the_service(server, child):
    for number in (signal.SIGTERM, signal.SIGINT):
        child.send_signal(number)
    assert inspect(server).status_code == 200
    assert child.is_running()


def test_a_service_that_is_killed_takes_the_process_with_it(serve, eventually):
    server = serve()
    assert inspect(server).status_code == 200
    child = child_of(server.process.pid)
    server.process.kill()
    eventually(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)
