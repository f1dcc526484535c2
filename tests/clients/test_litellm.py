"""LiteLLM: completions as of OpenAI's API, and chat as of OpenAI's and of Hugging Face's."""

import asyncio

import litellm
import pytest

PROMPT = "The old man"
MESSAGES = [{"role": "user", "content": "Who are you?"}]
CHATS = ["openai/talking-gpt2", "huggingface/someone/talking-gpt2", "hosted_vllm/talking-gpt2"]


@pytest.fixture
def text(service):
    """Options of a completion of text."""
    return {"model": "text-completion-openai/talking-gpt2", "api_base": service.v1, "api_key": "none", "max_tokens": 8, "seed": 1}


@pytest.fixture(params=CHATS, ids=lambda model: model.split("/")[0])
def chat(request, service):
    base = service.url if request.param.startswith("huggingface") else service.v1
    return {"model": request.param, "messages": MESSAGES, "api_base": base, "api_key": "none", "max_tokens": 8, "seed": 1}


def test_it_completes_text(text, service):
    answer = litellm.text_completion(prompt=PROMPT, **text)
    assert answer.choices[0].text == service.completed(PROMPT, max_tokens=8, seed=1)
    assert answer.usage.completion_tokens == 8


def test_it_completes_a_list_of_texts(text, service):
    prompts = [PROMPT, "A young girl"]
    answer = litellm.text_completion(prompt=prompts, temperature=0, **text)
    assert [choice.text for choice in answer.choices] == [service.completed(p, max_tokens=8, temperature=0) for p in prompts]


def test_it_streams_the_text_that_it_completes(text):
    whole = litellm.text_completion(prompt=PROMPT, **text).choices[0].text
    chunks = list(litellm.text_completion(prompt=PROMPT, stream=True, **text))
    assert "".join(chunk.choices[0].text or "" for chunk in chunks) == whole


def test_it_makes_a_chat_of_a_completion(text):
    answer = litellm.completion(messages=MESSAGES, **text)
    assert answer.choices[0].message.content
    pieces = litellm.completion(messages=MESSAGES, stream=True, **text)
    assert "".join(piece.choices[0].delta.content or "" for piece in pieces) == answer.choices[0].message.content


def test_it_chats(chat, service):
    answer = litellm.completion(temperature=0.8, **chat)
    assert answer.choices[0].message.content == service.replied("Who are you?", max_tokens=8, seed=1, temperature=0.8)
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_it_streams_the_chat_that_it_completes(chat):
    whole = litellm.completion(**chat).choices[0].message.content
    pieces = litellm.completion(stream=True, **chat)
    assert "".join(piece.choices[0].delta.content or "" for piece in pieces) == whole


def test_it_chats_asynchronously(chat):
    async def both():
        whole = await litellm.acompletion(**chat)
        stream = await litellm.acompletion(stream=True, **chat)
        return whole.choices[0].message.content, "".join([piece.choices[0].delta.content or "" async for piece in stream])

    whole, streamed = asyncio.run(both())
    assert whole == streamed


def test_it_raises_openais_errors(text):
    with pytest.raises(litellm.BadRequestError, match="top_p"):
        litellm.text_completion(prompt=PROMPT, top_p=2, **text)
