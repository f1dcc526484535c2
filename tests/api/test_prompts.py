"""What a prompt may be: text, token ids, several of either, too long and cut, or nothing at all."""

import httpx
import pytest

UNTOLD = {"id": 0, "created": 0}  # what two answers to the same question need not share

TEXTS = ["The old man", "", "é\U0001f30a", "and the sea and the old man and the sea"]


def ids_of(client, text):
    return [token["id"] for token in client.post("/tokenize", json={"inputs": text}).json()]


@pytest.mark.row("generate.inputs_ids", "completions.prompt_ids")
def test_token_ids_are_a_prompt_as_their_text_is(client, generate, complete):
    ids = ids_of(client, "The old man")
    assert generate(ids, seed=1) == generate("The old man", seed=1)
    assert complete(ids)["choices"] == complete("The old man")["choices"]


def test_the_text_of_token_ids_is_what_is_echoed(client, generate, complete):
    ids = ids_of(client, "The old man")
    assert generate(ids, return_full_text=True)["generated_text"].startswith("The old man")
    assert complete(ids, echo=True, logprobs=1) | UNTOLD == complete("The old man", echo=True, logprobs=1) | UNTOLD


@pytest.mark.row("completions.prompt_list", "completions.prompt_ids_list", "completions.choice_index")
@pytest.mark.parametrize("as_ids", [False, True])
@pytest.mark.parametrize("fields", [{}, {"echo": True, "logprobs": 2}, {"n": 2, "temperature": 1.5}, {"stop": "e"}])
def test_each_of_several_prompts_gets_what_it_gets_alone(client, complete, as_ids, fields):
    prompts = [ids_of(client, text) for text in TEXTS] if as_ids else TEXTS
    together = complete(prompts, max_tokens=12, **fields)
    alone = [complete(prompt, max_tokens=12, **fields) for prompt in prompts]
    choices = [choice for answer in alone for choice in answer["choices"]]
    assert together["choices"] == [choice | {"index": i} for i, choice in enumerate(choices)]
    for name in ("prompt_tokens", "completion_tokens", "total_tokens"):
        assert together["usage"][name] == sum(answer["usage"][name] for answer in alone)


@pytest.mark.parametrize("fields", [{}, {"echo": True, "logprobs": 1}, {"n": 2, "temperature": 1.5}])
def test_streamed_the_choices_of_several_prompts_add_up_to_the_whole_ones(complete, chunks, fields):
    whole, events = complete(TEXTS, max_tokens=9, **fields), chunks(TEXTS, max_tokens=9, **fields)
    assert events.pop() == "[DONE]"
    for choice in whole["choices"]:
        own = [part for event in events for part in event["choices"] if part["index"] == choice["index"]]
        assert "".join(part["text"] for part in own) == choice["text"]
        assert own[-1]["finish_reason"] == choice["finish_reason"]


def test_several_prompts_can_be_scored_alone(complete):
    answer = complete(TEXTS, max_tokens=0, echo=True, logprobs=1)
    assert [choice["text"] for choice in answer["choices"]] == TEXTS
    for choice in answer["choices"]:
        assert [logprob is None for logprob in choice["logprobs"]["token_logprobs"]] == [True] + [False] * (
            len(choice["logprobs"]["tokens"]) - 1
        )


def test_the_best_of_each_prompts_samples_is_returned(complete):
    answer = complete(TEXTS[:2], max_tokens=6, best_of=4, n=2, temperature=1.4, logprobs=0)
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2, 3]
    for i, prompt in enumerate(TEXTS[:2]):
        alone = complete(prompt, max_tokens=6, best_of=4, n=2, temperature=1.4, logprobs=0)["choices"]
        assert [c["text"] for c in answer["choices"][2 * i : 2 * i + 2]] == [c["text"] for c in alone]


@pytest.mark.row("generate.empty_prompt")
def test_an_empty_or_absent_prompt_is_one_end_token(client, server):
    end_id = server.service.generator.eos_token_ids[0]
    wanted = {"max_new_tokens": 6, "details": True, "seed": 1}
    from_end = client.post("/generate", json={"inputs": [end_id], "parameters": wanted}).json()
    for body in ({}, {"inputs": ""}, {"inputs": []}, {"prompt": ""}, {"inputs": None, "prompt": None}):
        answer = client.post("/generate", json={**body, "parameters": wanted}).json()
        assert answer == from_end
        assert answer["details"]["input_length"] == 1


@pytest.mark.row("completions.prompt")
@pytest.mark.parametrize("body", [{}, {"prompt": ""}, {"prompt": []}, {"prompt": [""]}, {"prompt": [[]]}, {"prompt": None}])
def test_openais_route_writes_from_nothing_too(client, complete, server, body):
    answer = client.post("/v1/completions", json={"seed": 1, **body}).json()
    assert answer["choices"] == complete([server.service.generator.eos_token_ids[0]])["choices"]
    assert answer["usage"]["prompt_tokens"] == 1


def test_an_empty_prompt_is_echoed_as_the_nothing_that_it_is(complete):
    (choice,) = complete("", echo=True, logprobs=0, max_tokens=3)["choices"]
    assert choice["logprobs"]["tokens"][0] == "<|endoftext|>"
    assert choice["logprobs"]["text_offset"][:2] == [0, 0], "the text does not begin with it"
    assert "endoftext" not in choice["text"]


@pytest.mark.row("generate.truncate", "completions.truncate_prompt_tokens")
@pytest.mark.parametrize("keep", [1, 3, 100])
def test_truncate_keeps_the_last_tokens_of_a_prompt(client, generate, complete, keep):
    ids = ids_of(client, "and the sea and the old man")
    cut = generate("and the sea and the old man", truncate=keep, seed=1)
    assert cut == generate(ids[-keep:], seed=1)
    assert cut["details"]["input_length"] == min(keep, len(ids))
    openai = complete("and the sea and the old man", truncate_prompt_tokens=keep)
    assert openai["choices"] == complete(ids[-keep:])["choices"]


@pytest.mark.row("generate.truncate")
def test_truncate_comes_before_the_limit_of_the_context(client, generate):
    long = "the sea and " * 5000
    assert client.post("/generate", json={"inputs": long}).status_code == 422
    assert generate(long, truncate=20, seed=1) == generate(ids_of(client, long)[-20:], seed=1)


def test_a_truncated_prompts_log_probabilities_are_those_of_what_was_kept(generate, complete):
    details = generate("The old man", truncate=2, decoder_input_details=True)["details"]
    assert len(details["prefill"]) == 2
    assert "The old man".endswith("".join(token["text"] for token in details["prefill"]))
    (choice,) = complete("The old man", truncate_prompt_tokens=2, echo=True, logprobs=0, max_tokens=1)["choices"]
    assert choice["text"].startswith("The old man")
    *kept, _ = zip(choice["logprobs"]["tokens"], choice["logprobs"]["text_offset"], strict=True)
    assert len(kept) == 2
    for token, offset in kept:
        assert choice["text"][offset:].startswith(token)


@pytest.mark.row("error.too_many_prompts", "error.wrong_type")
@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        (["a", 1], "at place 1 of a list of strings is a number"),
        ([1, "a"], "there is a string at place 1 of a list of token ids"),
        ([[1], 2], "at place 1, there is a number, not a list of token ids"),
        ([[1], [[2]]], "at place 1, there is a list at place 0"),
        ([1, True], "there is true or false at place 1"),
        ([1, -1], "there is -1 at place 1"),
        ([1, 2**31], "there is 2147483648 at place 1"),
        ([1.0], "at its place 0 is a number"),
        ([None], "at its place 0 is null"),
        ({"a": 1}, "not an object"),
        (["a"] * 10_000, "there are 10000 of them; at most 256"),
        ([[1]] * 257, "there are 257 of them; at most 256"),
    ],
)
def test_a_prompt_that_is_none_is_refused_with_its_place(client, prompt, said):
    response = client.post("/v1/completions", json={"prompt": prompt})
    assert response.status_code == 400
    error = response.json()["error"]
    assert said in error["message"]
    assert error["param"] == "prompt"
    assert len(error["message"]) < 300


def test_a_native_prompt_is_one(client):
    response = client.post("/generate", json={"inputs": ["a", "b"]})
    assert response.status_code == 422
    assert "inputs" in response.json()["error"]


@pytest.mark.row("error.token_ids")
@pytest.mark.parametrize(("path", "field"), [("/generate", "inputs"), ("/v1/completions", "prompt")])
def test_ids_beyond_the_vocabulary_are_refused(client, path, field):
    response = client.post(path, json={field: [1, 500]})
    assert response.status_code == (400 if path.startswith("/v1") else 422)
    assert "the prompt has the token id 500, which is outside the vocabulary of 500" in response.text


def test_of_several_prompts_the_one_that_is_too_long_is_named(client):
    response = client.post("/v1/completions", json={"prompt": ["a", "the sea " * 2000]})
    assert response.status_code == 400
    assert "prompt.1 has" in response.json()["error"]["message"]


def test_a_failing_prompt_fails_its_request_and_no_other(stepped_server, in_background, eventually):
    server, runner = stepped_server()
    runner.poisoned_token = 7
    runner.open()
    ill = httpx.post(server.url + "/v1/completions", json={"prompt": [[1, 2], [7]], "max_tokens": 500, "ignore_eos": True})
    assert ill.status_code == 500
    eventually(lambda: server.service.generator.client.num_unfinished == 0)
    assert httpx.post(server.url + "/v1/completions", json={"prompt": [[1, 2], [3]]}).status_code == 200


LONG = "the sea and the old man and " * 30


@pytest.mark.parametrize("fields", [{"echo": True, "logprobs": 1}, {"prompt_logprobs": 1}, {"echo": True, "logprobs": 0, "n": 2}])
def test_streamed_every_prompts_log_probabilities_are_told_however_many_steps_they_take(complete, chunks, fields):
    """More prompts than slots, and longer ones than a step takes: they are not all scored when the first token comes."""
    prompts = [LONG, "a b c", LONG[3:], *(f"one two three {i} four" for i in range(20))]
    whole = complete(prompts, max_tokens=2, temperature=0, **fields)
    events = chunks(prompts, max_tokens=2, temperature=0, **fields)[:-1]
    for choice in whole["choices"]:
        opening, *_ = [part for event in events for part in event["choices"] if part["index"] == choice["index"]]
        if "prompt_logprobs" in fields:
            assert opening["prompt_logprobs"] == choice["prompt_logprobs"]
        else:
            told = opening["logprobs"]["token_logprobs"]
            assert told == choice["logprobs"]["token_logprobs"][: len(told)]
            assert [logprob for logprob in told if logprob is None] == [None], "the first token's alone"


def test_of_several_prompts_the_one_with_an_unknown_id_is_named(client):
    response = client.post("/v1/completions", json={"prompt": [[1], [2, 99_999]]})
    assert response.status_code == 400
    assert "prompt.1 has the token id 99999" in response.json()["error"]["message"]
