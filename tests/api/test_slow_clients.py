"""Clients that send or read too slowly, that only finish sending, or that are too many.

The times are small ones by settings; no test measures one.
"""

import contextlib
import json
import socket
import time
from contextlib import ExitStack, closing

import httpx
import pytest
import structlog

from app.middleware import MAX_TOLD

BODY = b'{"inputs": "a", "parameters": {"max_new_tokens": 3}}'
LONG = b'{"inputs": "a", "stream": true, "parameters": {"max_new_tokens": 1000}}'
PATIENCE_SECONDS = 60  # ends a test that would hang


def head(length, path=b"/generate"):
    return b"POST " + path + b" HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % length


def connect(server, receive_buffer=None):
    host, port = server.url.removeprefix("http://").split(":")
    connection = socket.socket()
    if receive_buffer is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)  # before the window is told
    connection.settimeout(PATIENCE_SECONDS)
    connection.connect((host, int(port)))
    return connection


def read_all(connection):
    return b"".join(iter(lambda: connection.recv(65_536), b""))


def num_unfinished(server):
    return server.service.generator.client.num_unfinished


HALVES = {
    "a head": (b"GET / HTTP/1.1\r\nHost: a\r\n", b"its head"),
    "a line": (b"GET /v1/completions HT", b"its head"),
    "a body": (head(100) + b'{"inputs": ', b"its body"),
    "no body": (head(100), b"its body"),
    "a chunk": (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab", b"its body"),
}


@pytest.mark.row("http.read_timeout")
@pytest.mark.parametrize("kind", HALVES)
def test_half_a_request_is_answered_408_and_closed(start_server, kind):
    server = start_server(read_timeout_seconds=0.2)
    half, named = HALVES[kind]
    with closing(connect(server)) as connection:
        connection.sendall(half)
        answer = read_all(connection)
    assert answer.startswith(b"HTTP/1.1 408")
    assert b"connection: close" in answer
    assert named in answer
    assert num_unfinished(server) == 0


@pytest.mark.row("http.read_timeout")
def test_a_connection_that_sends_nothing_is_closed_without_a_word(start_server):
    server = start_server(read_timeout_seconds=0.2)
    with closing(connect(server)) as connection:
        assert read_all(connection) == b""


def test_the_second_request_of_a_connection_has_the_same_time(start_server):
    server = start_server(read_timeout_seconds=0.2)
    with closing(connect(server)) as connection:
        connection.sendall(head(len(BODY)) + BODY)
        assert connection.recv(65_536).startswith(b"HTTP/1.1 200")
        connection.sendall(b"GET / HTT")
        assert read_all(connection).startswith(b"HTTP/1.1 408")


def test_many_half_requests_are_all_closed_and_others_answered_meanwhile(start_server):
    server = start_server(read_timeout_seconds=0.5)
    with ExitStack() as stack:
        halves = [stack.enter_context(closing(connect(server))) for _ in range(200)]
        for i, connection in enumerate(halves):
            connection.sendall(list(HALVES.values())[i % len(HALVES)][0])
        assert httpx.post(server.url + "/generate", content=BODY).status_code == 200
        assert all(read_all(connection).startswith(b"HTTP/1.1 408") for connection in halves)


def test_a_body_that_trickles_is_cut_off_though_it_never_pauses(start_server):
    server = start_server(read_timeout_seconds=0.5)
    with closing(connect(server)) as connection:
        connection.sendall(head(1_000_000))
        connection.settimeout(0.05)
        answer = b""
        for _ in range(1000):
            try:
                connection.sendall(b" ")
                answer += connection.recv(65_536)
                break
            except TimeoutError:
                continue
    assert answer.startswith(b"HTTP/1.1 408")


def test_an_answer_that_takes_long_is_no_slow_request(stepped_server, in_background, eventually):
    """Longer than a request may take to arrive."""
    server, runner = stepped_server(read_timeout_seconds=0.1)
    with closing(connect(server)) as connection:
        connection.sendall(head(len(BODY)) + BODY + b"\r\n")  # with an empty line, as old clients send
        eventually(lambda: runner.arrived)
        with closing(connect(server)) as other:
            assert read_all(other) == b"", "the time has passed for another"
        runner.open()
        assert connection.recv(65_536).startswith(b"HTTP/1.1 200")


@pytest.mark.row("http.write_timeout")
@pytest.mark.parametrize("kernel_helps", [True, False])
def test_a_reader_that_stops_is_cut_off_and_its_request_counted_as_aborted(start_server, eventually, monkeypatch, kernel_helps):
    if not kernel_helps:
        monkeypatch.delattr(socket, "TCP_USER_TIMEOUT")
    monkeypatch.setattr("app.network.limits.SEND_BUFFER_BYTES", 4096)
    monkeypatch.setattr("app.network.protocol.HIGH_WATER_BYTES", 4096)
    server = start_server(write_timeout_seconds=0.5, dtype="float32")
    with closing(connect(server, receive_buffer=4096)) as frozen:
        frozen.sendall(head(len(LONG)) + LONG)
        eventually(lambda: server.metric("gpt2_requests_total", route="/generate", outcome="aborted") == 1)
        eventually(lambda: not server.server.server_state.connections)
        assert num_unfinished(server) == 0
        with contextlib.suppress(ConnectionResetError):
            assert not read_all(frozen).endswith(b"0\r\n\r\n"), "its end was never sent"


def test_a_reader_that_stops_is_counted_as_aborted_though_the_engine_has_finished(start_server, eventually, monkeypatch):
    monkeypatch.setattr("app.network.limits.SEND_BUFFER_BYTES", 4096)
    server = start_server(write_timeout_seconds=3)
    with closing(connect(server, receive_buffer=4096)) as frozen:
        frozen.sendall(head(len(LONG)) + LONG)
        eventually(lambda: server.metric("gpt2_request_seconds_count") == 1)
        eventually(lambda: not server.server.server_state.connections)
        eventually(lambda: server.metric("gpt2_requests_total", route="/generate", outcome="aborted") == 1)


def test_a_whole_answer_that_nobody_reads_does_not_keep_its_connection(start_server, eventually, monkeypatch):
    """It is complete for the application, and half of it waits in the transport."""
    monkeypatch.delattr(socket, "TCP_USER_TIMEOUT")
    monkeypatch.setattr("app.network.limits.SEND_BUFFER_BYTES", 4096)
    server = start_server(write_timeout_seconds=0.2, keep_alive_seconds=1)
    with closing(connect(server, receive_buffer=4096)) as frozen:
        frozen.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: a\r\n\r\n")
        eventually(lambda: server.server.server_state.total_requests == 1)
        eventually(lambda: not server.server.server_state.connections)


def test_a_slow_reader_gets_all_of_its_stream(start_server, monkeypatch):
    monkeypatch.setattr("app.network.limits.SEND_BUFFER_BYTES", 4096)
    monkeypatch.setattr("app.network.protocol.HIGH_WATER_BYTES", 4096)
    server = start_server(write_timeout_seconds=0.5)
    whole = httpx.post(server.url + "/generate", content=LONG, timeout=PATIENCE_SECONDS)
    with closing(connect(server, receive_buffer=4096)) as slow:
        slow.sendall(head(len(LONG)) + LONG)
        answer = b""
        while not answer.endswith(b"0\r\n\r\n"):
            answer += slow.recv(512)
    sent = [line for line in answer.replace(b"\r\n", b"\n").split(b"\n") if line.startswith(b"data: ")]
    told = [line.encode() for line in whole.text.splitlines() if line.startswith("data: ")]
    assert [json.loads(line[6:])["token"] for line in sent] == [json.loads(line[6:])["token"] for line in told]


@pytest.mark.row("http.write_timeout")
def test_a_reader_who_takes_little_at_a_time_gets_all_though_the_kernel_takes_no_more_for_long(start_server, monkeypatch):
    monkeypatch.delattr(socket, "TCP_USER_TIMEOUT")  # on loopback, where segments have 64 KB, it takes a small window for none
    server = start_server(write_timeout_seconds=2.2)
    body = json.dumps({"inputs": "a " * 10_000}).encode()
    with closing(connect(server, receive_buffer=4096)) as slow:
        slow.sendall(head(len(body), b"/tokenize") + body)
        answer = b""
        for _ in range(30):
            answer += slow.recv(512)
            time.sleep(0.1)
        while not answer.endswith(b"0\r\n\r\n"):
            part = slow.recv(65_536)
            assert part, "it was cut off"
            answer += part
    assert answer.startswith(b"HTTP/1.1 200")


@pytest.mark.row("http.half_close")
@pytest.mark.parametrize(
    "request_", [head(len(BODY)) + BODY, head(len(BODY), b"/generate_stream") + BODY, b"GET /info HTTP/1.1\r\nHost: a\r\n\r\n"]
)
def test_a_client_that_has_finished_sending_gets_its_answer(server, request_):
    with closing(connect(server)) as connection:
        connection.sendall(request_)
        connection.shutdown(socket.SHUT_WR)
        answer = read_all(connection).removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200")
    assert answer.endswith((b"}", b"0\r\n\r\n"))


@pytest.mark.row("http.half_close")
def test_one_that_finishes_sending_in_the_middle_of_its_stream_gets_the_rest(stepped_server):
    server, runner = stepped_server()
    with closing(connect(server)) as connection:
        connection.sendall(head(len(BODY), b"/generate_stream") + BODY)
        runner.let_through(1)
        answer = connection.recv(65_536)
        connection.shutdown(socket.SHUT_WR)
        runner.open()
        answer += read_all(connection)
    assert answer.count(b"data: ") == 3
    assert answer.endswith(b"0\r\n\r\n")


def test_one_that_leaves_having_read_all_so_far_is_noticed_by_what_is_sent_next(stepped_server, eventually):
    """TCP tells of neither reset nor close here: only that the client sends nothing more."""
    server, runner = stepped_server()
    connection = connect(server)
    connection.sendall(head(len(LONG)) + LONG)
    runner.let_through(1)
    while b"\n\n" not in connection.recv(65_536):
        pass
    connection.close()
    eventually(lambda: runner.let_through(1) or num_unfinished(server) == 0)
    assert len(runner.arrived) < 500, "long before its text is complete"
    eventually(lambda: server.metric("gpt2_requests_total", route="/generate", outcome="aborted") == 1)


def test_one_that_leaves_with_requests_behind_the_running_one_is_noticed(stepped_server, eventually):
    server, runner = stepped_server()
    connection = connect(server)
    connection.sendall((head(len(BODY)) + BODY) * 3)
    eventually(lambda: runner.arrived)
    connection.close()
    eventually(lambda: num_unfinished(server) == 0)
    runner.let_through(1)
    assert len(runner.arrived) == 1, "those behind it never began"


@pytest.mark.row("http.max_connections")
def test_connections_beyond_the_limit_are_refused_at_once_and_probes_are_not(start_server, eventually):
    server = start_server(max_connections=3)
    with ExitStack() as stack:
        held = [stack.enter_context(closing(connect(server))) for _ in range(3)]
        eventually(lambda: len(server.server.server_state.connections) == 3)
        refused = httpx.post(server.url + "/v1/completions", json={"prompt": "a"})
        assert refused.status_code == 503
        assert int(refused.headers["retry-after"]) > 0
        assert refused.headers["connection"] == "close"
        assert refused.json()["error"]["type"] == "server_error"
        for path in ("/health/live", "/health/ready", "/metrics"):
            assert httpx.get(server.url + path).status_code == 200
        for connection in held:
            connection.sendall(head(len(BODY)) + BODY)
            assert connection.recv(65_536).startswith(b"HTTP/1.1 200")
    eventually(lambda: not server.server.server_state.connections)
    assert httpx.post(server.url + "/v1/completions", json={"prompt": "a", "max_tokens": 1}).status_code == 200


BROKEN_BODIES = {
    "it pauses": (HALVES["a body"][0], 408),
    "its first chunk is none": (b"POST /generate HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nx", 400),
}


@pytest.mark.parametrize("kind", BROKEN_BODIES)
def test_a_body_that_breaks_off_has_one_id_and_one_outcome_in_its_answer_its_line_and_the_metrics(start_server, kind, eventually):
    sent, status = BROKEN_BODIES[kind]
    server = start_server(read_timeout_seconds=0.2)
    with structlog.testing.capture_logs() as lines, closing(connect(server)) as connection:
        connection.sendall(sent)
        answer = read_all(connection)
        eventually(lambda: any(line["event"] == "request" for line in lines))
    refused, request = lines
    assert b"x-request-id: " + request["id"].encode() + b"\r\n" in answer
    assert refused["id"] == request["id"]
    assert (request["status"], request["outcome"]) == (status, "invalid")
    assert server.metric("gpt2_requests_total", route="/generate", outcome="invalid") == 1
    assert server.metric("gpt2_refused_connections_total", status=str(status)) == 1


def test_connections_that_are_refused_are_counted_all_and_logged_a_few(start_server, monkeypatch, eventually):
    monkeypatch.setattr("app.middleware.time", StandingClock)
    server = start_server(max_connections=1)
    with structlog.testing.capture_logs() as lines, closing(connect(server)):
        eventually(lambda: server.server.server_state.connections)
        for _ in range(2 * MAX_TOLD):
            assert httpx.post(server.url + "/generate", json={}).status_code == 503
    assert [line["event"] for line in lines] == ["refused"] * MAX_TOLD
    assert server.metric("gpt2_rejected_total", reason="too_many_connections") == 2 * MAX_TOLD


class StandingClock:
    """The time module in a second that does not end."""

    @staticmethod
    def monotonic():
        return 1.5


@pytest.mark.row("http.max_connections")
def test_the_connection_that_has_been_idle_for_longest_gives_its_place_to_a_new_one(start_server):
    server = start_server(max_connections=3)
    with ExitStack() as stack:
        held = [stack.enter_context(closing(connect(server))) for _ in range(3)]
        for connection in [*held, held[0]]:
            connection.sendall(head(len(BODY)) + BODY)
            assert connection.recv(65_536).startswith(b"HTTP/1.1 200")
        assert httpx.post(server.url + "/generate", content=BODY).status_code == 200
        assert held[1].recv(1) == b"", "closed"
        for connection in (held[2], held[0]):
            connection.sendall(head(len(BODY)) + BODY)
            assert connection.recv(65_536).startswith(b"HTTP/1.1 200")


@pytest.mark.row("http.max_connections")
@pytest.mark.parametrize("num_refused", [0, 128])
@pytest.mark.parametrize("sent", [b"", b"GET /health/l"])
def test_silent_connections_do_not_shut_out_probes(start_server, eventually, monkeypatch, num_refused, sent):
    monkeypatch.setattr("app.network.protocol.PROBE_CONNECTIONS", 2)
    monkeypatch.setattr("app.network.protocol.REFUSED_CONNECTIONS", num_refused)
    server = start_server(max_connections=1)
    with ExitStack() as stack:
        silent = [stack.enter_context(closing(connect(server))) for _ in range(8)]
        with contextlib.suppress(ConnectionError):
            for connection in silent:
                connection.sendall(sent)
        for _ in range(3):
            assert httpx.get(server.url + "/health/live").status_code == 200
        told = b""
        with contextlib.suppress(ConnectionResetError):
            told = silent[1].recv(65_536)
        assert told.startswith(b"HTTP/1.1 503") == (num_refused > 0), "the oldest was told as long as there is room for that"


@pytest.mark.row("http.max_connections")
def test_beyond_those_kept_for_probes_the_answer_comes_before_the_request(start_server, monkeypatch, eventually):
    monkeypatch.setattr("app.network.protocol.PROBE_CONNECTIONS", 0)
    server = start_server(max_connections=1)
    with closing(connect(server)), closing(connect(server)) as refused:
        eventually(lambda: server.server.server_state.connections)
        answer = read_all(refused)
    assert answer.startswith(b"HTTP/1.1 503")
    assert b"retry-after: " in answer


def test_an_idle_connection_whose_client_is_still_sending_an_unwanted_body_lives_on(start_server):
    """The time for idle connections begins again once the body is through."""
    server = start_server(keep_alive_seconds=1, max_body_bytes=1024)
    with closing(connect(server)) as connection:
        connection.sendall(head(5000) + b"a" * 4000)
        assert connection.recv(65_536).startswith(b"HTTP/1.1 413")
        connection.sendall(b"a" * 1000)
        assert read_all(connection) == b"", "closed as any idle one, in the end"


def test_unwanted_bodies_of_a_connection_are_counted_each_by_itself(start_server, monkeypatch):
    monkeypatch.setattr("app.network.protocol.MAX_UNREAD_BYTES", 10_000)
    server = start_server(max_body_bytes=1024)
    with closing(connect(server)) as connection:
        for _ in range(5):
            connection.sendall(head(4000))
            assert connection.recv(65_536).startswith(b"HTTP/1.1 413")
            connection.sendall(b"a" * 3000)
            httpx.get(server.url + "/health")  # so that the server has read them
            connection.sendall(b"a" * 1000)
        connection.sendall(b"GET /info HTTP/1.1\r\nHost: a\r\n\r\n")
        assert connection.recv(65_536).startswith(b"HTTP/1.1 200")
