"""Texts of a megabyte: told whole, a bounded number at a time, while probes and streams go on."""

import json
import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace

import httpx
import pytest

from app import long_texts
from model.tokenizer import PLAIN_TEXT, TokenizerBroke
from tests.api.conftest import PATIENCE_SECONDS
from tests.chaos.texts import FAMILIES

NUM_UNREAD = 150_000  # bytes of a text whose answer is larger than what sockets take up
LONG = "The old man looked at the sea. " * 1000


@pytest.fixture
def held(server, monkeypatch) -> Iterator[threading.Event]:
    """The tokenizer waits within every long text until the event is set; `entered` says that it does."""
    tokenizer, go_on = server.service.generator.tokenizer, threading.Event()
    go_on.entered = threading.Event()
    spans = tokenizer.spans

    def waiting(text, reading):
        if len(text) > long_texts.INLINE_BYTES:
            go_on.entered.set()
            assert go_on.wait(PATIENCE_SECONDS)
        return spans(text, reading)

    monkeypatch.setattr(tokenizer, "spans", waiting)
    yield go_on
    go_on.set()


@pytest.mark.parametrize("name", FAMILIES)
def test_any_text_is_told_token_by_token(server, client, name):
    """Of every family as much as three pieces of an answer take; the small vocabulary has hardly a merge for them."""
    text = FAMILIES[name](20_000)
    tokens = client.post("/tokenize", json={"inputs": text, "parse_special": False}).json()
    assert "".join(token["text"] for token in tokens) == text
    assert [token["id"] for token in tokens] == server.service.generator.tokenizer.encode(text, PLAIN_TEXT)
    assert all(text[token["start"] : token["stop"]] == token["text"] for token in tokens)


@pytest.mark.parametrize("name", ["spaces and a letter", "all Unicode white space and a letter", "special tokens"])
def test_the_largest_texts_are_answered(client, name):
    text = FAMILIES[name](1_000_000 if name != "all Unicode white space and a letter" else 300_000)
    response = client.post("/tokenize", json={"inputs": text, "parse_special": False})
    assert response.status_code == 200
    assert "".join(token["text"] for token in response.json()) == text


def test_the_last_tokens_of_a_long_text_are_those_of_all(client):
    every = client.post("/tokenize", json={"inputs": LONG}).json()
    for kept in (1, 2000, len(every) + 1):
        assert client.post("/tokenize", json={"inputs": LONG, "parameters": {"truncate": kept}}).json() == every[-kept:]


def test_texts_beyond_the_bound_are_refused_and_told_when_to_come_back(server, client, held, in_background, monkeypatch):
    monkeypatch.setattr(long_texts, "MAX_WAITING_BYTES", 2 * len(LONG))
    refused = server.metric("gpt2_rejected_total", reason="long_texts_full")
    waiting = [in_background(server, "/tokenize", {"inputs": LONG}) for _ in range(2)]
    assert held.entered.wait(PATIENCE_SECONDS)
    while server.metric("gpt2_tokenize_waiting_bytes") < 2 * len(LONG):
        client.get("/health/live")
    response = client.post("/tokenize", json={"inputs": LONG})
    assert response.status_code == 429
    assert int(response.headers["retry-after"]) >= 1
    assert response.json()["error_type"] == "overloaded"
    assert f"{2 * len(LONG)} bytes of long texts wait already, the limit is {2 * len(LONG)}" in response.json()["error"]
    assert client.post("/tokenize", json={"inputs": "short"}).status_code == 200, "little is read at once"
    assert client.post("/generate", json={"inputs": "short"}).status_code == 200
    held.set()
    assert [other.response.status_code for other in waiting] == [200, 200]
    assert server.metric("gpt2_rejected_total", reason="long_texts_full") == refused + 1
    assert server.metric("gpt2_tokenize_waiting_bytes") == 0


def test_a_text_larger_than_the_bound_is_read_when_no_other_waits(client, monkeypatch):
    monkeypatch.setattr(long_texts, "MAX_WAITING_BYTES", 1)
    monkeypatch.setattr(long_texts, "MAX_UNSENT_BYTES", 1)
    assert client.post("/tokenize", json={"inputs": LONG}).status_code == 200


def test_long_prompts_and_candidates_wait_in_the_same_queue(server, client, held, in_background, monkeypatch):
    monkeypatch.setattr(long_texts, "MAX_WAITING_BYTES", len(LONG))
    waiting = in_background(server, "/tokenize", {"inputs": LONG})
    assert held.entered.wait(PATIENCE_SECONDS)
    bodies = {
        "/generate": {"inputs": LONG, "parameters": {"truncate": 5}},
        "/v1/completions": {"prompt": ["The sea. " * 10] * 100},
        "/v1/score": {"prompt": "a", "candidates": ["The sea. " * 10] * 100},
        "/detokenize": {"ids": [5] * 10_000},
    }
    for path, body in bodies.items():
        assert client.post(path, json=body).status_code == 429, path
    held.set()
    assert waiting.response.status_code == 200
    for path, body in bodies.items():
        assert client.post(path, json=body).status_code == 200, path


@pytest.fixture
def unread(server, client) -> Iterator[httpx.Response]:
    """An answer of megabytes, of which its client reads no more than the beginning."""
    with client.stream("POST", "/tokenize", json={"inputs": "\x01" * NUM_UNREAD}) as response:
        pieces = response.iter_raw()  # dropped, it would close the connection
        next(pieces)
        yield response
    while server.metric("gpt2_tokenize_unsent_bytes"):  # who leaves gives the room back
        httpx.get(server.url + "/health/live")


def test_an_answer_that_nobody_reads_holds_up_no_other_text(server, unread, monkeypatch):
    """Four of them took all of the queue, for as long as the connection's clock lets a client be silent, and then anew."""
    assert server.metric("gpt2_tokenize_waiting_bytes") == 0
    monkeypatch.setattr(long_texts, "MAX_WAITING_BYTES", NUM_UNREAD)
    assert httpx.post(server.url + "/detokenize", json={"ids": [5] * 10_000}).status_code == 200
    assert httpx.post(server.url + "/tokenize", json={"inputs": LONG}, timeout=PATIENCE_SECONDS).status_code == 200
    assert server.metric("gpt2_tokenize_unsent_bytes") == NUM_UNREAD, "all the time"


def test_answers_that_nobody_reads_are_bounded(server, unread, monkeypatch):
    """Whose end nobody knows: after as long again as the oldest has been there a client may come back."""
    assert server.metric("gpt2_tokenize_unsent_bytes") == NUM_UNREAD
    monkeypatch.setattr(long_texts, "MAX_UNSENT_BYTES", NUM_UNREAD)
    monkeypatch.setattr(long_texts, "time", SimpleNamespace(monotonic=lambda: time.monotonic() + 20))
    response = httpx.post(server.url + "/tokenize", json={"inputs": LONG})
    assert response.status_code == 429
    assert 20 < int(response.headers["retry-after"]) <= long_texts.MAX_RETRY_AFTER
    assert f"{NUM_UNREAD} bytes of long texts have answers under way, the limit is {NUM_UNREAD}" in response.json()["error"]


@pytest.mark.parametrize("text", ["a", LONG])
def test_a_tokenizer_that_breaks_is_a_500_with_the_request_id(server, monkeypatch, text):
    """The library's own panic was no Exception, and left the client with plain text and no id."""

    def broken(text, reading):
        raise TokenizerBroke.instead_of(BaseException("a panic"))

    monkeypatch.setattr(server.service.generator.tokenizer, "spans", broken)
    response = httpx.post(server.url + "/tokenize", json={"inputs": text})
    assert response.status_code == 500
    assert response.headers["x-request-id"] in response.json()["error"]
    assert server.metric("gpt2_tokenize_waiting_bytes") == 0


def test_a_panic_in_any_library_is_a_500_with_the_request_id(server, monkeypatch):
    class Panic(BaseException):
        """As Rust's, which passes by every `except Exception`."""

    def broken(ids, skip_special_tokens):
        raise Panic

    monkeypatch.setattr(server.service.generator.tokenizer, "decode", broken)
    response = httpx.post(server.url + "/detokenize", json={"ids": [1]})
    assert response.status_code == 500
    assert response.headers["x-request-id"] in response.json()["error"]


def test_an_empty_text_has_no_tokens(client):
    assert json.loads(client.post("/tokenize", json={"inputs": ""}).content) == []
