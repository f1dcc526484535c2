"""OpenAI's chat: /v1/chat/completions, its stream, its errors, and where a reply begins and ends."""

import asyncio
import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.settings import Settings
from model.tokenizer import PLAIN_TEXT
from tests.conftest import RunningServer, running_server

Json = dict[str, Any]
ROUTE = "/v1/chat/completions"
ASKED = {"role": "user", "content": "What news of the king?"}
REPLIED = {"role": "assistant", "content": "None."}
PROMPT = "User: What news of the king?\nAssistant:"
REFUSED = {
    "tools": [{"type": "function", "function": {"name": "f"}}],
    "tool_choice": "required",
    "functions": [{"name": "f"}],
    "function_call": {"name": "f"},
    "audio": {"voice": "alloy", "format": "mp3"},
    "modalities": ["text", "audio"],
    "web_search_options": {},
    "reasoning_effort": "high",
    "verbosity": "low",
    "response_format": {"type": "json_object"},
    "chat_template": "{{ messages }}",
    "documents": [{"text": "a"}],
    "guided_json": {"type": "object"},
    "structured_outputs": {"json": {}},
    "use_beam_search": True,
}
NEUTRAL: Json = {
    "tools": [],
    "tool_choice": "none",
    "functions": [],
    "function_call": "none",
    "modalities": ["text"],
    "response_format": {"type": "text"},
    "reasoning_effort": "none",
    "n": 1,
    "logprobs": False,
    "top_logprobs": 0,
    "stop": None,
    "stop_token_ids": [],
    "top_p": 1,
    "top_k": -1,
    "min_p": 0,
    "repetition_penalty": 1,
    "frequency_penalty": 0,
    "presence_penalty": 0,
    "logit_bias": {},
    "min_tokens": 0,
    "ignore_eos": False,
    "include_stop_str_in_output": False,
    "add_generation_prompt": True,
    "continue_final_message": False,
    "add_special_tokens": False,
    "chat_template_kwargs": {},
    "stream": False,
    "stream_options": None,
    "user": "somebody",
    "model": "whatever",
}


@pytest.fixture(scope="module")
def server(tiny_checkpoint: Path) -> Iterator[RunningServer]:
    """A server that chats by the plain template."""
    values = {"model": str(tiny_checkpoint), "port": 0, "device": "cpu", "max_running": 8, "_env_file": None}
    with running_server(Settings(**values, chat_template="plain")) as running:
        yield running


@pytest.fixture(scope="module")
def chat(client: httpx.Client) -> Callable[..., Json]:
    """The answer to a chat that succeeds."""

    def post(*messages: Json, **fields: object) -> Json:
        body = {"messages": messages or [ASKED], "seed": 1, "max_tokens": 16, **fields}
        response = client.post(ROUTE, json={name: value for name, value in body.items() if value != ...})
        assert response.status_code == 200, response.text
        return response.json()

    return post


@pytest.fixture(scope="module")
def chunks(client: httpx.Client) -> Callable[..., list[Any]]:
    """The events of the same, streamed."""

    def post(*messages: Json, **fields: object) -> list[Any]:
        body = {"messages": messages or [ASKED], "seed": 1, "max_tokens": 16, "stream": True, **fields}
        response = client.post(ROUTE, json=body)
        assert response.status_code == 200, response.text
        return read(response)

    return post


def read(response: httpx.Response) -> list[Any]:
    response.read()
    data = [line.removeprefix("data: ") for line in response.text.splitlines() if line.startswith("data: ")]
    return [item if item == "[DONE]" else json.loads(item) for item in data]


def text_of(answer: Json, choice: int = 0) -> str:
    message = answer["choices"][choice]["message"]
    assert message["role"] == "assistant"
    content: str = message["content"]
    return content


def refusal(response: httpx.Response) -> Json:
    assert response.status_code == 400, response.text
    error: Json = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    return error


@pytest.mark.row("route.chat", "chat.answer")
def test_an_answer_has_openais_shape_and_continues_the_templates_text(chat, complete, server):
    answer = chat()
    assert answer["id"].startswith("chatcmpl-")
    assert answer["object"] == "chat.completion"
    assert answer["model"] == "tiny-gpt2"
    assert answer["system_fingerprint"] == server.service.info.fingerprint
    (choice,) = answer["choices"]
    assert choice == {
        "index": 0,
        "message": {"role": "assistant", "content": choice["message"]["content"]},
        "logprobs": None,
        "finish_reason": "length",
    }
    completed = complete(PROMPT)
    assert text_of(answer) == completed["choices"][0]["text"].removeprefix(" ")
    assert answer["usage"] == completed["usage"] | {"prompt_tokens_details": answer["usage"]["prompt_tokens_details"]}


@pytest.mark.row("chat.messages")
def test_the_whole_conversation_is_the_prompt(chat, complete):
    said = {"role": "system", "content": "A play."}
    answer = chat(said, ASKED, REPLIED, ASKED)
    prompt = f"A play.\n{PROMPT} None.\n{PROMPT}"
    assert text_of(answer) == complete(prompt)["choices"][0]["text"].removeprefix(" ")


@pytest.mark.row("chat.messages")
def test_parts_of_a_message_are_its_lines(chat):
    parts = [{"type": "text", "text": "What news"}, {"type": "text", "text": "of the king?"}]
    assert text_of(chat({"role": "user", "content": parts})) == text_of(
        chat({"role": "user", "content": "What news\nof the king?"})
    )


@pytest.mark.row("chat.max_tokens")
@pytest.mark.parametrize("fields", [{}, {"max_completion_tokens": 16, "max_tokens": 5}])
def test_the_newer_name_of_the_limit_counts(chat, fields):
    assert chat(**fields)["usage"]["completion_tokens"] == 16


@pytest.mark.row("chat.max_tokens")
def test_without_a_limit_a_reply_goes_on_to_the_contexts_end(chat):
    answer = chat(max_tokens=..., ignore_eos=True)
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"]["total_tokens"] == 1024


FIELDS = [
    {},
    {"temperature": 2.0, "max_tokens": 60},
    {"stop": "e", "temperature": 2.0, "max_tokens": 60},
    {"n": 3, "temperature": 1.5},
    {"logprobs": True, "top_logprobs": 3, "n": 2},
    {"logit_bias": {"499": 100}},
]


@pytest.mark.row("chat.stream")
@pytest.mark.parametrize("fields", FIELDS)
def test_a_stream_adds_up_to_the_unstreamed_answer(chat, chunks, fields):
    answer, events = chat(**fields), chunks(**fields, stream_options={"include_usage": True})
    assert events.pop() == "[DONE]"
    last = events.pop()
    assert last["choices"] == []
    assert last["usage"] == answer["usage"] | {"prompt_tokens_details": last["usage"]["prompt_tokens_details"]}
    assert all(event["object"] == "chat.completion.chunk" and event["model"] == "tiny-gpt2" for event in events)
    assert len({(event["id"], event["created"]) for event in events}) == 1
    for whole in answer["choices"]:
        first, *middle, end = [c for event in events for c in event["choices"] if c["index"] == whole["index"]]
        assert first["delta"] == {"role": "assistant", "content": ""}
        assert "".join(choice["delta"]["content"] for choice in middle) == whole["message"]["content"]
        assert all(choice["finish_reason"] is None for choice in [first, *middle])
        assert (end["delta"], end["finish_reason"]) == ({}, whole["finish_reason"])
        told = [token for choice in middle for token in (choice["logprobs"] or {"content": []})["content"]]
        assert told == (whole["logprobs"] or {"content": []})["content"]


@settings(max_examples=40, deadline=None)
@given(
    st.text(max_size=40),
    st.integers(0, 2**32),
    st.sampled_from([0.0, 1.0, 2.0]),
    st.lists(st.text(min_size=1, max_size=3), max_size=4),
)
def test_whatever_is_said_the_stream_equals_the_answer(server, said, seed, temperature, stop):
    body = {
        "messages": [{"role": "user", "content": said}],
        "seed": seed,
        "temperature": temperature,
        "stop": stop,
        "max_tokens": 20,
    }
    whole = httpx.post(server.url + ROUTE, json=body, timeout=60).json()
    events = read(httpx.post(server.url + ROUTE, json=body | {"stream": True}, timeout=60))
    streamed = "".join(event["choices"][0]["delta"].get("content", "") for event in events if event != "[DONE]")
    assert streamed == text_of(whole)


@pytest.mark.row("chat.logprobs")
def test_log_probabilities_have_openais_chat_form(chat, complete):
    answer = chat(logprobs=True, top_logprobs=3, temperature=0)
    tokens = answer["choices"][0]["logprobs"]["content"]
    told = complete(PROMPT, logprobs=3, temperature=0)["choices"][0]["logprobs"]
    assert [token["token"] for token in tokens] == told["tokens"]
    assert [token["logprob"] for token in tokens] == told["token_logprobs"]
    for token in tokens:
        assert len(token["top_logprobs"]) == 3
        assert token["top_logprobs"][0] == {name: token[name] for name in ("token", "logprob", "bytes")}
    assert bytes(byte for token in tokens for byte in token["bytes"]).decode(errors="replace").removeprefix(" ") == text_of(answer)


@pytest.fixture
def scripted(stepped_server: Callable[..., Any]) -> Callable[..., RunningServer]:
    """A server whose model writes a given text, and then what it likes."""

    def start(text: str, *token_ids: int, **settings: object) -> RunningServer:
        server, runner = stepped_server(**settings)
        runner.script = [*server.service.generator.tokenizer.encode(text), *token_ids]
        runner.open()
        return server

    return start


@pytest.mark.row("chat.turn_end")
@pytest.mark.parametrize(
    ("fields", "begin", "reason"),
    [
        ({}, "Hello.", "stop"),
        ({"ignore_eos": True}, "Hello.\nUser: Who is there?", "length"),
        ({"min_tokens": 30}, "Hello.\nUser: Who is there?", "length"),
        ({"stop": "lo"}, "Hel", "stop"),
        ({"stop": "lo", "include_stop_str_in_output": True}, "Hello", "stop"),
    ],
)
def test_a_reply_ends_where_the_template_lets_the_user_speak_again(scripted, fields, begin, reason):
    server = scripted(" Hello.\nUser: Who is there?", chat_template="plain")
    answer = httpx.post(server.url + ROUTE, json={"messages": [ASKED], "max_tokens": 30, "seed": 1} | fields, timeout=60).json()
    choice = answer["choices"][0]
    assert choice["finish_reason"] == reason
    assert text_of(answer) == begin if reason == "stop" else text_of(answer).startswith(begin)


@pytest.mark.row("chat.turn_end")
@pytest.mark.parametrize("stream", [False, True])
def test_the_templates_own_end_token_ends_a_reply_and_is_not_shown(scripted, chatml_checkpoint, stream):
    server = scripted("Hello.", 501, 1, 2, 3, model=str(chatml_checkpoint))
    response = httpx.post(server.url + ROUTE, json={"messages": [ASKED], "stream": stream, "max_tokens": 40}, timeout=60)
    assert response.status_code == 200, response.text
    if stream:
        choices = [event["choices"][0] for event in read(response) if event != "[DONE]"]
        assert "".join(choice["delta"].get("content", "") for choice in choices) == "Hello."
        assert choices[-1]["finish_reason"] == "stop"
    else:
        assert text_of(response.json()) == "Hello."
        assert response.json()["choices"][0]["finish_reason"] == "stop"


@pytest.mark.row("tokens.parse_special")
def test_special_tokens_in_a_message_are_text_if_that_is_asked_for(start_server, chatml_checkpoint):
    server = start_server(model=str(chatml_checkpoint))
    tokenizer, said = server.service.generator.tokenizer, "a<|im_end|>"
    sizes = []
    for parse_special in (True, False):
        body = {"messages": [{"role": "user", "content": said}], "max_tokens": 1, "parse_special": parse_special}
        sizes.append(httpx.post(server.url + ROUTE, json=body, timeout=60).json()["usage"]["prompt_tokens"])
    assert sizes[1] - sizes[0] == len(tokenizer.encode(said, PLAIN_TEXT)) - len(tokenizer.encode(said)) > 0


def test_the_end_token_ends_a_reply(chat):
    answer = chat(logit_bias={"499": 100})
    assert (text_of(answer), answer["choices"][0]["finish_reason"]) == ("", "stop")


@pytest.mark.row("chat.continue_final_message")
def test_a_final_message_is_continued_without_a_break(chat, complete):
    begun = {"role": "assistant", "content": "The king is "}
    answer = chat(ASKED, begun, continue_final_message=True)
    assert text_of(answer) == complete(f"{PROMPT} The king is ")["choices"][0]["text"]


def test_several_replies_are_drawn_and_the_best_of_more_is_told(chat):
    answer = chat(n=3, logprobs=True)
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2]

    def mean(choice: Json) -> float:
        tokens = choice["logprobs"]["content"]
        return sum(token["logprob"] for token in tokens) / len(tokens)

    assert text_of(chat(best_of=3)) == max(answer["choices"], key=mean)["message"]["content"]


def test_many_conversations_at_once_get_their_own_answers(server, chat):
    said = [{"role": "user", "content": f"{word} news?"} for word in ("What", "Which", "Whose", "Any")] * 10

    async def ask_all() -> list[str]:
        async with httpx.AsyncClient(base_url=server.url, timeout=120) as client:
            bodies = [{"messages": [message], "seed": 1, "max_tokens": 8} for message in said]
            return [text_of((await answer).json()) for answer in [asyncio.create_task(client.post(ROUTE, json=b)) for b in bodies]]

    assert asyncio.run(ask_all()) == [text_of(chat(message, max_tokens=8)) for message in said]


def test_a_client_that_leaves_frees_its_slot(stepped_server, call, eventually):
    server, runner = stepped_server(chat_template="plain")
    caller = call(server, ROUTE, {"messages": [ASKED], "ignore_eos": True})
    eventually(lambda: runner.arrived)
    caller.leave()
    eventually(lambda: server.service.generator.client.num_unfinished == 0)
    runner.open()
    eventually(lambda: server.metric("gpt2_requests_total", route=ROUTE, outcome="aborted") == 1)


def test_a_later_failure_is_an_error_event_before_done(stepped_server):
    server, runner = stepped_server(chat_template="plain")
    runner.let_through(2)
    body = {"messages": [ASKED], "stream": True, "ignore_eos": True}
    with httpx.stream("POST", server.url + ROUTE, json=body, timeout=60) as response:
        assert response.status_code == 200
        runner.failures.append(RuntimeError("the third step breaks"))
        runner.open()
        *_, error, done = read(response)
    assert "the step failed: RuntimeError" in error["error"]["message"]
    assert done == "[DONE]"
    assert server.metric("gpt2_requests_total", route=ROUTE, outcome="failed") == 1


def test_a_failure_before_the_first_token_is_a_500(stepped_server):
    server, runner = stepped_server(chat_template="plain")
    runner.failures.append(RuntimeError("broken"))
    runner.open()
    response = httpx.post(server.url + ROUTE, json={"messages": [ASKED], "stream": True})
    assert response.status_code == 500
    assert response.json()["error"]["type"] == "server_error"


@pytest.mark.row("chat.too_long")
def test_a_conversation_longer_than_the_context_is_refused_with_its_length(client):
    said = [{"role": "user", "content": "What news of the king? " * 40}] * 4
    error = refusal(client.post(ROUTE, json={"messages": said}))
    assert error["param"] == "messages"
    assert "tokens; the model takes at most 1023; leave out the oldest" in error["message"]


@pytest.mark.row("chat.known_and_missing")
@pytest.mark.parametrize("name", REFUSED)
def test_what_would_change_the_text_and_is_not_there_is_refused_by_name(client, name):
    error = refusal(client.post(ROUTE, json={"messages": [ASKED], name: REFUSED[name]}))
    assert error["param"] == name
    assert name in error["message"]


@pytest.mark.row("chat.known_and_missing")
@pytest.mark.parametrize("name", NEUTRAL)
def test_neutral_values_and_null_change_nothing(chat, name):
    plain = chat(max_tokens=4)["choices"]
    assert chat(max_tokens=4, **{name: NEUTRAL[name]})["choices"] == plain
    assert chat(max_tokens=4, **{name: None})["choices"] == plain


def test_unknown_fields_are_ignored(chat):
    fields = {"service_tier": "auto", "store": False, "metadata": {"a": "b"}, "whatever": [1]}
    assert chat(ASKED | {"weight": 1}, max_tokens=2, **fields)["choices"] == chat(max_tokens=2)["choices"]


@pytest.mark.parametrize(
    ("fields", "param", "cause"),
    [
        ({"messages": []}, "messages", "at least 1"),
        ({"messages": None}, "messages", "list"),
        ({}, "messages", "required"),
        ({"messages": "hello"}, "messages", "list"),
        ({"messages": ["hello"]}, "messages.0", "ChatMessage|object|dictionary"),
        ({"messages": [{"role": "user"}]}, "messages.0.content", "required"),
        ({"messages": [{"content": "a"}]}, "messages.0.role", "required"),
        ({"messages": [{"role": "", "content": "a"}]}, "messages.0.role", "empty"),
        ({"messages": [{"role": "user", "content": None}]}, "messages.0.content", "string"),
        ({"messages": [ASKED, {"role": "user", "content": 5}]}, "messages.1.content", "string"),
        ({"messages": [{"role": "user", "content": "\ud800"}]}, "messages.0.content", "surrogate"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]}, "messages.0.content", "image_url"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages.0.content", "part 0 has no text"),
        ({"messages": [{"role": "user", "content": ["a"]}]}, "messages.0.content", "part 0"),
        ({"messages": [{"role": "assistant", "content": "", "tool_calls": [{}]}]}, "messages.0.tool_calls", "calls no tools"),
        ({"messages": [ASKED] * 5000}, "messages", "4096"),
        ({"messages": [ASKED], "max_tokens": 0}, "max_tokens", "greater than or equal to 1"),
        ({"messages": [ASKED], "top_logprobs": 21, "logprobs": True}, "top_logprobs", "less than or equal to 20"),
        ({"messages": [ASKED], "top_logprobs": 2}, "top_logprobs", "logprobs: true"),
        ({"messages": [ASKED], "logprobs": 5}, "logprobs", "true or false"),
        ({"messages": [ASKED], "add_generation_prompt": True, "continue_final_message": True}, "continue_final_message", "contra"),
        ({"messages": [ASKED], "chat_template_kwargs": {"messages": []}}, "chat_template_kwargs", "messages"),
        ({"messages": [ASKED], "stream_options": {"include_usage": True}}, "stream_options", "stream"),
    ],
)  # fmt: skip
def test_bad_input_gets_an_error_that_names_the_field(client, fields, param, cause):
    error = refusal(client.post(ROUTE, content=json.dumps(fields)))
    assert error["param"] == param
    assert re.search(cause, error["message"])


@pytest.mark.parametrize("depth", [100, 400, 900, 990, 5000])
def test_variables_nested_to_any_depth_get_an_answer(client, depth):
    nested = "[" * depth + "]" * depth
    body = '{"messages": [{"role": "user", "content": "a"}], "max_tokens": 1, "chat_template_kwargs": {"a": ' + nested + "}}"
    response = client.post(ROUTE, content=body)
    assert response.status_code == 200 or "nested" in refusal(response)["message"]


@pytest.mark.row("chat.no_template")
def test_a_server_without_a_template_says_how_to_give_it_one(start_server):
    server = start_server()
    error = refusal(httpx.post(server.url + ROUTE, json={"messages": [ASKED]}))
    for way in ("chat_template.jinja", "GPT2_CHAT_TEMPLATE", "plain", "dialogpt"):
        assert way in error["message"]
    assert httpx.get(server.url + "/info").json()["chat_template"] is None


@pytest.fixture
def with_template(tiny_checkpoint: Path, tmp_path: Path) -> Callable[[str], str]:
    """The tiny checkpoint with a chat template of its own."""

    def make(source: str) -> str:
        directory = tmp_path / "tiny-chat"
        shutil.copytree(tiny_checkpoint, directory)
        (directory / "chat_template.jinja").write_text(source)
        return str(directory)

    return make


HOSTILE = """\
{% set said = messages[-1].content %}
{% if said == "raise" %}{{ raise_exception("no such conversation") }}
{% elif said == "loop" %}
{% for a in range(9999) %}{% for b in range(9999) %}{% for c in range(9999) %}{% endfor %}{% endfor %}{% endfor %}
{% elif said == "fill" %}{{ "x" * (2 ** 40) }}
{% elif said == "flood" %}{{ "x" * (2 ** 24) }}
{% elif said == "divide" %}{{ 1 // 0 }}
{% elif said == "nothing" %}{% else %}{{ said }}{{ eos_token }}{% endif %}
"""


@pytest.mark.row("chat.bad_template")
def test_a_hostile_template_harms_its_own_request_alone(start_server, with_template):
    server = start_server(model=with_template(HOSTILE))
    reasons = {
        "raise": "no such conversation",
        "loop": "longer than 2 s",
        "fill": "more memory",
        "flood": "4194304 characters",
        "divide": "ZeroDivisionError",
        "nothing": "no text",
    }
    with httpx.Client(base_url=server.url, timeout=60) as client:
        for said, reason in reasons.items():
            error = refusal(client.post(ROUTE, json={"messages": [{"role": "user", "content": said}]}))
            assert error["param"] == "messages"
            assert reason in error["message"]
            good = client.post(ROUTE, json={"messages": [ASKED], "max_tokens": 2})
            assert good.status_code == 200
    assert server.metric("gpt2_requests_total", route=ROUTE, outcome="invalid") == len(reasons)
    assert server.metric("gpt2_requests_total", route=ROUTE, outcome="completed") == len(reasons)


@pytest.mark.row("chat.bad_template")
def test_others_are_served_while_a_template_goes_on_for_ever(start_server, with_template, in_background):
    server = start_server(model=with_template(HOSTILE))
    waiting = in_background(server, ROUTE, {"messages": [{"role": "user", "content": "loop"}]})
    answer = httpx.post(server.url + "/generate", json={"inputs": "a", "parameters": {"max_new_tokens": 2}}, timeout=60)
    assert answer.status_code == 200
    assert waiting.response.status_code == 400


def test_the_checkpoints_own_template_is_told_in_the_facts(start_server, with_template):
    server = start_server(model=with_template(HOSTILE))
    assert httpx.get(server.url + "/info").json()["chat_template"] == "checkpoint"


def test_a_checkpoints_broken_template_leaves_all_but_chat(start_server, with_template):
    server = start_server(model=with_template("{% for"))
    error = refusal(httpx.post(server.url + ROUTE, json={"messages": [ASKED]}))
    assert "line 1" in error["message"]
    assert httpx.post(server.url + "/v1/completions", json={"prompt": "a", "max_tokens": 1}).status_code == 200


@pytest.mark.row("chat.chat_template_kwargs")
def test_a_template_knows_names_and_further_variables(start_server, with_template):
    template = "{{ messages[0].name }}|{{ mood }}|{{ messages[0].content }}"
    server = start_server(model=with_template(template))
    body = {"messages": [ASKED | {"name": "Ann"}], "chat_template_kwargs": {"mood": "calm"}, "seed": 1, "max_tokens": 8}
    answer = httpx.post(server.url + ROUTE, json=body).json()
    wanted = httpx.post(
        server.url + "/v1/completions", json={"prompt": f"Ann|calm|{ASKED['content']}", "seed": 1, "max_tokens": 8}
    ).json()
    assert text_of(answer) == wanted["choices"][0]["text"]
