"""The load generator: what it sends when, what it counts as a token, and how each way to fail is told."""

import json
from itertools import pairwise

import pytest

from app.bench.dialects import DIALECTS, Arrival, Asked
from app.bench.exchange import Endpoint
from app.bench.load import Answer, ClosedLoop, OpenLoop, run_load
from tests.bench.raw import HEAD, json_answer, stream
from tests.ports import unanswered_address

TOKEN = {"index": 1, "token": {"id": 1, "text": "a", "logprob": -1.0, "special": False}, "generated_text": None, "details": None}
LAST = TOKEN | {
    "index": 2,
    "generated_text": "aa",
    "details": {"finish_reason": "length", "generated_tokens": 2, "input_length": 7},
}


def bodies(dialect: str, number: int, max_new_tokens: int = 5) -> list[dict[str, object]]:
    return [DIALECTS[dialect].body(Asked(f"{i} The old man", max_new_tokens, "any")) for i in range(number)]


@pytest.mark.parametrize("dialect", ["generate", "completions"])
@pytest.mark.parametrize("pace", [ClosedLoop(1), ClosedLoop(3), OpenLoop(500.0)], ids=str)
def test_every_token_of_every_answer_is_counted(dialect, pace, server):
    measurement = run_load(Endpoint(server.url), DIALECTS[dialect], bodies(dialect, 7), pace)
    assert not measurement.failed
    assert [answer.num_tokens for answer in measurement.whole] == [5] * 7
    assert all(answer.is_counted and answer.num_prompt for answer in measurement.whole)
    assert sorted(answer.index for answer in measurement.answers) == list(range(7))
    for answer in measurement.answers:
        times = [answer.started, *(time for time, _ in answer.arrivals), answer.ended]
        assert times == sorted(times)
        assert sum(answer.inter_token_seconds) == pytest.approx(answer.arrivals[-1].time - answer.arrivals[0].time)
    assert measurement.num_tokens == 35
    assert measurement.tokens_per_second == 35 / measurement.seconds


def test_a_closed_loop_sends_the_next_request_when_an_answer_has_ended(server):
    measurement = run_load(Endpoint(server.url), DIALECTS["generate"], bodies("generate", 4), ClosedLoop(1))
    assert all(before.ended <= after.started for before, after in pairwise(measurement.answers))


def test_an_open_loop_is_a_poisson_process_of_its_rate():
    due = OpenLoop(rate=20.0, seed=1).due(20_000)
    gaps = [later - sooner for sooner, later in pairwise(due)]
    assert due[0] == 0
    assert sum(gaps) / len(gaps) == pytest.approx(1 / 20, rel=0.03)
    assert sum(gap < 1 / 20 for gap in gaps) / len(gaps) == pytest.approx(0.632, abs=0.02)
    assert due == OpenLoop(rate=20.0, seed=1).due(20_000) != OpenLoop(rate=20.0, seed=2).due(20_000)


@pytest.mark.parametrize("pace", [OpenLoop(1000.0), ClosedLoop(3)], ids=str)
def test_requests_that_are_to_be_sent_wait_for_no_answer(pace, raw_server):
    """This server answers nobody until three have asked."""
    server = raw_server(stream(TOKEN, LAST), together=3)
    assert len(run_load(Endpoint(server.url), DIALECTS["generate"], [{}] * 3, pace).whole) == 3


def test_a_request_carries_the_key_and_goes_where_the_address_leads(raw_server):
    server = raw_server(stream(TOKEN, LAST))
    run_load(Endpoint(f"{server.url}/base/v1", "secret"), DIALECTS["generate"], [{"inputs": "a"}], ClosedLoop(1))
    head, _, body = server.requests[0].partition(b"\r\n\r\n")
    assert head.startswith(b"POST /base/generate_stream HTTP/1.1\r\n")
    assert b"authorization: Bearer secret" in head
    assert json.loads(body) == {"inputs": "a"}


@pytest.mark.parametrize(
    ("answer", "kind", "message"),
    [
        (
            json_answer("429 Too Many Requests", '{"error": "8 wait already", "error_type": "overloaded"}'),
            "HTTP 429",
            "8 wait already",
        ),
        (json_answer("400 Bad Request", '{"error": {"message": "max_tokens: 0"}}'), "HTTP 400", "max_tokens: 0"),
        (json_answer("500 Oops", "no JSON"), "HTTP 500", "no JSON"),
        (json_answer("200 OK", '[{"generated_text": "a"}]'), "no stream", "generated_text"),
        (stream(TOKEN), "cut off", "ended before"),
        (stream(TOKEN)[:-40], "cut off", "ended before"),
        (HEAD.encode() + b"data: {oops\n\n", "malformed", "oops"),
        (stream({"choices": []}), "malformed", "choices"),
        (stream(TOKEN, {"error": "out of memory", "error_type": "generation"}), "error in stream", "out of memory"),
        (stream(TOKEN, {"error": {"message": "too late", "type": "x"}}), "error in stream", "too late"),
        (b"SSH-2.0-OpenSSH_9\r\n", "malformed", "SSH-2.0"),
        (b"", "cut off", "broke off"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_answer_that_fails_says_how(answer, kind, message, answer_to):
    failure = answer_to(answer).failure
    assert failure.kind == kind
    assert message in str(failure)


def test_a_server_that_is_not_there_is_told_by_its_address():
    with unanswered_address() as (host, port):
        url = f"http://{host}:{port}"
        (answer,) = run_load(Endpoint(url), DIALECTS["generate"], [{}], ClosedLoop(1)).answers
    assert answer.failure.kind == "no connection"
    assert url in str(answer.failure)


def test_a_server_that_says_nothing_is_given_up(raw_server, monkeypatch):
    monkeypatch.setattr("app.bench.exchange.SILENCE_SECONDS", 0.05)
    server = raw_server(stream(TOKEN), hangs_at=1)
    (answer,) = run_load(Endpoint(server.url), DIALECTS["generate"], [{}], ClosedLoop(1)).answers
    assert answer.failure.kind == "silence"


def test_a_server_without_tls_is_not_spoken_to_by_https(server):
    url = server.url.replace("http", "https")
    (answer,) = run_load(Endpoint(url), DIALECTS["generate"], [{}], ClosedLoop(1)).answers
    assert answer.failure.kind == "no connection"
    assert url in str(answer.failure)


@pytest.mark.parametrize("url", ["host", "http://host", "http://user:word@host/", "http://host/v1", "http://host/v1/"])
def test_an_address_is_taken_as_people_write_it(url):
    endpoint = Endpoint(url)
    assert (endpoint.url, endpoint.host, endpoint.port) == ("http://host", "host", 80)


def test_failed_answers_stand_beside_whole_ones(raw_server):
    refusal = json_answer("429 Too Many Requests", '{"error": "busy"}')
    server = raw_server(stream(TOKEN, LAST), refusal, stream(TOKEN, LAST))
    measurement = run_load(Endpoint(server.url), DIALECTS["generate"], [{}] * 3, ClosedLoop(1))
    assert [answer.is_whole for answer in measurement.answers] == [True, False, True]
    assert measurement.num_tokens == 4


@pytest.mark.parametrize("end", ["\r\n", "\n"])
def test_a_stream_may_come_in_chunks_cut_anywhere(end, raw_server):
    content = stream(TOKEN, LAST).partition(b"\r\n\r\n")[2].replace(b"\n", end.encode())
    pieces = [content[i : i + 7] for i in range(0, len(content), 7)]
    chunked = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
    head = HEAD.replace("connection: close", "transfer-encoding: chunked").encode()
    server = raw_server(head + chunked)
    (answer,) = run_load(Endpoint(server.url), DIALECTS["generate"], [{}], ClosedLoop(1)).answers
    assert (answer.failure, answer.num_tokens, answer.num_prompt) == (None, 2, 7)


def chunk(text: str | None, finish_reason: str | None = None, **more: object) -> dict[str, object]:
    return {"choices": [{"index": 0, "text": text, "finish_reason": finish_reason}], **more}


def usage(num_generated: int) -> dict[str, object]:
    return {"usage": {"prompt_tokens": 3, "completion_tokens": num_generated}}


DONE = "data: [DONE]\n\n"


@pytest.mark.parametrize(
    ("events", "counts", "is_counted"),
    [
        ([chunk("a"), chunk(""), chunk("c", "length"), {"choices": [], **usage(3)}], [1, 1, 1], True),
        ([chunk("a"), chunk("bcde"), chunk("", "length"), {"choices": [], **usage(5)}], [2, 3], True),
        ([chunk("a", **usage(1)), chunk("bcde", **usage(5)), chunk("", "stop", **usage(5))], [1, 4], True),
        ([chunk("a"), chunk("b", "length")], [1, 1], False),
    ],
    ids=["one a chunk", "several a chunk", "usage in every chunk", "no usage"],
)
def test_the_tokens_of_a_chunk_are_counted_by_the_usage(events, counts, is_counted, answer_to):
    answer = answer_to(stream(*events, end=DONE), "completions")
    assert answer.failure is None
    assert [count for _, count in answer.arrivals] == counts
    assert answer.is_counted == is_counted


def test_the_chunk_that_opens_a_chat_message_is_no_token(answer_to):
    deltas = [{"role": "assistant", "content": ""}, {"content": "Hel"}, {"content": "lo"}, {}]
    events = [{"choices": [{"index": 0, "delta": delta, "finish_reason": None if delta else "stop"}]} for delta in deltas]
    answer = answer_to(stream(*events, {"choices": [], **usage(2)}, end=DONE), "chat")
    assert (answer.failure, answer.num_tokens, answer.num_prompt) == (None, 2, 3)


def test_tokens_that_come_together_share_the_time_before_them():
    answer = Answer(0, started=0.0, arrivals=[Arrival(1.0, 1), Arrival(2.0, 4), Arrival(2.5, 1)])
    assert answer.inter_token_seconds == [0.25, 0.25, 0.25, 0.25, 0.5]
