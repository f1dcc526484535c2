"""One message a fault, in the client's own words: no branch of a union, no name of a checker, and the field that was meant."""

import asyncio
import json
from typing import Annotated

import pytest
from pydantic import Field, ValidationError

from app.api import body as request_body
from app.api.faults import invalid, shown
from app.schemas.fields import StrictModel, Text, TokenId

INTERNALS = ("[key]", "function-", "constrained-", "list[", "union", "Value error", "after validation", "dictionary or instance")
TokenIds = Annotated[list[TokenId], Field(fail_fast=True)]


class UnionBody(StrictModel):
    """A field of four types, whose faults pydantic tells four times."""

    prompt: Text | Annotated[list[Text], Field(fail_fast=True)] | TokenIds | Annotated[list[TokenIds], Field(fail_fast=True)]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (5, "prompt: 5 is refused: input should be a string or a list"),
        (None, "prompt: null is refused: input should be a string or a list"),
        ({"str": 1}, 'prompt: {"str": 1} is refused: input should be a string or a list'),
        (["a", 1], "prompt.1: 1 is refused: input should be a string"),
        ([1, "a"], 'prompt.1: "a" is refused: input should be an integer'),
        ([[1, 2], [1, "a"]], 'prompt.1.1: "a" is refused: input should be an integer'),
        ([None], "prompt.0: null is refused: input should be a string, an integer or a list"),
        ([[-1]], "prompt.0.0: -1 is refused: input should be greater than or equal to 0"),
        (["\ud800"], 'prompt.0: "\\ud800" is refused: holds a lone surrogate at character 0, which is no text'),
        ([1] * 100_000 + ["a"], 'prompt.100000: "a" is refused: input should be an integer'),
    ],
)
def test_of_a_union_the_branch_that_was_meant_speaks(value, message):
    with pytest.raises(ValidationError) as caught:
        UnionBody.model_validate({"prompt": value})
    error = invalid(caught.value, {"prompt": value}, UnionBody)
    assert error.message == message
    assert error.param == message.partition(": ")[0]


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"logit_bias": {"-1": 1}}, """parameters.logit_bias: "-1" is refused: its keys are token ids, written in digits"""),
        ({"logit_bias": {"5": "x"}}, 'parameters.logit_bias.5: "x" is refused: input should be a number'),
        (
            {"logit_bias": {"5": 1, "05": 2}},
            'parameters.logit_bias: {"5": 1, "05": 2} is refused: its keys "5" and "05" name one token id',
        ),
        ({"stop": ["a", "", "b"]}, 'parameters.stop.1: "" is refused: it is empty'),
        (
            {"stop": list("abcde")},
            'parameters.stop: ["a", "b", "c", "d", "e"] is refused: list should have at most 4 items, not 5',
        ),
        ({"n": 3, "best_of": 2}, "parameters.best_of: 2 is below n, 3; send at least n, or leave it out"),
        (5, "parameters: 5 is refused: input should be an object"),
    ],
)
def test_a_fault_is_told_once_by_the_names_that_the_client_sent(client, parameters, message):
    response = client.post("/generate", json={"inputs": "a", "parameters": parameters})
    assert response.status_code == 422
    assert response.json()["error"] == message


@pytest.mark.parametrize(
    ("body", "field", "suggestion"),
    [
        ({"max_tokens": 3}, "max_tokens", "; did you mean parameters.max_new_tokens?"),
        ({"parameters": {"max_tokens": 3}}, "parameters.max_tokens", "; did you mean parameters.max_new_tokens?"),
        ({"parameters": {"stop_sequences": []}}, "parameters.stop_sequences", "; did you mean parameters.stop?"),
        ({"parameters": {"topP": 1}}, "parameters.topP", "; did you mean parameters.top_p?"),
        ({"parameters": {"stream": True}}, "parameters.stream", "; did you mean stream, outside of parameters?"),
        ({"seed": 1}, "seed", "; did you mean parameters.seed?"),
        ({"xyzzy": 1}, "xyzzy", ""),
    ],
)
def test_an_unknown_field_is_refused_with_the_one_that_was_meant(client, body, field, suggestion):
    message = client.post("/generate", json={"inputs": "a", **body}).json()["error"]
    assert message == f"{field}: there is no such field{suggestion}"


MANY = 70_000  # which a body of 1 MiB has room for
HUGE_BODIES = {
    "unknown fields": {f"a{i}": 1 for i in range(MANY)},
    "biases that are no numbers": {"parameters": {"logit_bias": {str(i): "x" for i in range(4000)}}},
    "keys that are no ids": {"parameters": {"logit_bias": {f"a{i}": 1 for i in range(MANY)}}},
    "stop strings": {"parameters": {"stop": [1] * MANY}},
    "stop ids": {"parameters": {"stop_token_ids": ["a"] * MANY}},
    "prompts": {"inputs": ["a"] * 10_000},
    "candidates": {"prompt": "a", "candidates": [1] * MANY},
    "ids": {"ids": ["a"] * MANY},
}


@pytest.mark.parametrize("path", ["/generate", "/v1/completions", "/v1/score", "/tokenize", "/detokenize"])
@pytest.mark.parametrize("body", HUGE_BODIES.values(), ids=HUGE_BODIES.keys())
def test_however_much_is_wrong_the_message_is_short(client, path, body):
    response = client.post(path, content=json.dumps({"inputs": "a", "max_tokens": 1, **body}))
    if response.status_code != 200:  # OpenAI's routes pass over what they do not know
        assert response.status_code in (400, 422)
        assert len(response.text) < 1000
        assert not any(word in response.text for word in INTERNALS)


def test_of_a_long_value_no_more_is_written_than_is_shown():
    """A megabyte of lists took 40 ms, of which 60 characters were shown."""
    assert shown([[1]] * 60 + [object()]) == "[[1]" + ", [1]" * 11 + ",..."


def test_the_event_loop_does_not_wait_until_a_long_body_is_checked(client, monkeypatch):
    on_loop = []

    def noted(*fault):
        try:
            on_loop.append(asyncio.get_running_loop() is not None)
        except RuntimeError:
            on_loop.append(False)
        return invalid(*fault)

    monkeypatch.setattr(request_body, "invalid", noted)
    for num_prompts in (10_000, 100_000):
        assert client.post("/v1/completions", content=json.dumps({"prompt": [[1]] * num_prompts})).status_code == 400
    assert on_loop == [True, False]


@pytest.mark.parametrize("num_keys", [4096, 4097])
def test_an_object_has_a_bounded_number_of_keys(client, num_keys):
    metadata = dict.fromkeys(map(str, range(num_keys)))
    response = client.post("/v1/completions", json={"prompt": "a", "max_tokens": 1, "metadata": metadata})
    assert response.status_code == (200 if num_keys == 4096 else 400)
    if num_keys > 4096:
        assert response.json()["error"]["message"] == "an object has 4097 keys; the most that is read is 4096"


def test_a_field_of_another_dialect_that_would_change_the_text_is_the_errors_param(client):
    error = client.post("/v1/completions", json={"prompt": "a", "guided_json": {}}).json()["error"]
    assert error["param"] == "guided_json"
    assert error["message"].startswith("guided_json: ")
