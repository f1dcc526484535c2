"""LangChain: its integrations of OpenAI's API and of text-generation-inference, with their defaults."""

import asyncio

import pytest
from langchain_huggingface import ChatHuggingFace, HuggingFaceEndpoint
from langchain_openai import ChatOpenAI, OpenAI

PROMPT = "The old man"
PROMPTS = [PROMPT, "A young girl", "Once upon a time"]


@pytest.fixture
def openai(service):
    return lambda **options: OpenAI(
        base_url=service.v1, api_key="none", model="gpt2", max_tokens=8, seed=1, max_retries=0, **options
    )


@pytest.fixture
def chat_openai(service):
    return ChatOpenAI(base_url=service.v1, api_key="none", model="gpt2", max_tokens=8, seed=1, max_retries=0, temperature=0.7)


@pytest.fixture
def endpoint(service):
    return lambda **options: HuggingFaceEndpoint(endpoint_url=service.url, **options)


@pytest.fixture
def chat_endpoint(endpoint):
    """It takes no seed from the model that it wraps; a tokenizer would be fetched, were none given."""
    return ChatHuggingFace(llm=endpoint(max_new_tokens=8), model_id="talking-gpt2", tokenizer=object()).bind(seed=1)


def test_openai_with_its_defaults_invokes(service):
    assert OpenAI(base_url=service.v1, api_key="none").invoke(PROMPT)


def test_openai_invokes(openai, service):
    assert openai(temperature=0.7).invoke(PROMPT) == service.completed(PROMPT, max_tokens=8, seed=1, temperature=0.7)


def test_openai_batches(openai, service):
    texts = [service.completed(prompt, max_tokens=8, temperature=0) for prompt in PROMPTS]
    assert openai(temperature=0).batch(PROMPTS) == texts
    assert [generations[0].text for generations in openai(temperature=0).generate(PROMPTS).generations] == texts


def test_openai_streams_what_it_invokes(openai):
    assert "".join(openai().stream(PROMPT)) == openai().invoke(PROMPT)


def test_openai_invokes_and_streams_asynchronously(openai):
    async def both():
        return await openai().ainvoke(PROMPT), "".join([piece async for piece in openai().astream(PROMPT)])

    assert set(asyncio.run(both())) == {openai().invoke(PROMPT)}


def test_openai_gets_several_generations_of_each_prompt(openai):
    result = openai(n=2, best_of=3).generate(PROMPTS[:2])
    assert [len(generations) for generations in result.generations] == [2, 2]
    assert result.llm_output["token_usage"]["completion_tokens"] > 0


def test_openai_gets_log_probabilities(openai):
    generation = openai(logprobs=2).generate([PROMPT]).generations[0][0]
    logprobs = generation.generation_info["logprobs"]
    assert "".join(logprobs["tokens"]) == generation.text
    assert all(2 <= len(top) <= 3 for top in logprobs["top_logprobs"])


def test_openai_stops_where_it_is_told(openai, service):
    text = openai(temperature=0).invoke(PROMPT)
    assert openai(temperature=0).invoke(PROMPT, stop=[text[4:7]]) == text[: text.index(text[4:7])]


def test_chat_openai_invokes(chat_openai, service):
    message = chat_openai.invoke("Who are you?")
    assert message.content == service.replied("Who are you?", max_tokens=8, seed=1, temperature=0.7)
    assert message.usage_metadata["output_tokens"] <= 8


def test_chat_openai_streams_what_it_invokes(chat_openai):
    pieces = list(chat_openai.stream([("system", "Be brief."), ("human", "Who are you?")]))
    whole = chat_openai.invoke([("system", "Be brief."), ("human", "Who are you?")])
    assert "".join(piece.content for piece in pieces) == whole.content


def test_the_endpoint_with_its_defaults_invokes(endpoint):
    assert endpoint(max_new_tokens=8).invoke(PROMPT)


def test_the_endpoints_defaults_sample(endpoint, service):
    """They come beside `do_sample: false`, which takes nothing from them."""
    sampled = {"temperature": 0.8, "top_p": 0.95, "typical_p": 0.95}
    text = endpoint(max_new_tokens=8, seed=3).invoke(PROMPT)
    assert text != service.generated(PROMPT, max_new_tokens=8)
    assert text == service.generated(PROMPT, max_new_tokens=8, seed=3, **sampled)


def test_the_endpoint_streams_what_it_invokes(endpoint):
    llm = endpoint(max_new_tokens=8, seed=3)
    assert "".join(llm.stream(PROMPT)) == llm.invoke(PROMPT)
    assert endpoint(max_new_tokens=8, seed=3, streaming=True).invoke(PROMPT) == llm.invoke(PROMPT)


def test_the_endpoint_invokes_and_streams_asynchronously(endpoint):
    llm = endpoint(max_new_tokens=8, seed=3)

    async def both():
        return await llm.ainvoke(PROMPT), "".join([piece async for piece in llm.astream(PROMPT)])

    assert set(asyncio.run(both())) == {llm.invoke(PROMPT)}


def test_the_endpoint_batches_and_stops(endpoint):
    llm = endpoint(max_new_tokens=8, seed=3)
    texts = llm.batch(PROMPTS)
    assert texts == [llm.invoke(prompt) for prompt in PROMPTS]
    assert llm.invoke(PROMPT, stop=[texts[0][4:7]]) == texts[0][: texts[0].index(texts[0][4:7])]


def test_chat_of_the_endpoint_invokes_what_it_streams(chat_endpoint):
    whole = chat_endpoint.invoke("Who are you?").content
    assert whole
    assert "".join(piece.content for piece in chat_endpoint.stream("Who are you?")) == whole
