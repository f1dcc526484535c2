"""The chat clients that people have: `openai` and huggingface_hub's InferenceClient, unchanged, on a dialogue's template."""

import asyncio
import importlib
import shutil
import sys
from pathlib import Path

import huggingface_hub
import openai
import pytest
from huggingface_hub import InferenceClient

from app.settings import Settings
from tests.conftest import running_server

ASKED = {"role": "user", "content": "What news of the king?"}
WANTED = {"model": "gpt2", "messages": [ASKED], "max_tokens": 12, "seed": 1, "temperature": 1.5}
RECIPES = Path(__file__).parents[2] / "examples" / "recipes"


@pytest.fixture(scope="module")
def server(tiny_checkpoint, tmp_path_factory):
    """A checkpoint as examples/recipes/dialogue.py leaves it, but for the training."""
    directory = tmp_path_factory.mktemp("chat") / "tiny-chat"
    shutil.copytree(tiny_checkpoint, directory)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(RECIPES)
        (directory / "chat_template.jinja").write_text(importlib.import_module("dialogue").CHAT_TEMPLATE)
    for name in ("common", "dialogue"):  # short names, which other tests may have for others
        sys.modules.pop(name, None)
    with running_server(Settings(model=str(directory), port=0, device="cpu", max_running=8, _env_file=None)) as running:
        yield running


@pytest.fixture
def openai_client(server):
    with openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0, timeout=60) as client:
        yield client


@pytest.fixture
def hub_client(server):
    return InferenceClient(base_url=server.url, timeout=60)


def test_openai_chats(openai_client):
    answer = openai_client.chat.completions.create(**WANTED)
    (choice,) = answer.choices
    assert choice.message.role == "assistant"
    assert choice.message.content
    assert (choice.finish_reason, answer.usage.completion_tokens) == ("length", 12)


def test_openai_streams_what_it_answers(openai_client):
    whole = openai_client.chat.completions.create(**WANTED, n=2)
    with openai_client.chat.completions.create(**WANTED, n=2, stream=True, stream_options={"include_usage": True}) as stream:
        chunks = list(stream)
    texts = ["", ""]
    for chunk in chunks:
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
    assert texts == [choice.message.content for choice in whole.choices]
    assert chunks[-1].usage.completion_tokens == 24


def test_openais_stream_helper_gathers_the_answer(openai_client):
    text = openai_client.chat.completions.create(**WANTED).choices[0].message.content
    wanted = WANTED | {"stop": text[4:6]}  # the helper raises an error of its own for a reply that ends by its length
    with openai_client.chat.completions.stream(**wanted) as stream:
        kinds = {event.type for event in stream}
        gathered = stream.get_final_completion()
    assert {"chunk", "content.delta", "content.done"} <= kinds
    assert gathered.choices[0].message.content == text[: text.index(text[4:6])]
    assert gathered.choices[0].finish_reason == "stop"


def test_openai_chats_asynchronously(server, openai_client):
    async def chat() -> tuple[str, str]:
        async with openai.AsyncOpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0, timeout=60) as client:
            whole = await client.chat.completions.create(**WANTED)
            stream = await client.chat.completions.create(**WANTED, stream=True)
            pieces = [chunk.choices[0].delta.content or "" async for chunk in stream]
            return whole.choices[0].message.content, "".join(pieces)

    whole, streamed = asyncio.run(chat())
    assert whole == streamed == openai_client.chat.completions.create(**WANTED).choices[0].message.content


def test_openai_tells_log_probabilities(openai_client):
    answer = openai_client.chat.completions.create(**WANTED, logprobs=True, top_logprobs=4)
    tokens = answer.choices[0].logprobs.content
    assert len(tokens) == 12
    assert all(len(token.top_logprobs) == 4 and token.logprob < 0 for token in tokens)
    text = b"".join(bytes(token.bytes) for token in tokens).decode(errors="replace")
    assert text.removeprefix(" ") == answer.choices[0].message.content


def test_openai_raises_its_own_errors(openai_client):
    with pytest.raises(openai.BadRequestError, match="temperature") as caught:
        openai_client.chat.completions.create(**WANTED | {"temperature": 3})
    assert caught.value.param == "temperature"
    with pytest.raises(openai.BadRequestError, match="tools"):
        openai_client.chat.completions.create(**WANTED, tools=[{"type": "function", "function": {"name": "f"}}])


def test_a_conversation_goes_on_turn_by_turn(openai_client):
    """What the client sends back is what it got: the prompt is then the text that the model has seen and written."""
    messages, lengths = [ASKED], []
    for _ in range(3):
        answer = openai_client.chat.completions.create(**WANTED | {"messages": messages, "temperature": 0})
        messages += [{"role": "assistant", "content": answer.choices[0].message.content}, ASKED]
        lengths.append(answer.usage.prompt_tokens)
    assert lengths == sorted(set(lengths))
    assert answer.usage.prompt_tokens_details.cached_tokens > 0


def test_the_hub_client_chats(hub_client, openai_client):
    wanted = {name: value for name, value in WANTED.items() if name != "model"}
    answer = hub_client.chat_completion(**wanted)
    assert answer.choices[0].message.content == openai_client.chat.completions.create(**WANTED).choices[0].message.content
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.completion_tokens == 12


def test_the_hub_client_streams_a_chat(hub_client):
    wanted = {name: value for name, value in WANTED.items() if name != "model"}
    whole = hub_client.chat_completion(**wanted)
    chunks = list(hub_client.chat_completion(**wanted, stream=True, stream_options={"include_usage": True}))
    pieces = [choice.delta.content or "" for chunk in chunks for choice in chunk.choices]
    assert "".join(pieces) == whole.choices[0].message.content
    assert chunks[-1].usage.completion_tokens == 12


def test_the_hub_client_chats_with_every_parameter(hub_client):
    answer = hub_client.chat_completion(
        [{"role": "system", "content": "A play."}, ASKED],
        frequency_penalty=0.5,
        logprobs=True,
        max_tokens=8,
        n=2,
        presence_penalty=0.5,
        response_format={"type": "text"},
        seed=3,
        stop=["\n"],
        temperature=0.9,
        tool_choice="none",
        tools=[],
        top_logprobs=2,
        top_p=0.9,
    )
    assert [choice.index for choice in answer.choices] == [0, 1]
    assert all(len(choice.logprobs.content[0].top_logprobs) == 2 for choice in answer.choices)


def test_the_hub_clients_openai_form_chats(hub_client):
    answer = hub_client.chat.completions.create(messages=[ASKED], max_tokens=4)
    assert answer.choices[0].message.role == "assistant"


def test_the_hub_client_raises_its_own_errors(hub_client):
    with pytest.raises(huggingface_hub.errors.HfHubHTTPError, match="tools"):
        hub_client.chat_completion([ASKED], tools=[{"type": "function", "function": {"name": "f"}}])
