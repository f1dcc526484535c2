"""Streams of text of many bytes a character, cut at random bytes, through three parsers of event streams."""

import asyncio
import json
import random
from dataclasses import dataclass
from typing import Any

import httpx
import httpx_sse
import openai._streaming
import pytest
import sseclient
from vocabularies import LETTERS, WRITERS

NUM_REQUESTS = {"bytes": 1000, "added tokens": 500, "WordPiece": 500}
NUM_AT_ONCE = 16
Json = dict[str, Any]


def through_httpx_sse(chunks):
    response = httpx.Response(200, headers={"content-type": "text/event-stream"}, content=chunks)
    return [event.data for event in httpx_sse.EventSource(response).iter_sse()]


def through_sseclient(chunks):
    return [event.data for event in sseclient.SSEClient(chunks).events()]


def through_openai(chunks):
    return [event.data for event in openai._streaming.SSEDecoder().iter_bytes(chunks)]


PARSERS = (through_httpx_sse, through_sseclient, through_openai)


@dataclass(frozen=True)
class Asked:
    """A request in one of the dialects, the text of its whole answer and the bytes of its stream."""

    is_native: bool
    whole: str
    streamed: bytes


@pytest.fixture(scope="module", params=WRITERS)
def asked(request, start_service, tmp_path_factory, pytestconfig):
    directory = tmp_path_factory.mktemp("checkpoint") / request.param.replace(" ", "-")
    directory.mkdir()
    WRITERS[request.param](directory, pytestconfig.rootpath.parent.parent / "model/default")
    service = start_service(directory, dtype="float32", threads=1)
    letters = [token["id"] for token in service.post("/tokenize", {"inputs": LETTERS})]
    draw = random.Random(f"{request.param} 1")
    return asyncio.run(ask_all(service, [drawn_request(draw, letters) for _ in range(NUM_REQUESTS[request.param])]))


def drawn_text(draw, most):
    return "".join(draw.choices([*LETTERS, " ", "<|user|>", "naïveté", "日本🙂"], k=draw.randint(1, most)))


def drawn_request(draw, letters):
    """The path and body of a request whose text, often of `letters`, ends at a stop string, at the end token or at the limit."""
    is_native = draw.random() < 0.5
    fields = {"temperature": draw.choice([0, 0.7, 1.5]), "seed": draw.randrange(2**32), "ignore_eos": draw.random() < 0.5}
    fields["max_new_tokens" if is_native else "max_tokens"] = draw.randint(1, 24)
    if draw.random() < 0.3:
        fields["stop"] = [drawn_text(draw, 2)]
    if draw.random() < 0.5:
        fields["logit_bias"] = {str(token): 5 for token in letters}
    if draw.random() < 0.2:
        fields["skip_special_tokens"] = False
    text = drawn_text(draw, 16)
    return ("/generate", {"inputs": text, "parameters": fields}) if is_native else ("/v1/completions", {"prompt": text, **fields})


async def ask_all(service, requests):
    limit = asyncio.Semaphore(NUM_AT_ONCE)
    async with httpx.AsyncClient(base_url=service.url, timeout=120) as http:

        async def ask(path, body):
            async with limit:
                whole = await http.post(path, json=body)
                streamed = await http.post(path, json=body | {"stream": True})
            assert (whole.status_code, streamed.status_code) == (200, 200), (body, whole.text, streamed.text)
            return Asked(path == "/generate", text_of(whole.json()), streamed.content)

        return await asyncio.gather(*(ask(*request) for request in requests))


def text_of(answer):
    return answer["choices"][0]["text"] if "choices" in answer else answer["generated_text"]


def cut(content, draw):
    """Pieces of one to a few bytes, now and then of many."""
    start = 0
    while start < len(content):
        size = draw.choice([1, 2, 3, 5, 64, 1000])
        yield content[start : start + size]
        start += size


def streamed_text(data, is_native):
    if is_native:
        events = [json.loads(text) for text in data]
        pieces = "".join(event["token"]["text"] for event in events)
        assert events[-1]["generated_text"] == pieces
        return pieces
    assert data[-1] == "[DONE]"
    return "".join(json.loads(text)["choices"][0]["text"] for text in data[:-1])


@pytest.mark.parametrize("parser", PARSERS)
def test_a_stream_cut_anywhere_has_the_text_of_the_whole_answer(parser, asked):
    draw = random.Random(2)
    for request in asked:
        assert streamed_text(parser(cut(request.streamed, draw)), request.is_native) == request.whole


def test_every_event_is_utf8_by_itself(asked):
    for request in asked:
        events = request.streamed.split(b"\n\n")
        assert events.pop() == b""
        assert all(event.decode().startswith("data: ") for event in events)


def test_the_texts_hold_characters_of_several_bytes(asked):
    """Or the others would say little."""
    characters = "".join(request.whole for request in asked)
    assert sum(len(character.encode()) > 1 and character != "\N{REPLACEMENT CHARACTER}" for character in characters) > 100
