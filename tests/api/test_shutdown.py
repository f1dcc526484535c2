"""SIGTERM to a real `gpt2 serve`: what runs finishes, what is new is sent away, and the process ends with 0."""

import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from urllib.parse import urlsplit

import httpx
import pytest


class Process:
    """`gpt2 serve` on a port of its own; its log is read as it comes."""

    def __init__(self, checkpoint, *options, program=("-m", "app")):
        command = [sys.executable, *program, "serve", "--model", str(checkpoint), "--port", "0", "--device", "cpu", *options]
        self.process = subprocess.Popen([*command, "--log-format", "json"], stderr=subprocess.PIPE, text=True)
        self.log, self._ready = [], threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self._ready.wait(120)
        addresses = re.findall(r"ready at (http://[\d.:]+)", "".join(self.log))
        assert addresses, "".join(self.log)
        self.url = addresses[0]

    def _read(self):
        for line in self.process.stderr:
            self.log.append(line)
            if "ready at" in line:
                self._ready.set()
        self._ready.set()

    def terminate(self):
        self.process.send_signal(signal.SIGTERM)

    def exit_code(self):
        code = self.process.wait(120)
        self._reader.join(60)
        return code

    def end(self):
        self.process.kill()
        self.process.wait(60)
        self._reader.join(60)
        self.process.stderr.close()


@pytest.fixture
def serve(tiny_checkpoint):
    processes = []

    def start(*options, **program):
        processes.append(Process(tiny_checkpoint, *options, **program))
        return processes[-1]

    yield start
    for process in processes:
        process.end()


def events_of(lines):
    return [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")]


def long_stream(client):
    body = {"inputs": "a", "parameters": {"max_new_tokens": 1000, "ignore_eos": True}}
    return client.stream("POST", "/generate_stream", json=body)


# A step that never ends, as soon as somebody asks for 77 tokens.
HANGS = """
import sys, time
from app.engine import supervised_worker
from model.native.runner import NativeRunner

launch = NativeRunner.launch

def hang(runner, batch):
    if any(draw.max_new == 76 for chunk in batch.chunks for draw in chunk.draws):
        time.sleep(10**6)
    return launch(runner, batch)

NativeRunner.launch = hang
supervised_worker.STOP_SECONDS = 0.5
from app import server
server.LOST_SECONDS = 5.0
from app.cli import main
sys.exit(main(sys.argv[1:]))
"""
HANGING = {"inputs": "a", "parameters": {"max_new_tokens": 77, "ignore_eos": True}}


@pytest.mark.usefixtures("needs_native")
def test_a_step_that_hangs_is_told_to_its_clients_and_ends_the_process_with_70(serve):
    server = serve("--stall-seconds", "2", program=("-c", HANGS))
    with httpx.Client(base_url=server.url, timeout=60) as client:
        with client.stream("POST", "/generate_stream", json=HANGING) as response:
            *_, last = events_of(response.iter_lines())
        assert last["error_type"] == "not_ready"
        assert "no sign of life" in last["error"]
        assert client.get("/health/ready").status_code == 503
        assert client.post("/generate", json=HANGING).status_code == 503
        assert client.get("/health/live").status_code == 200
    assert server.exit_code() == 70
    (stacks,) = (json.loads(line)["event"] for line in server.log if "Where the threads stand" in line)
    assert "thread gpt2-engine" in stacks
    assert "in hang" in stacks


@pytest.mark.usefixtures("needs_native")
def test_a_step_that_hangs_does_not_keep_a_drain_from_ending(serve):
    server = serve("--drain-seconds", "0.5", program=("-c", HANGS))
    with (
        httpx.Client(base_url=server.url, timeout=60) as client,
        client.stream("POST", "/generate_stream", json=HANGING) as response,
    ):
        lines = response.iter_lines()
        next(lines)
        server.terminate()
        *_, last = events_of(lines)
    assert "shutting down" in last["error"]
    assert server.exit_code() == 0
    assert any("left behind" in line for line in server.log)


def test_a_process_that_was_stopped_for_longer_than_a_stall_goes_on(serve):
    server = serve("--stall-seconds", "2")
    with httpx.Client(base_url=server.url, timeout=60) as client, long_stream(client) as response:
        lines = response.iter_lines()
        next(lines)
        server.process.send_signal(signal.SIGSTOP)
        time.sleep(3)
        server.process.send_signal(signal.SIGCONT)
        assert httpx.post(server.url + "/generate", json={"inputs": "a"}, timeout=60).status_code == 200
        assert events_of(lines)[-1]["details"]["finish_reason"] == "length"
    server.terminate()
    assert server.exit_code() == 0


# An engine whose thread breaks whenever somebody asks for 77 tokens.
CRASHES = """
import sys
from app.engine.scheduler import Scheduler

submit = Scheduler.submit

def crash(scheduler, sequence, now):
    if sequence.request.max_new_tokens == 77:
        raise SystemExit("broken")
    submit(scheduler, sequence, now)

Scheduler.submit = crash
from app import server
server.LOST_SECONDS = 5.0
from app.cli import main
sys.exit(main(sys.argv[1:]))
"""


def test_an_engine_that_crashes_is_replaced_until_it_has_crashed_too_often(serve, eventually):
    server = serve(program=("-c", CRASHES))
    with httpx.Client(base_url=server.url, timeout=60) as client:
        before = client.post("/generate", json={"inputs": "a"}).json()
        for _ in range(5):
            crashed = client.post("/generate", json=HANGING)
            assert crashed.status_code == 503
            assert "the engine has stopped" in crashed.json()["error"]
            eventually(lambda: client.get("/health/ready").status_code == 200)
        assert client.post("/generate", json={"inputs": "a"}).json() == before
        assert client.post("/generate", json=HANGING).status_code == 503
        assert client.get("/health/ready").status_code == 503
        assert client.get("/health/live").status_code == 200
    assert server.exit_code() == 70


# A model that takes for ever to load.
LOADS = """
import sys, time
from app import bootstrap

def load(*_):
    print("loads", file=sys.stderr, flush=True)
    time.sleep(10**6)

bootstrap.load = load
from app.cli import main
sys.exit(main(sys.argv[1:]))
"""
WARMS_UP = """
import sys, time
from app.engine.worker import Worker

def warm_up(_):
    print("warms up", file=sys.stderr, flush=True)
    time.sleep(10**6)

Worker.warm_up = warm_up
from app.cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("program", [LOADS, WARMS_UP], ids=["loads", "warms up"])
def test_a_signal_while_the_model_loads_ends_the_process_at_once(tiny_checkpoint, program):
    command = [sys.executable, "-c", program, "serve", "--model", str(tiny_checkpoint), "--port", "0", "--device", "cpu"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        while "loads" not in (line := process.stderr.readline()) and "warms up" not in line:
            assert line, "it has ended by itself"
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 128 + signal.SIGTERM


# A model that loads once it has been told that somebody hung up.
LOADS_LATE = """
import signal, sys, os
from app import bootstrap

load = bootstrap.load

def hang_up_first(*arguments):
    os.kill(os.getpid(), signal.SIGHUP)
    return load(*arguments)

bootstrap.load = hang_up_first
from app.cli import main
sys.exit(main(sys.argv[1:]))
"""


def test_a_hangup_ends_no_service_that_has_no_file_of_keys_whether_it_starts_or_serves(serve, eventually):
    server = serve(program=("-c", LOADS_LATE))
    server.process.send_signal(signal.SIGHUP)
    eventually(lambda: any("no file of API keys" in line for line in server.log))
    assert httpx.get(server.url + "/health/ready").status_code == 200
    server.terminate()
    assert server.exit_code() == 0


# A runner that is lost, as soon as somebody asks for 77 tokens; and time to see what is told then.
LOSES = """
import sys
from app import server
from model.batch import RunnerLost
from model.native.runner import NativeRunner

launch = NativeRunner.launch

def lose(runner, batch):
    if any(draw.max_new == 76 for chunk in batch.chunks for draw in chunk.draws):
        raise RunnerLost("its device is gone")
    return launch(runner, batch)

NativeRunner.launch = lose
server.LOST_SECONDS = 5.0
from app.cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.usefixtures("needs_native")
def test_a_runner_that_is_lost_is_told_to_all_clients_and_ends_the_process_with_70(serve):
    server = serve(program=("-c", LOSES))
    body = {"inputs": "a", "parameters": {"max_new_tokens": 77, "ignore_eos": True}}
    with (
        httpx.Client(base_url=server.url, timeout=60) as client,
        httpx.Client(base_url=server.url, timeout=60) as other,
        long_stream(other) as going,
    ):
        lines = going.iter_lines()
        next(lines)
        with client.stream("POST", "/generate_stream", json=body) as response:
            *_, last = events_of(response.iter_lines())
        for error in (last, events_of(lines)[-1]):
            assert error["error_type"] == "not_ready"
            assert "its device is gone" in error["error"]
        assert client.get("/health/ready").status_code == 503
        assert client.post("/generate", json=body).status_code == 503
        assert client.get("/health/live").status_code == 200
        assert server.exit_code() == 70
    assert any("the engine is lost" in line for line in server.log)


@pytest.mark.row("error.not_ready")
def test_a_running_stream_finishes_while_new_requests_are_sent_away(serve, call, eventually):
    server = serve()
    for _ in range(4):  # company, so that it runs for longer than the requests below take
        call(server, "/generate_stream", {"inputs": "b", "parameters": {"max_new_tokens": 1000, "ignore_eos": True}})
    with httpx.Client(base_url=server.url, timeout=60) as client, httpx.Client(base_url=server.url, timeout=60) as other:
        assert other.get("/health/ready").status_code == 200
        with long_stream(client) as response:
            lines = response.iter_lines()
            next(lines)
            server.terminate()
            eventually(lambda: other.get("/health/ready").status_code == 503)
            refused = [other.post("/generate", json={"inputs": "a"}), other.post("/v1/completions", json={"prompt": "a"})]
            events = events_of(lines)
    assert [response.status_code for response in refused] == [503, 503]
    assert all(int(response.headers["retry-after"]) >= 1 for response in refused)
    assert all(response.headers["connection"] == "close" for response in refused)
    assert refused[0].json()["error_type"] == "not_ready"
    assert "shutting down" in refused[1].json()["error"]["message"]
    assert len(events) == 999, "the first was read before"
    assert events[-1]["details"]["finish_reason"] == "length"
    assert server.exit_code() == 0


@pytest.mark.usefixtures("needs_native")
def test_every_answer_of_a_drain_ends_its_connection(serve, eventually, tmp_path):
    keys = tmp_path / "keys"
    keys.write_text("a-key-of-sixteen-letters")
    server = serve("--api-keys-file", str(keys), program=("-c", HANGS))
    key = {"authorization": "Bearer a-key-of-sixteen-letters"}
    with (
        httpx.Client(base_url=server.url, timeout=60, headers=key) as client,
        client.stream("POST", "/generate_stream", json=HANGING) as response,
    ):
        lines = response.iter_lines()
        next(lines)
        server.terminate()
        eventually(lambda: httpx.get(server.url + "/health/ready").status_code == 503)
        answers = [
            httpx.post(server.url + "/generate", json={"inputs": "a"}),
            httpx.get(server.url + "/info"),
            httpx.get(server.url + "/info", headers=key),
            httpx.get(server.url + "/health/live"),
            httpx.post(server.url + "/tokenize", json={"inputs": "a"}, headers=key),
        ]
        server.terminate()  # the drain is not waited for any longer
        assert events_of(lines)[-1]["error_type"] == "not_ready"
    assert [answer.status_code for answer in answers] == [401, 401, 200, 200, 200]
    assert [answer.headers["connection"] for answer in answers] == ["close"] * 5
    assert server.exit_code() == 0


def test_past_the_limit_the_stream_ends_with_an_error(serve):
    server = serve("--drain-seconds", "0")
    with httpx.Client(base_url=server.url, timeout=60) as client, long_stream(client) as response:
        lines = response.iter_lines()
        next(lines)
        server.terminate()
        events = events_of(lines)
    assert events[-1]["error_type"] == "not_ready"
    assert "shutting down" in events[-1]["error"]
    assert len(events) < 1000
    assert server.exit_code() == 0
    assert any("cut off" in line for line in server.log)


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_an_idle_server_leaves_at_once(serve, sent):
    server = serve()
    with httpx.Client(base_url=server.url) as client:  # its connection stays open
        client.get("/health")
        server.process.send_signal(sent)
        assert server.exit_code() == 0


def test_a_second_signal_cuts_off_what_still_runs(serve, call, eventually):
    server = serve()
    for _ in range(30):  # work for longer than the signals take
        call(server, "/generate_stream", {"inputs": "b", "parameters": {"max_new_tokens": 1000, "ignore_eos": True}})
    with (
        httpx.Client(base_url=server.url, timeout=60) as client,
        httpx.Client(base_url=server.url) as other,
        long_stream(client) as response,
    ):
        lines = response.iter_lines()
        next(lines)
        server.terminate()
        eventually(lambda: other.get("/health/ready").status_code == 503)
        server.terminate()
        events = events_of(lines)
    assert events[-1]["error_type"] == "not_ready"
    assert server.exit_code() == 0


def test_a_reader_that_has_stopped_reading_does_not_hold_it_up(serve, call):
    server = serve("--drain-seconds", "0")
    body = {"inputs": "a", "parameters": {"max_new_tokens": 1000, "ignore_eos": True}}
    for _ in range(3):
        call(server, "/generate_stream", body)
    with httpx.Client(base_url=server.url) as client:
        client.post("/generate", json={"inputs": "a"})
    server.terminate()
    assert server.exit_code() == 0


def read_all(connection):
    return b"".join(iter(lambda: connection.recv(65_536), b""))


def lines_of(server, event):
    return [line for line in map(json.loads, server.log) if line["event"] == event]


HALVES = {
    "a body": b"POST /generate HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{",
    "a head": b"POST /generate HTTP/1.1\r\nhost: x\r\n",
}


@pytest.mark.row("error.not_ready")
@pytest.mark.parametrize("half", HALVES)
def test_a_request_that_was_only_half_sent_is_told_and_does_not_hold_it_up(serve, half):
    server = serve()
    address = urlsplit(server.url)
    with socket.create_connection((address.hostname, address.port), timeout=60) as connection:
        connection.sendall(HALVES[half])
        httpx.get(server.url + "/health/live")  # by now the first bytes have arrived
        server.terminate()
        head, _, body = read_all(connection).partition(b"\r\n\r\n")
    assert server.exit_code() == 0
    assert head.startswith(b"HTTP/1.1 503 ")
    assert b"connection: close" in head
    assert json.loads(body) == {"error": "the service is shutting down", "error_type": "not_ready"}
    (refused,) = lines_of(server, "refused")
    assert b"x-request-id: " + refused["id"].encode() in head
    assert [line["id"] for line in lines_of(server, "request") if line["path"] == "/generate"] == [refused["id"]] * (
        half == "a body"
    )
    assert not any("Traceback" in line or "Cancel" in line for line in server.log), "it was not waited for"


# Answers about tokens take for ever, and the server does not wait for them for long.
NEVER_ANSWERS = """
import asyncio, sys
from app import middleware, server

server.CLOSE_SECONDS = 0.2
answer = middleware.DoorMiddleware.__call__

async def hang(door, scope, receive, send):
    if scope["type"] == "http" and scope["path"] == "/tokenize":
        print("it hangs", file=sys.stderr, flush=True)
        await asyncio.sleep(10**6)
    await answer(door, scope, receive, send)

middleware.DoorMiddleware.__call__ = hang
from app.cli import main
sys.exit(main(sys.argv[1:]))
"""


def test_an_answer_that_does_not_come_is_a_503_when_the_server_ends(serve, eventually):
    server = serve(program=("-c", NEVER_ANSWERS))
    address = urlsplit(server.url)
    with socket.create_connection((address.hostname, address.port), timeout=60) as connection:
        connection.sendall(b"POST /tokenize HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{}")
        eventually(lambda: "it hangs\n" in server.log)
        server.terminate()
        head, _, body = read_all(connection).partition(b"\r\n\r\n")
    assert server.exit_code() == 0
    assert head.startswith(b"HTTP/1.1 503 ")
    assert json.loads(body)["error_type"] == "not_ready"
    assert b"x-request-id: " in head
    assert b"connection: close" in head
    assert not any("Traceback" in line for line in server.log)


def test_the_log_is_json_and_holds_no_text(serve):
    server = serve()
    canary = "canary sings"
    httpx.post(server.url + "/generate", json={"inputs": canary, "parameters": {"return_full_text": True}})
    httpx.post(server.url + "/generate", json={"inputs": canary, "parameters": {canary: 1}})
    httpx.post(server.url + "/v1/completions", json={"prompt": [canary, 1]})
    server.terminate()
    assert server.exit_code() == 0
    lines = [json.loads(line) for line in server.log]
    assert canary not in "".join(server.log)
    requests = [line for line in lines if line["event"] == "request"]
    assert [(line["path"], line["status"], line["outcome"]) for line in requests] == [
        ("/generate", 200, "completed"),
        ("/generate", 422, "invalid"),
        ("/v1/completions", 400, "invalid"),
    ]
    assert all(line["id"] and line["timestamp"] and line["level"] == "info" for line in requests)
