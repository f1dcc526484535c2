"""huggingface_hub's InferenceClient below 1.0, as text-generation and LangChain have it; tests/api has the newest."""

import asyncio

import pytest
from huggingface_hub import AsyncInferenceClient, InferenceClient
from huggingface_hub.errors import HfHubHTTPError, ValidationError

PROMPT = "The old man"
SAMPLED = {"max_new_tokens": 8, "temperature": 1.5, "seed": 3}
MESSAGES = [{"role": "user", "content": "Who are you?"}]
# Every parameter of `text_generation` that shapes what comes back, beside what it is called in the plain request.
PARAMETERS = {
    "best_of": {"best_of": 2, "temperature": 1.0, "seed": 3},
    "decoder_input_details": {"details": True, "decoder_input_details": True},
    "do_sample": {"do_sample": True, "seed": 3},
    "do_sample off": {"do_sample": False},
    "frequency_penalty": {"frequency_penalty": 1.5},
    "repetition_penalty": {"repetition_penalty": 1.5},
    "return_full_text": {"return_full_text": True},
    "seed": {"do_sample": True, "seed": 4},
    "stop": {"stop": ["e"]},
    "temperature": {"temperature": 0.5, "seed": 3},
    "top_k": {"top_k": 5, "seed": 3},
    "top_n_tokens": {"details": True, "top_n_tokens": 3},
    "top_p": {"top_p": 0.8, "seed": 3},
    "truncate": {"truncate": 1},
    "typical_p": {"typical_p": 0.9, "seed": 3},
    "watermark off": {"watermark": False},
}


@pytest.fixture
def client(service):
    return InferenceClient(base_url=service.url, timeout=60)


@pytest.mark.parametrize("name", PARAMETERS)
def test_text_generation_takes(name, client, service):
    parameters = {"max_new_tokens": 12} | PARAMETERS[name]
    answer = client.text_generation(PROMPT, **parameters)
    assert (answer.generated_text if "details" in parameters else answer) == service.generated(PROMPT, **parameters)


def test_a_truncated_prompt_is_its_last_tokens(client):
    long = "Nobody knew why. " + PROMPT
    num_tokens = 3
    assert client.text_generation(long, truncate=num_tokens, max_new_tokens=8) != ""
    answer = client.text_generation(long, truncate=num_tokens, max_new_tokens=8, details=True, decoder_input_details=True)
    assert len(answer.details.prefill) == num_tokens


def test_the_older_name_of_stop_is_taken(client, service):
    with pytest.warns(FutureWarning, match="stop_sequences"):
        text = client.text_generation(PROMPT, max_new_tokens=12, stop_sequences=["e"])
    assert text == service.generated(PROMPT, max_new_tokens=12, stop=["e"])


@pytest.mark.parametrize(
    "parameters",
    [{"watermark": True}, {"grammar": {"type": "regex", "value": "[0-9]+"}}, {"adapter_id": "someone/adapter"}, {"top_p": 2}],
    ids=lambda parameters: next(iter(parameters)),
)
def test_what_is_not_there_is_refused_by_name(parameters, client):
    with pytest.raises(ValidationError, match=next(iter(parameters))):
        client.text_generation(PROMPT, max_new_tokens=2, **parameters)


def test_details_tell_each_token(client):
    answer = client.text_generation(PROMPT, details=True, best_of=3, top_n_tokens=2, decoder_input_details=True, **SAMPLED)
    details = answer.details
    assert "".join(token.text for token in details.prefill) == PROMPT
    assert details.prefill[0].logprob is None
    assert "".join(token.text for token in details.tokens) == answer.generated_text
    assert [len(top) for top in details.top_tokens] == [2] * len(details.tokens)
    assert [len(other.tokens) for other in details.best_of_sequences] == [8, 8]


def test_it_streams_what_it_generates(client):
    whole = client.text_generation(PROMPT, **SAMPLED)
    assert "".join(client.text_generation(PROMPT, stream=True, **SAMPLED)) == whole
    events = list(client.text_generation(PROMPT, stream=True, details=True, **SAMPLED))
    assert events[-1].generated_text == whole
    assert events[-1].details.finish_reason == "length"


def test_an_empty_prompt_writes_from_nothing(client, service):
    assert client.text_generation("", max_new_tokens=6) == service.generated("<|endoftext|>", max_new_tokens=6)


def test_the_asynchronous_client_generates_and_streams_the_same(client, service):
    async def both():
        async with AsyncInferenceClient(base_url=service.url, timeout=60) as asynchronous:
            whole = await asynchronous.text_generation(PROMPT, **SAMPLED)
            pieces = [piece async for piece in await asynchronous.text_generation(PROMPT, stream=True, **SAMPLED)]
            return whole, "".join(pieces)

    assert set(asyncio.run(both())) == {client.text_generation(PROMPT, **SAMPLED)}


def test_it_chats(client, service):
    answer = client.chat_completion(MESSAGES, max_tokens=8, seed=3, temperature=0.8)
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].message.content == service.replied("Who are you?", max_tokens=8, seed=3, temperature=0.8)
    assert answer.usage.completion_tokens <= 8


def test_it_streams_a_chat(client):
    whole = client.chat_completion(MESSAGES, max_tokens=8, seed=3)
    chunks = list(client.chat_completion(MESSAGES, max_tokens=8, seed=3, stream=True, stream_options={"include_usage": True}))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens


def test_a_chat_takes_every_parameter_that_shapes_text(client):
    answer = client.chat_completion(
        MESSAGES,
        frequency_penalty=0.5,
        logit_bias={"262": -5},
        logprobs=True,
        max_tokens=4,
        n=2,
        presence_penalty=0.5,
        seed=1,
        stop=["\n\n"],
        temperature=0.9,
        top_logprobs=2,
        top_p=0.9,
    )
    assert len(answer.choices) == 2
    assert all(len(token.top_logprobs) == 2 for token in answer.choices[0].logprobs.content)


def test_its_spelling_of_openais_client_chats(client):
    """`client.chat.completions.create`, which code that was written for openai's client calls."""
    whole = client.chat_completion(MESSAGES, max_tokens=8, seed=3)
    same = client.chat.completions.create(messages=MESSAGES, max_tokens=8, seed=3)
    assert same.choices[0].message.content == whole.choices[0].message.content


def test_a_wrong_chat_raises_its_own_error(client):
    with pytest.raises(HfHubHTTPError, match="temperature"):
        client.chat_completion(MESSAGES, temperature=3)
