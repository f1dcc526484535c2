"""POST /generate and POST /: what a request gets, and what each parameter does."""

import json
import math
import re
import shutil

import httpx
import pytest

NOT_YET = {
    "watermark": True,
    "grammar": {"type": "json", "value": "{}"},
    "adapter_id": "mine",
}
NEUTRAL = {
    "n": 1,
    "best_of": 0,
    "top_k": 0,
    "top_n_tokens": 0,
    "decoder_input_details": False,
    "watermark": False,
    "do_sample": False,
    "return_full_text": False,
    "details": False,
    "ignore_eos": False,
    "temperature": 0,
    "top_p": 1,
    "typical_p": 1,
    "min_p": 0,
    "repetition_penalty": 1,
    "frequency_penalty": 0,
    "presence_penalty": 0,
    "min_new_tokens": 0,
    "logit_bias": {},
    "stop": [],
    "stop_token_ids": [],
}
ALL_PARAMETERS = (*NEUTRAL, "truncate", "timeout_seconds", "grammar", "adapter_id", "max_new_tokens", "seed")


def ids(answer):
    return [token["id"] for token in answer["details"]["tokens"]]


@pytest.mark.row("route.generate", "generate.inputs", "generate.max_new_tokens", "generate.generated_text")
def test_a_prompt_alone_gets_twenty_tokens_of_text(client):
    response = client.post("/generate", json={"inputs": "The old man"})
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    assert list(response.json()) == ["generated_text"]
    assert response.headers["x-generated-tokens"] == "20"


@pytest.mark.row("generate.prompt")
def test_prompt_is_another_name_of_inputs(client):
    answers = [client.post("/generate", json={name: "The old man"}).json() for name in ("inputs", "prompt")]
    assert answers[0] == answers[1]


@pytest.mark.row("route.root")
def test_the_compat_route_answers_with_a_list_of_one(client):
    body = {"inputs": "The old man", "parameters": {"max_new_tokens": 5}}
    assert client.post("/", json=body).json() == [client.post("/generate", json=body).json()]


@pytest.mark.row("generate.details", "generate.generated_tokens", "generate.tokens")
def test_details_tell_every_token(generate):
    answer = generate(max_new_tokens=7, seed=5)
    details = answer["details"]
    assert details | {"tokens": []} == {
        "finish_reason": "length",
        "generated_tokens": 7,
        "input_length": details["input_length"],
        "seed": 5,
        "prefill": [],
        "tokens": [],
    }
    assert len(details["tokens"]) == 7
    assert all(set(token) == {"id", "text", "logprob", "special"} for token in details["tokens"])
    assert all(math.isfinite(token["logprob"]) and token["logprob"] <= 0 for token in details["tokens"])
    assert "".join(token["text"] for token in details["tokens"]) == answer["generated_text"]


@pytest.mark.row(
    "header.seed",
    "header.prompt_tokens",
    "header.generated_tokens",
    "header.total_time",
    "header.queue_time",
    "header.inference_time",
    "header.time_per_token",
    "generate.input_length",
)
def test_headers_tell_the_seed_the_tokens_and_the_times(client):
    response = client.post("/generate", json={"inputs": "The old man", "parameters": {"seed": 3, "max_new_tokens": 4}})
    headers = response.headers
    assert (headers["x-seed"], headers["x-generated-tokens"]) == ("3", "4")
    assert int(headers["x-prompt-tokens"]) == len(client.post("/tokenize", json={"inputs": "The old man"}).json())
    times = [float(headers[name]) for name in ("x-total-time", "x-queue-time", "x-inference-time", "x-time-per-token")]
    assert min(times) >= 0
    assert times[0] == pytest.approx(times[1] + times[2], abs=0.002)


@pytest.mark.row("generate.do_sample", "generate.temperature_zero")
def test_the_likeliest_tokens_are_taken_unless_sampling_is_asked_for(generate):
    assert ids(generate(seed=1)) == ids(generate(seed=2)) == ids(generate(temperature=0)) == ids(generate(top_k=1))
    assert ids(generate(do_sample=True, seed=1)) != ids(generate())


@pytest.mark.row("generate.do_sample", "generate.temperature")
@pytest.mark.parametrize("field", [{"temperature": 1.0}, {"top_k": 400}, {"top_p": 0.99}, {"typical_p": 0.99}, {"min_p": 1e-6}])
def test_a_sampling_field_implies_sampling(generate, field):
    assert ids(generate(**field, seed=1)) != ids(generate(**field, seed=2))


@pytest.mark.row("generate.do_sample_false")
@pytest.mark.parametrize("field", [{"temperature": 0.7}, {"top_k": 4}, {"top_p": 0.9}, {"typical_p": 0.9}, {"min_p": 0.1}])
def test_do_sample_false_counts_as_absent_beside_a_sampling_field(generate, field):
    """HuggingFaceEndpoint of langchain_huggingface sends all of them at once."""
    assert generate(do_sample=False, **field, seed=1) == generate(**field, seed=1)


@pytest.mark.row("generate.do_sample_false")
def test_do_sample_false_alone_takes_the_likeliest_tokens(generate):
    assert ids(generate(do_sample=False, seed=1)) == ids(generate(temperature=0))


@pytest.mark.row("generate.seed")
@pytest.mark.parametrize("seed", [0, 1, 2**53, 2**64 - 1])
def test_the_same_seed_gives_the_same_answer(generate, seed):
    first, second = (generate(temperature=1.0, seed=seed) for _ in range(2))
    assert first == second
    assert first["details"]["seed"] == seed


@pytest.mark.row("generate.seed", "header.seed")
def test_a_drawn_seed_is_returned_and_gives_the_same_answer_again(client, generate):
    response = client.post("/generate", json={"inputs": "The old man", "parameters": {"do_sample": True, "details": True}})
    seed = response.json()["details"]["seed"]
    assert response.headers["x-seed"] == str(seed)
    assert seed < 2**53, "JavaScript could not read it"
    assert generate(do_sample=True, seed=seed) == response.json()


@pytest.mark.row("generate.context_clamp")
def test_max_new_tokens_is_cut_to_what_the_context_leaves_and_says_so(generate, client):
    prompt = "a b c d e f g h " * 60
    num_prompt = len(client.post("/tokenize", json={"inputs": prompt}).json())
    details = generate(prompt, max_new_tokens=10**6, ignore_eos=True)["details"]
    assert details["generated_tokens"] == details["max_new_tokens"] == 1024 - num_prompt
    assert details["finish_reason"] == "length"
    assert "max_new_tokens" not in generate(max_new_tokens=3)["details"]


def test_a_cut_of_the_default_length_is_told_too(generate, client):
    prompt = "a" * 1015
    num_prompt = len(client.post("/tokenize", json={"inputs": prompt}).json())
    assert 1004 < num_prompt < 1024
    assert generate(prompt, ignore_eos=True)["details"]["max_new_tokens"] == 1024 - num_prompt


@pytest.mark.row("tokens.end")
def test_the_end_token_is_the_one_that_the_checkpoint_names(start_server, tiny_checkpoint, tmp_path):
    directory = shutil.copytree(tiny_checkpoint, tmp_path / "renamed")
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(config | {"eos_token_id": 42}))
    server = start_server(model=str(directory))
    body = {"inputs": "a", "parameters": {"logit_bias": {"42": 100}, "details": True}}
    details = httpx.post(server.url + "/generate", json=body, timeout=60).json()["details"]
    assert (details["finish_reason"], details["generated_tokens"]) == ("eos_token", 1)


@pytest.mark.row("generate.stop_token_ids")
def test_a_stop_token_id_ends_the_text_and_is_not_part_of_it(generate):
    free = generate(max_new_tokens=8)
    wanted = ids(free)[5]
    stopped = generate(max_new_tokens=8, stop_token_ids=[wanted])
    first = ids(free).index(wanted)
    assert ids(stopped) == ids(free)[: first + 1]
    assert stopped["details"]["finish_reason"] == "stop_sequence"
    assert stopped["generated_text"] == "".join(t["text"] for t in free["details"]["tokens"][:first])


@pytest.mark.row("generate.ignore_eos", "generate.min_new_tokens", "generate.finish_reason", "tokens.special_output")
def test_the_end_token_ends_the_text_unless_it_is_ignored(generate):
    favoured = {"logit_bias": {"499": 100}, "max_new_tokens": 6}
    ended = generate(**favoured)
    assert ended["details"]["finish_reason"] == "eos_token"
    assert ended["details"]["tokens"][-1] == {
        "id": 499,
        "text": "",
        "logprob": ended["details"]["tokens"][-1]["logprob"],
        "special": True,
    }
    assert ended["generated_text"] == ""
    assert generate(**favoured, ignore_eos=True)["details"]["generated_tokens"] == 6
    at_least = generate(**favoured, min_new_tokens=4)["details"]
    assert (at_least["generated_tokens"], at_least["finish_reason"]) == (5, "eos_token")


@pytest.mark.row("generate.min_new_tokens")
def test_stop_token_ids_wait_for_min_new_tokens(generate):
    likeliest = ids(generate(max_new_tokens=1))[0]
    answer = generate(max_new_tokens=6, min_new_tokens=3, stop_token_ids=[likeliest])
    assert likeliest not in ids(answer)[:3]


@pytest.mark.row("generate.stop", "generate.finish_reason", "stream.stop_strings")
@pytest.mark.parametrize("length", [1, 2, 3, 7])
def test_a_stop_string_is_cut_off_wherever_it_stands(generate, length):
    text = generate(max_new_tokens=30)["generated_text"]
    for start in range(0, len(text) - length, 4):
        stop = text[start : start + length]
        answer = generate(max_new_tokens=30, stop=[stop])
        assert answer["generated_text"] == text[: text.index(stop)]
        assert answer["details"]["finish_reason"] == "stop_sequence"


def test_a_stop_string_that_never_comes_takes_nothing_away(generate):
    free = generate(max_new_tokens=30)
    text = free["generated_text"]
    begun = generate(max_new_tokens=30, stop=[text[-3:] + "\x00never", "\x01"])
    assert begun["generated_text"] == text
    assert begun["details"]["finish_reason"] == "length"
    assert ids(begun) == ids(free)


@pytest.mark.row("generate.logit_bias")
def test_logit_bias_forbids_and_forces_tokens(generate):
    free = ids(generate(max_new_tokens=5))
    assert free[0] not in ids(generate(max_new_tokens=5, logit_bias={str(free[0]): -100}))
    assert set(ids(generate(max_new_tokens=5, logit_bias={"42": 100}))) == {42}


@pytest.mark.row("generate.repetition_penalty", "generate.frequency_penalty", "generate.presence_penalty")
@pytest.mark.parametrize("penalty", [{"repetition_penalty": 1000.0}, {"frequency_penalty": 2.0}, {"presence_penalty": 2.0}])
def test_penalties_make_repeated_tokens_rarer(generate, penalty):
    boring = {"logit_bias": {"42": 5, "43": 5}, "max_new_tokens": 100, "temperature": 1.0, "seed": 1}
    assert len(set(ids(generate(**boring, **penalty)))) > len(set(ids(generate(**boring))))


@pytest.mark.row("generate.tokens")
def test_log_probabilities_are_the_models_own_whatever_the_sampling(generate):
    """A token that is drawn with certainty keeps the log-probability that the model gave it."""
    free = generate(max_new_tokens=1)["details"]["tokens"][0]
    sampled = generate(max_new_tokens=1, temperature=0.01, repetition_penalty=1.3, top_p=0.5, logit_bias={str(free["id"]): 50})
    assert sampled["details"]["tokens"][0]["logprob"] == free["logprob"]


@pytest.mark.row("generate.return_full_text")
def test_the_full_text_begins_with_the_prompt(generate):
    answer, full = generate(max_new_tokens=5), generate(max_new_tokens=5, return_full_text=True)
    assert full["generated_text"] == "The old man" + answer["generated_text"]


@pytest.mark.row("generate.null_and_neutral")
@pytest.mark.parametrize("name", ALL_PARAMETERS)
def test_null_is_accepted_for_every_parameter(generate, name):
    assert generate(**{"max_new_tokens": 2, name: None})


@pytest.mark.row("generate.null_and_neutral")
@pytest.mark.parametrize("name", NEUTRAL)
def test_the_neutral_value_of_every_parameter_changes_nothing(client, name):
    body = {"inputs": "The old man", "parameters": {"max_new_tokens": 4}}
    plain = client.post("/generate", json=body)
    neutral = client.post("/generate", json={**body, "parameters": {"max_new_tokens": 4, name: NEUTRAL[name]}})
    assert neutral.status_code == 200, neutral.text
    assert neutral.json() == plain.json()


def test_null_is_accepted_for_parameters_and_stream(client):
    assert client.post("/generate", json={"inputs": "a", "prompt": None, "parameters": None, "stream": None}).status_code == 200


@pytest.mark.row("generate.watermark", "generate.grammar", "generate.adapter_id")
@pytest.mark.parametrize("name", NOT_YET)
def test_what_is_not_there_yet_is_refused_by_name(client, name):
    response = client.post("/generate", json={"inputs": "a", "parameters": {name: NOT_YET[name]}})
    assert response.status_code == 422
    assert response.json()["error_type"] == "validation"
    assert name in response.json()["error"]
    assert "not support" in response.json()["error"]
    assert re.search(r"send (null|false), not", response.json()["error"]), "the neutral value, as JSON has it"


def test_a_special_token_in_a_prompt_is_one_unless_it_is_to_be_plain_text(generate):
    assert generate("<|endoftext|>", max_new_tokens=2)["details"]["input_length"] == 1
    assert generate("<|endoftext|>", max_new_tokens=2, parse_special=False)["details"]["input_length"] > 1


@pytest.mark.parametrize("prompt", ["\x00", "a\x00b", "é日本語🎉", "\r\n\t ", " ", "\u202e\ufeff"])
def test_any_text_is_a_prompt(generate, prompt):
    answer = generate(prompt, max_new_tokens=3, return_full_text=True)
    assert answer["generated_text"].startswith(prompt)


@pytest.mark.row("generate.prompt_limit")
def test_a_prompt_may_fill_the_context_but_for_one_token(generate, client):
    prompt = "x" * 5000
    while (n := len(client.post("/tokenize", json={"inputs": prompt}).json())) > 1023:
        prompt = prompt[: -max((n - 1023) // 2, 1)]
    prompt += "\x00" * (1023 - n)
    assert generate(prompt)["details"]["generated_tokens"] == 1
    response = client.post("/generate", json={"inputs": prompt + "\x00"})
    assert response.status_code == 422
    assert "1024 tokens" in response.json()["error"]
    assert "1023" in response.json()["error"]


@pytest.mark.row("http.authorization")
def test_a_key_that_a_client_sends_is_passed_over(client):
    body = {"inputs": "a", "parameters": {"max_new_tokens": 1}}
    keys = [{}, {"authorization": "Bearer sk-any"}, {"authorization": "Basic é".encode()}, {"x-api-key": "any"}]
    answers = [client.post("/generate", json=body, headers=key) for key in keys]
    assert [answer.status_code for answer in answers] == [200] * len(keys)
