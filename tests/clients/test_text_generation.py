"""text-generation, the client that text-generation-inference came with.

Its `chat(stream=True)` is left out: it reads `[DONE]` as JSON, so that no stream of OpenAI's dialect ends well in it, nor did those
of its own server.
"""

import asyncio

import pytest
from text_generation import AsyncClient, Client
from text_generation.errors import ValidationError
from text_generation.types import Message

PROMPT = "The old man"
SAMPLED = {"max_new_tokens": 8, "do_sample": True, "temperature": 1.5, "top_k": 50, "top_p": 0.95, "seed": 3}
MESSAGES = [Message(role="user", content="Who are you?")]

pytestmark = pytest.mark.filterwarnings(
    "ignore:The `dict` method is deprecated",  # its own use of pydantic's older names
)


@pytest.fixture
def client(service):
    return Client(service.url, timeout=60)


def in_async_client(service, body):
    return asyncio.run(body(AsyncClient(service.url, timeout=60)))


def test_it_generates(client, service):
    answer = client.generate(PROMPT, max_new_tokens=8)
    assert answer.generated_text == service.generated(PROMPT, max_new_tokens=8)
    assert answer.details.generated_tokens == len(answer.details.tokens) == 8
    assert answer.details.finish_reason == "length"


def test_it_samples_with_everything_that_it_has(client, service):
    shape = {"repetition_penalty": 1.2, "frequency_penalty": 0.1, "typical_p": 0.9, "truncate": 2, "return_full_text": True}
    answer = client.generate(PROMPT, stop_sequences=["\n"], decoder_input_details=True, top_n_tokens=2, **SAMPLED, **shape)
    assert answer.generated_text == service.generated(PROMPT, stop=["\n"], **SAMPLED, **shape)
    assert answer.details.seed == 3
    assert len(answer.details.prefill) == 2
    assert len(answer.details.top_tokens) == len(answer.details.tokens)


def test_it_gets_the_best_of_several(client):
    answer = client.generate(PROMPT, max_new_tokens=8, do_sample=True, best_of=3)
    assert len(answer.details.best_of_sequences) == 2


def test_it_streams_what_it_generates(client):
    whole = client.generate(PROMPT, **SAMPLED)
    events = list(client.generate_stream(PROMPT, **SAMPLED))
    assert "".join(event.token.text for event in events if not event.token.special) == whole.generated_text
    assert events[-1].generated_text == whole.generated_text
    assert events[-1].details.generated_tokens == 8


def test_the_asynchronous_client_generates_and_streams_the_same(client, service):
    async def both(asynchronous):
        whole = await asynchronous.generate(PROMPT, **SAMPLED)
        return whole.generated_text, [event async for event in asynchronous.generate_stream(PROMPT, **SAMPLED)][-1].generated_text

    assert set(in_async_client(service, both)) == {client.generate(PROMPT, **SAMPLED).generated_text}


def test_it_raises_its_own_errors(client):
    with pytest.raises(ValidationError, match="2000"):
        client.generate(PROMPT, top_n_tokens=2000)
    with pytest.raises(ValidationError, match="watermark"):
        client.generate(PROMPT, watermark=True)
    with pytest.raises(ValidationError, match="watermark"):
        list(client.generate_stream(PROMPT, watermark=True))


def test_it_chats(client, service):
    answer = client.chat(MESSAGES, max_tokens=8, seed=3, temperature=0.8)
    assert answer.choices[0].message.content == service.replied("Who are you?", max_tokens=8, seed=3, temperature=0.8)


def test_the_asynchronous_client_chats(client, service):
    answer = in_async_client(service, lambda asynchronous: asynchronous.chat(MESSAGES, max_tokens=8, seed=3))
    assert answer.choices[0].message.content == service.replied("Who are you?", max_tokens=8, seed=3)
