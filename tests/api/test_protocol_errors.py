"""What is no HTTP, or more of it than is read, gets the contract's own answer; what only looks odd is served."""

import json
import re
import socket
import threading
from contextlib import closing

import httpx
import pytest
import structlog

from app.middleware import LineLimit

BODY = b'{"inputs": "The old man", "parameters": {"max_new_tokens": 3}}'
SIZED = b"Host: a\r\nContent-Length: %d\r\n" % len(BODY)
PATHS = [b"/generate", b"/v1/completions"]


def answers_in(stream):
    """All answers of known length, one after the other: status, headers, body."""
    found = []
    while stream:
        head, _, rest = stream.partition(b"\r\n\r\n")
        status, *lines = head.decode().split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines)
        length = int(headers.get("content-length", 0))
        found.append((int(status.split(" ")[1]), headers, rest[:length]))
        stream = rest[length:]
    return found


def the_answer_in(stream):
    (answer,) = answers_in(stream)
    return answer


def assert_contract(answer, path):
    """The shape of the path's dialect, an id, and the end of the connection."""
    status, headers, body = answer
    error = json.loads(body)
    assert headers["content-type"] == "application/json"
    assert headers["connection"] == "close"
    assert re.fullmatch(r"[0-9a-f]{32}", headers["x-request-id"])
    if path.startswith(b"/v1/"):
        assert set(error["error"]) == {"message", "type", "param", "code"}
        assert error["error"]["type"] == ("server_error" if status >= 500 else "invalid_request_error")
    else:
        assert set(error) == {"error", "error_type"}


MALFORMED = {
    "no host": (b"%b HTTP/1.1\r\nContent-Length: 0\r\n\r\n", 400),
    "two hosts": (b"%b HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 400),
    "two hosts in 1.0": (b"%b HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n", 400),
    "a host that is none": (b"%b HTTP/1.1\r\nHost: a/../b\r\n\r\n", 400),
    "two lengths": (b"%b HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabc", 400),
    "the same length twice": (b"%b HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc", 400),
    "a length and chunks": (b"%b HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "chunks and a length": (b"%b HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n", 400),
    "a length beyond 64 bits": (b"%b HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999\r\n\r\n", 400),
    "a length with a sign": (b"%b HTTP/1.1\r\nHost: a\r\nContent-Length: +3\r\n\r\nabc", 400),
    "chunks in 1.0": (b"%b HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "another coding": (b"%b HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501),
    "a coding that is no chunks": (b"%b HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", 501),
    "chunks twice": (b"%b HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "a bad chunk": (b"%b HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
    "a folded header": (b"%b HTTP/1.1\r\nHost: a\r\nA: b\r\n c\r\n\r\n", 400),
    "a space before the colon": (b"%b HTTP/1.1\r\nHost: a\r\nA : b\r\n\r\n", 400),
    "a bare line feed": (b"%b HTTP/1.1\nHost: a\n\n", 400),
    "a bare carriage return": (b"%b HTTP/1.1\r\nHost: a\rA: b\r\n\r\n", 400),
    "a zero byte": (b"%b HTTP/1.1\r\nHost: a\r\nA: \x00\r\n\r\n", 400),
    "version 1.2": (b"%b HTTP/1.2\r\nHost: a\r\n\r\n", 505),
    "version 2.0": (b"%b HTTP/2.0\r\nHost: a\r\n\r\n", 505),
    "version 0.9": (b"%b HTTP/0.9\r\nHost: a\r\n\r\n", 505),
    "version 3.0": (b"%b HTTP/3.0\r\nHost: a\r\n\r\n", 505),
    "101 headers": (b"%b HTTP/1.1\r\nHost: a\r\n" + b"A: b\r\n" * 100 + b"\r\n", 431),
    "a large header": (b"%b HTTP/1.1\r\nHost: a\r\nA: " + b"a" * 33_000 + b"\r\n\r\n", 431),
    "headers that are large together": (b"%b HTTP/1.1\r\nHost: a\r\n" + (b"A: " + b"a" * 1000 + b"\r\n") * 40 + b"\r\n", 431),
    "a long target": (b"%b?" + b"a" * 9_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414),
}  # fmt: skip


@pytest.mark.row("http.malformed")
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("kind", MALFORMED)
def test_what_is_no_http_is_answered_as_the_contract_says(raw_answer, kind, path):
    request, status = MALFORMED[kind]
    answer = the_answer_in(raw_answer(request % (b"POST " + path)))
    assert answer[0] == status
    assert_contract(answer, path)


@pytest.mark.row("http.malformed")
@pytest.mark.parametrize(
    "request_line", [b"\x16\x03\x01\x02\x00\x01", b"NONSENSE / HTTP/1.1\r\n", b"GET nothing HTTP/1.1\r\n", b"\xff"]
)
def test_what_has_no_address_is_answered_in_the_native_dialect(raw_answer, request_line):
    answer = the_answer_in(raw_answer(request_line + b"Host: a\r\n\r\n"))
    assert answer[0] == 400
    assert_contract(answer, b"/")


def test_a_tunnel_is_not_dug(raw_answer):
    answer = the_answer_in(raw_answer(b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n"))
    assert answer[0] == 501
    assert_contract(answer, b"/")


def test_the_preface_of_http_2_is_told_which_versions_there_are(raw_answer):
    answer = the_answer_in(raw_answer(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"))
    assert answer[0] == 505
    assert "1.1" in json.loads(answer[2])["error"]


def test_what_is_wrong_is_told_with_headers_names_as_they_are_written(raw_answer):
    for kind, words in (("a length and chunks", "Transfer-Encoding can't"), ("a space before the colon", "invalid header")):
        answer = the_answer_in(raw_answer(MALFORMED[kind][0] % b"POST /generate"))
        assert words in json.loads(answer[2])["error"]


def test_a_clients_own_id_comes_back_with_a_protocol_error_if_it_is_harmless(raw_answer):
    for given, is_taken in ((b"my-id.1", True), (b"no id", False)):
        answer = the_answer_in(raw_answer(b"GET / HTTP/1.1\r\nX-Request-Id: " + given + b"\r\n\r\n"))
        assert (answer[1]["x-request-id"] == given.decode()) == is_taken


def test_a_refused_head_request_has_no_body(raw_answer):
    assert raw_answer(b"HEAD / HTTP/1.1\r\n\r\n").endswith(b"\r\n\r\n")


@pytest.mark.row("http.head_limit")
@pytest.mark.parametrize("kind", ["headers", "header", "target", "empty lines"])
def test_a_head_without_an_end_is_refused_long_before_it_is_there(server, kind):
    """The rest is still being sent when the answer comes, as it would be for 64 MiB."""
    host, port = server.url.removeprefix("http://").split(":")
    start, piece, statuses = {
        "headers": (b"GET / HTTP/1.1\r\nHost: a\r\n", b"A: b\r\n" * 10_000, {431}),
        "header": (b"GET / HTTP/1.1\r\nHost: a\r\nA: ", b"a" * 65_536, {431}),
        "target": (b"GET /", b"a" * 65_536, {414, 431}),
        "empty lines": (b"", b"\r\n" * 32_768, {431}),
    }[kind]
    with closing(socket.create_connection((host, int(port)), timeout=60)) as connection:
        connection.sendall(start + piece)
        answer = b"".join(iter(lambda: connection.recv(65_536), b""))
        assert the_answer_in(answer)[0] in statuses


def test_heads_up_to_the_limits_are_served(raw_answer):
    many = b"".join(b"A%d: b\r\n" % i for i in range(98))
    large = b"A: " + b"a" * 30_000 + b"\r\n"
    for headers in (many, large):
        assert raw_answer(b"GET /health HTTP/1.1\r\nHost: a\r\nConnection: close\r\n" + headers + b"\r\n").startswith(
            b"HTTP/1.1 200"
        )
    assert raw_answer(b"GET /health?" + b"a" * 8000 + b" HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").startswith(
        b"HTTP/1.1 200"
    )


def test_white_space_behind_a_value_is_no_part_of_it(raw_answer):
    head = b"POST /generate HTTP/1.1\r\nHost: a \t\r\nX-Request-Id: mine \r\nTransfer-Encoding: chunked \r\n"
    head += b"Expect: 100-continue \r\nConnection: close \r\n\r\n"
    answer = raw_answer(head + b"%x\r\n" % len(BODY) + BODY + b"\r\n0\r\n\r\n")
    status, headers, _ = answers_in(answer.removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n"))[0]
    assert (status, headers["x-request-id"]) == (200, "mine")


def test_a_client_that_waits_for_100_continue_with_a_space_behind_it_is_told_to_go_on(server):
    host, port = server.url.removeprefix("http://").split(":")
    with closing(socket.create_connection((host, int(port)), timeout=60)) as connection:
        connection.sendall(b"POST /generate HTTP/1.1\r\n" + SIZED + b"Expect: 100-continue \r\nConnection: close\r\n\r\n")
        assert connection.recv(65_536) == b"HTTP/1.1 100 Continue\r\n\r\n"


def test_a_head_that_comes_byte_by_byte_is_served(server):
    host, port = server.url.removeprefix("http://").split(":")
    request = b"POST /generate HTTP/1.1\r\n" + SIZED + b"Connection: close\r\n\r\n" + BODY
    with closing(socket.create_connection((host, int(port)), timeout=60)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for i in range(len(request)):
            connection.sendall(request[i : i + 1])
        answer = b"".join(iter(lambda: connection.recv(65_536), b""))
    assert the_answer_in(answer)[0] == 200


@pytest.mark.row("http.upgrade")
@pytest.mark.parametrize("body", ["of known length", "chunked"])
@pytest.mark.parametrize("offer", [b"h2c", b"websocket", b"h2c, foo/2"])
def test_an_offer_of_another_protocol_is_declined_and_the_body_read(raw_answer, offer, body):
    head = b"POST /generate HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings, close\r\nHTTP2-Settings: AAA\r\n"
    head += b"Upgrade: " + offer + b"\r\n"
    if body == "chunked":
        request = head + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n" % len(BODY) + BODY + b"\r\n0\r\n\r\n"
    else:
        request = head + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY
    status, _, content = the_answer_in(raw_answer(request))
    assert status == 200, content
    assert json.loads(content)["generated_text"]


def test_an_offer_in_http_1_0_leaves_it_1_0(raw_answer):
    """No Host is asked for, and no chunk is sent."""
    body = BODY[:-2] + b'}, "stream": true}'
    head = b"POST /generate HTTP/1.0\r\nConnection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: %d\r\n\r\n" % len(body)
    answer = raw_answer(head + body)
    assert answer.startswith(b"HTTP/1.1 200")
    assert b"chunked" not in answer
    assert answer.endswith(b"\n\n")


def test_an_offer_that_comes_in_two_pieces_and_with_another_request_behind_it_is_declined(server):
    host, port = server.url.removeprefix("http://").split(":")
    first = b"POST /generate HTTP/1.1\r\n" + SIZED + b"Connection: Upgrade\r\nUpgrade: h2c\r\n\r\n" + BODY
    second = b"GET /health HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    for cut in (30, first.index(b"\r\n\r\n") + 3, len(first) - 10):
        with closing(socket.create_connection((host, int(port)), timeout=60)) as connection:
            connection.sendall(first[:cut])
            httpx.get(server.url + "/health")  # so that the server has read the first piece
            connection.sendall(first[cut:] + second)
            answers = answers_in(b"".join(iter(lambda: connection.recv(65_536), b"")))
        assert [status for status, _, _ in answers] == [200, 200]


@pytest.mark.row("http.expect")
def test_a_client_that_waits_for_100_continue_is_told_to_go_on(server):
    host, port = server.url.removeprefix("http://").split(":")
    with closing(socket.create_connection((host, int(port)), timeout=60)) as connection:
        connection.sendall(b"POST /generate HTTP/1.1\r\n" + SIZED + b"Expect: 100-continue\r\nConnection: close\r\n\r\n")
        assert connection.recv(65_536) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(BODY)
        assert the_answer_in(b"".join(iter(lambda: connection.recv(65_536), b"")))[0] == 200


@pytest.mark.row("http.expect")
def test_an_answer_before_100_continue_ends_the_connection(raw_answer):
    """Otherwise the next request would be taken for the body that was never sent."""
    request = b"POST /generate HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 99999999\r\n\r\n"
    status, headers, _ = the_answer_in(raw_answer(request))
    assert (status, headers["connection"]) == (413, "close")


def test_pipelined_requests_are_answered_in_order_and_an_error_behind_them_last(raw_answer):
    post = b"POST /generate HTTP/1.1\r\n" + SIZED + b"\r\n" + BODY
    get = b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n"
    answers = answers_in(raw_answer(post + get + post + b"GET / HTTP/1.1\r\n\r\n"))
    assert [status for status, _, _ in answers] == [200, 200, 200, 400]
    assert answers[0][2] == answers[2][2]
    assert_contract(answers[-1], b"/")


def test_more_pipelined_requests_than_may_wait_are_refused_when_those_before_are_answered(raw_answer):
    get = b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n"
    statuses = [status for status, _, _ in answers_in(raw_answer(get * 1000))]
    assert statuses == [200] * 65 + [400]


@pytest.mark.row("http.body_limit")
@pytest.mark.parametrize("framing", [b"Content-Length: 8000000", b"Transfer-Encoding: chunked"])
@pytest.mark.parametrize("connection", [b"close", b"keep-alive"])
def test_a_413_reaches_a_client_that_reads_only_once_it_has_sent_all(server, framing, connection):
    host, port = server.url.removeprefix("http://").split(":")
    body = b"a" * 8_000_000 if b"Length" in framing else b"7a1200\r\n" + b"a" * 8_000_000 + b"\r\n0\r\n\r\n"
    with closing(socket.create_connection((host, int(port)), timeout=60)) as sender:
        head = b"POST /generate HTTP/1.1\r\nHost: a\r\n" + framing + b"\r\nConnection: " + connection + b"\r\n\r\n"
        sender.sendall(head + body)
        answer = sender.recv(65_536)
        while b"\r\n\r\n" not in answer:
            answer += sender.recv(65_536)
        assert answer.startswith(b"HTTP/1.1 413")
        if connection == b"keep-alive":
            sender.sendall(b"GET /health HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            assert b"HTTP/1.1 200" in b"".join(iter(lambda: sender.recv(65_536), b""))


def test_chunks_with_next_to_nothing_in_them_are_refused(raw_answer):
    chunk = b"1;" + b"a" * 1000 + b"\r\nb\r\n"
    request = b"POST /generate HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk * 2000
    assert the_answer_in(raw_answer(request))[0] == 400


def test_chunks_of_one_byte_and_trailers_are_read(raw_answer):
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in BODY) + b"0\r\nHost: b\r\nX-Request-Id: c\r\n\r\n"
    head = b"POST /generate HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
    status, headers, _ = the_answer_in(raw_answer(head + chunks))
    assert status == 200
    assert headers["x-request-id"] != "c", "a trailer is no header"


@pytest.mark.parametrize("range_header", ["bytes=a-b", "bytes=5-2", "bytes=99999999-", "bytes=0-3", "lines=1-2"])
def test_a_range_is_passed_over(client, range_header):
    """As RFC 9110, section 14.2, allows; the files are small, and errors of ranges had an answer of their own."""
    whole = client.get("/docs/swagger-ui.css")
    response = client.get("/docs/swagger-ui.css", headers={"range": range_header})
    assert (response.status_code, response.content) == (200, whole.content)


def test_a_protocol_error_is_one_line_in_the_log_without_a_word_of_the_request(raw_answer, monkeypatch, caplog):
    monkeypatch.setattr(LineLimit, "has_room", lambda limit: True)  # however many errors the tests before have made in this second
    with structlog.testing.capture_logs() as lines:
        raw_answer(b"POST /sesame HTTP/1.1\r\nHost: a\r\nsesame : sesame\r\n\r\n")
    (line,) = [line for line in lines if line["event"] == "refused"]
    assert {name: line[name] for name in ("event", "status", "log_level")} == {
        "event": "refused",
        "status": 400,
        "log_level": "info",
    }
    assert "sesame" not in str(line)
    assert caplog.records == [], "uvicorn has nothing to add"


def test_requests_go_on_beside_fifty_that_are_no_http(server, raw_answer):
    threads = [threading.Thread(target=raw_answer, args=(b"\x00" * 100,)) for _ in range(50)]
    for thread in threads:
        thread.start()
    assert httpx.post(server.url + "/generate", content=BODY).status_code == 200
    for thread in threads:
        thread.join()
