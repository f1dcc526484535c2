"""OpenAI's dialect: /v1/completions, its stream and its errors, and /v1/models."""

import httpx
import pytest

UNTOLD = {"id": 0, "created": 0}  # what two answers to the same question need not share

REFUSED = {
    "suffix": "the end",
    "structured_outputs": {"choice": ["a", "b"]},
    "guided_json": {"type": "object"},
    "guided_choice": ["a"],
    "guided_regex": "a+",
    "guided_grammar": "root ::= a",
    "response_format": {"type": "json_object"},
    "logits_processors": ["a.b"],
    "use_beam_search": True,
    "length_penalty": 2.0,
    "bad_words": ["sea"],
    "allowed_token_ids": [1],
    "prompt_embeds": "AAAA",
    "guided_whitespace_pattern": "a",
    "truncation_side": "right",
    "repetition_detection": {"max_pattern_size": 3},
    "watermarking": True,
    "stream_options": {"include_usage": True},
}
NEUTRAL = {
    "n": 1,
    "best_of": 1,
    "echo": False,
    "logprobs": None,
    "prompt_logprobs": None,
    "include_stop_str_in_output": False,
    "suffix": None,
    "stop": None,
    "stop_token_ids": [],
    "top_p": 1,
    "top_k": -1,
    "min_p": 0,
    "repetition_penalty": 1,
    "frequency_penalty": 0,
    "presence_penalty": 0,
    "logit_bias": None,
    "min_tokens": 0,
    "ignore_eos": False,
    "stream": False,
    "stream_options": None,
    "user": "somebody",
    "model": "whatever",
}


@pytest.mark.row(
    "route.completions",
    "completions.prompt",
    "completions.max_tokens",
    "completions.answer",
    "completions.finish_reason",
    "completions.usage",
)
def test_an_answer_has_openais_shape(complete, generate):
    answer = complete()
    assert answer["id"].startswith("cmpl-")
    assert answer["object"] == "text_completion"
    assert answer["model"] == "tiny-gpt2"
    (choice,) = answer["choices"]
    assert choice == {"index": 0, "text": choice["text"], "logprobs": None, "finish_reason": "length"}
    assert choice["text"] == generate(max_new_tokens=16, do_sample=True, seed=1)["generated_text"]
    num_prompt = generate()["details"]["input_length"]
    assert answer["usage"] == {
        "prompt_tokens": num_prompt,
        "completion_tokens": 16,
        "total_tokens": num_prompt + 16,
        "prompt_tokens_details": {"cached_tokens": 0},
    }


@pytest.mark.row("completions.usage")
def test_usage_tells_what_came_from_the_prefix_cache(complete, server):
    prompt = "once upon a time " * 40
    first, second = complete(prompt), complete(prompt)
    num_cached = second["usage"]["prompt_tokens_details"]["cached_tokens"]
    assert num_cached == server.num_reusable(second["usage"]["prompt_tokens"]) > 0
    assert first["choices"] == second["choices"]


@pytest.mark.row("completions.temperature", "completions.seed")
def test_sampling_is_the_default_and_temperature_zero_is_greedy(complete):
    assert complete(seed=1)["choices"] != complete(seed=2)["choices"]
    assert complete(seed=1, temperature=0)["choices"] == complete(seed=2, temperature=0)["choices"]


@pytest.mark.row("completions.seed")
def test_a_negative_seed_counts_modulo_two_to_the_64(complete):
    assert complete(seed=-1)["choices"] == complete(seed=2**64 - 1)["choices"] != complete(seed=1)["choices"]


@pytest.mark.row("completions.stop")
@pytest.mark.parametrize("as_list", [False, True])
def test_stop_is_a_string_or_a_list(complete, as_list):
    text = complete()["choices"][0]["text"]
    stop = text[4:6]
    (choice,) = complete(stop=[stop] if as_list else stop)["choices"]
    assert (choice["text"], choice["finish_reason"]) == (text[: text.index(stop)], "stop")


@pytest.mark.row("completions.finish_reason", "completions.logit_bias")
def test_the_end_token_is_a_stop(complete):
    (choice,) = complete(logit_bias={"499": 100})["choices"]
    assert (choice["text"], choice["finish_reason"]) == ("", "stop")


@pytest.mark.row("completions.stream", "stream.openai_chunk", "stream.done", "stream.same_text")
@pytest.mark.parametrize(
    "fields", [{}, {"temperature": 2.0, "max_tokens": 60}, {"stop": "e", "temperature": 2.0, "max_tokens": 60}]
)
def test_a_stream_adds_up_to_the_unstreamed_answer(complete, chunks, fields):
    answer, events = complete(**fields), chunks(**fields)
    assert events.pop() == "[DONE]"
    assert all(event["object"] == "text_completion" and event["model"] == "tiny-gpt2" for event in events)
    assert len({(event["id"], event["created"]) for event in events}) == 1
    choices = [choice for event in events for choice in event["choices"]]
    assert len(choices) == len(events) == answer["usage"]["completion_tokens"]
    assert "".join(choice["text"] for choice in choices) == answer["choices"][0]["text"]
    assert [choice["finish_reason"] for choice in choices] == [None] * (len(choices) - 1) + [answer["choices"][0]["finish_reason"]]


@pytest.mark.row("stream.usage")
def test_usage_is_one_more_chunk_if_asked_for(complete, chunks):
    events = chunks(max_tokens=3, stream_options={"include_usage": True})
    assert len(events) == 5
    assert events[-2]["choices"] == []
    assert events[-2]["usage"] == complete(max_tokens=3)["usage"]
    assert all("usage" not in event for event in chunks(max_tokens=3, stream_options={"include_usage": False})[:-1])


@pytest.mark.row("stream.later_error_openai")
def test_a_later_failure_is_an_error_event_before_done(stepped_server, sse):
    server, runner = stepped_server()
    runner.let_through(2)
    body = {"prompt": "a", "stream": True, "ignore_eos": True}
    with httpx.stream("POST", server.url + "/v1/completions", json=body, timeout=60) as response:
        assert response.status_code == 200
        runner.failures.append(RuntimeError("the third step breaks"))
        runner.open()
        *_, error, done = sse(response)
    assert set(error["error"]) == {"message", "type", "param", "code"}
    assert error["error"]["type"] == "server_error"
    assert "the step failed: RuntimeError" in error["error"]["message"]
    assert done == "[DONE]"


def test_a_failure_before_the_first_token_is_a_500(stepped_server):
    server, runner = stepped_server()
    runner.failures.append(RuntimeError("broken"))
    runner.open()
    response = httpx.post(server.url + "/v1/completions", json={"prompt": "a", "stream": True})
    assert response.status_code == 500
    assert response.json()["error"]["type"] == "server_error"


@pytest.mark.row("completions.known_and_missing", "completions.suffix", "completions.stream_options")
@pytest.mark.parametrize("name", REFUSED)
def test_what_would_change_the_text_is_refused_by_name(client, name):
    response = client.post("/v1/completions", json={"prompt": "a", name: REFUSED[name]})
    assert response.status_code == 400
    error = response.json()["error"]
    assert name in error["message"]
    assert error["param"] == name
    assert error["type"] == "invalid_request_error"


@pytest.mark.row("completions.known_and_missing", "completions.best_of")
@pytest.mark.parametrize(
    "neutral",
    [
        {"response_format": {"type": "text"}},
        {"use_beam_search": False, "length_penalty": 1.0},
        {"logits_processors": [], "bad_words": [], "guided_json": None},
        {"best_of": 0, "logit_bias": {}},
    ],
)
def test_what_leaves_the_text_as_it_is_is_taken(complete, neutral):
    assert complete(max_tokens=4, **neutral)["choices"] == complete(max_tokens=4)["choices"]


@pytest.mark.row("completions.include_stop_str_in_output")
def test_a_stop_string_stays_in_the_text_if_that_is_asked_for(complete, chunks):
    whole = complete(max_tokens=20)["choices"][0]["text"]
    stop = whole[5:8]
    end = whole.index(stop) + len(stop)
    for wanted, text in ((True, whole[:end]), (False, whole[: end - len(stop)])):
        (choice,) = complete(max_tokens=20, stop=stop, include_stop_str_in_output=wanted)["choices"]
        assert (choice["text"], choice["finish_reason"]) == (text, "stop")
        events = chunks(max_tokens=20, stop=stop, include_stop_str_in_output=wanted)
        assert "".join(event["choices"][0]["text"] for event in events[:-1]) == text


@pytest.mark.row("completions.include_stop_str_in_output")
def test_the_text_of_a_token_that_ended_it_stays_too(client, complete):
    names = complete(max_tokens=6, logprobs=0, temperature=0)["choices"][0]["logprobs"]["tokens"]
    (last,) = (token["id"] for token in client.post("/tokenize", json={"inputs": names[2]}).json())
    first = names.index(names[2])
    for wanted in (False, True):
        fields = {"stop_token_ids": [last], "include_stop_str_in_output": wanted}
        (choice,) = complete(max_tokens=6, temperature=0, **fields)["choices"]
        assert choice["text"] == "".join(names[: first + wanted])


@pytest.mark.row("completions.min_tokens")
def test_min_tokens_holds_stop_strings_off(complete):
    whole = complete(max_tokens=12, temperature=0, logprobs=0)["choices"][0]
    names = whole["logprobs"]["tokens"]
    (stopped,) = complete(max_tokens=12, temperature=0, stop=names[1])["choices"]
    assert stopped["text"] == whole["text"][: whole["text"].index(names[1])]
    (held,) = complete(max_tokens=12, temperature=0, stop=names[1], min_tokens=2)["choices"]
    assert held["text"].startswith("".join(names[:2]))


@pytest.mark.row("completions.user", "completions.model")
@pytest.mark.parametrize("name", NEUTRAL)
def test_neutral_values_and_null_change_nothing(complete, name):
    plain = complete(max_tokens=4)["choices"]
    assert complete(max_tokens=4, **{name: NEUTRAL[name]})["choices"] == plain
    assert complete(max_tokens=4, **{name: None})["choices"] == plain


@pytest.mark.row("completions.unknown_field")
def test_unknown_fields_are_ignored(complete):
    assert complete(max_tokens=2, service_tier="auto", whatever={"a": [1]}) | UNTOLD == complete(max_tokens=2) | UNTOLD


@pytest.mark.row("route.models", "route.model")
def test_models_lists_the_one_that_is_served(client):
    (model,) = client.get("/v1/models").json()["data"]
    assert model["id"] == "tiny-gpt2"
    assert model["object"] == "model"
    assert client.get("/v1/models/tiny-gpt2").json() == model


@pytest.mark.row("route.model", "error.not_found")
def test_an_unknown_model_or_route_is_a_404_in_openais_shape(client):
    for path in ("/v1/models/gpt-5", "/v1/embeddings"):
        response = client.get(path)
        assert response.status_code == 404
        assert set(response.json()["error"]) == {"message", "type", "param", "code"}
        assert response.json()["error"]["code"] == "not_found"


@pytest.mark.row("completions.system_fingerprint")
def test_the_fingerprint_of_what_fixes_the_bytes_is_the_same_in_every_answer_and_chunk(server, complete, chunks):
    fingerprint = server.service.info.fingerprint
    assert complete(max_tokens=1)["system_fingerprint"] == fingerprint
    assert {event["system_fingerprint"] for event in chunks(max_tokens=3)[:-1]} == {fingerprint}
