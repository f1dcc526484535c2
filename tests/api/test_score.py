"""POST /v1/score: the log-probability of each candidate after a prompt."""

import httpx
import pytest
import torch
from transformers import GPT2LMHeadModel

PROMPT = "The old man looked at"
CANDIDATES = [" the sea", " a stone", "é", ".", " the sea", " nothing at all, and then he went away"]


@pytest.fixture(scope="module")
def server(server_of_each_kind):
    return server_of_each_kind


@pytest.fixture
def score(client):
    def post(prompt=PROMPT, candidates=CANDIDATES, **fields):
        response = client.post("/v1/score", json={"prompt": prompt, "candidates": candidates, **fields})
        assert response.status_code == 200, response.text
        return response.json()

    return post


@pytest.fixture
def ids_of(client):
    return lambda text: [token["id"] for token in client.post("/tokenize", json={"inputs": text}).json()]


@pytest.mark.row("route.score", "score.prompt", "score.candidates", "score.answer")
def test_each_candidate_has_its_tokens_and_their_sum_in_order(score, ids_of):
    answer = score(model="any")
    assert (answer["object"], answer["model"]) == ("list", "tiny-gpt2")
    assert [data["index"] for data in answer["data"]] == list(range(len(CANDIDATES)))
    for data, candidate in zip(answer["data"], CANDIDATES, strict=True):
        assert [token["id"] for token in data["tokens"]] == ids_of(candidate)
        assert "".join(token["text"] for token in data["tokens"]) == candidate
        assert data["num_tokens"] == len(data["tokens"])
        assert data["logprob"] == sum(token["logprob"] for token in data["tokens"])
    num_tokens = len(ids_of(PROMPT)) + sum(data["num_tokens"] for data in answer["data"])
    assert answer["usage"] | {"prompt_tokens_details": None} == {
        "prompt_tokens": num_tokens,
        "completion_tokens": 0,
        "total_tokens": num_tokens,
        "prompt_tokens_details": None,
    }
    assert answer["data"][0] | {"index": 4} == answer["data"][4]


@pytest.mark.row("score.answer")
def test_the_log_probabilities_are_the_references(score, ids_of, tiny_checkpoint):
    model = GPT2LMHeadModel.from_pretrained(tiny_checkpoint).double().eval()
    before = ids_of(PROMPT)
    for data in score()["data"]:
        ids = before + [token["id"] for token in data["tokens"]]
        with torch.inference_mode():
            rows = torch.log_softmax(model(torch.tensor([ids])).logits[0], dim=-1)
        wanted = [float(rows[i - 1, ids[i]]) for i in range(len(before), len(ids))]
        assert [token["logprob"] for token in data["tokens"]] == pytest.approx(wanted, abs=1e-4)


def test_a_score_is_the_log_probabilities_of_generating_the_same_tokens(server, score, generate, ids_of):
    compared = 0
    for seed in range(60):
        answer = generate(PROMPT, max_new_tokens=3, temperature=1.0, seed=seed, ignore_eos=True)
        tokens = answer["details"]["tokens"]
        if ids_of(answer["generated_text"]) != [token["id"] for token in tokens]:
            continue  # its text has shorter tokens
        scored = score(candidates=[answer["generated_text"]])["data"][0]["tokens"]
        wanted = [token["logprob"] for token in tokens]
        exact = server.cuts_freely
        assert [token["logprob"] for token in scored] == (wanted if exact else pytest.approx(wanted, abs=1e-4))
        compared += 1
    assert compared >= 3


def test_a_candidate_scores_alike_alone_and_among_others(score, server):
    together = score(PROMPT * 20)["data"]
    for data, candidate in zip(together, CANDIDATES, strict=True):
        alone = score(PROMPT * 20, [candidate])["data"][0]
        assert alone | {"index": data["index"]} == data


def test_candidates_share_the_prompt(server, score, ids_of):
    prompt = "once upon a time there was " * 30
    before = server.metric("gpt2_prompt_tokens_total")
    answer = score(prompt, [f" {i}" for i in range(8)])
    computed = server.metric("gpt2_prompt_tokens_total") - before
    assert computed <= len(ids_of(prompt)) + 8 * (3 if server.cuts_freely else 128 + 3)
    assert answer["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
    again = score(prompt, [" 0"])
    assert again["usage"]["prompt_tokens_details"]["cached_tokens"] >= len(ids_of(prompt)) // 128 * 128


def test_as_many_candidates_as_are_allowed(score):
    assert len(score(candidates=[chr(97 + i % 26) * (1 + i // 26) for i in range(128)])["data"]) == 128


def test_prompt_and_candidate_may_fill_the_context(client, score):
    prompt = "\x00" * 1000
    assert score(prompt, ["\x00" * 24])["data"][0]["num_tokens"] == 24
    for too_long in ("\x00" * 25, "\x00" * 100_000):
        response = client.post("/v1/score", json={"prompt": prompt, "candidates": ["a", too_long]})
        error = response.json()["error"]
        assert response.status_code == 400
        assert error["param"] == "candidates.1"
        assert "room for 24" in error["message"]
    response = client.post("/v1/score", json={"prompt": "\x00" * 1024, "candidates": ["a"]})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "prompt"


@pytest.mark.row("score.candidates", "score.prompt")
@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"prompt": 5, "candidates": ["a"]}, "prompt"),
        ({"prompt": ["a"], "candidates": ["a"]}, "prompt"),
        ({"prompt": "a"}, "candidates"),
        ({"prompt": "a", "candidates": []}, "candidates"),
        ({"prompt": "a", "candidates": "a"}, "candidates"),
        ({"prompt": "a", "candidates": {"a": 1}}, "candidates"),
        ({"prompt": "a", "candidates": ["a"] * 129}, "candidates"),
        ({"prompt": "a", "candidates": ["a", "b", "c", ""]}, "candidates.3"),
        ({"prompt": "a", "candidates": ["a", None]}, "candidates.1"),
        ({"prompt": "a", "candidates": ["a", 5]}, "candidates.1"),
        ({"prompt": "a", "candidates": ["a"], "model": 5}, "model"),
    ],
)
def test_what_is_wrong_is_named(client, body, field):
    response = client.post("/v1/score", json=body)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == field
    assert field in response.json()["error"]["message"]


def test_all_candidates_are_taken_in_or_none(stepped_server, call, eventually):
    server, runner = stepped_server(max_running=1, max_waiting=1)
    for _ in range(2):
        call(server, "/generate", {"inputs": "a", "parameters": {"max_new_tokens": 2}})
    eventually(lambda: server.service.generator.client.num_unfinished == 2)
    many = {"prompt": "a", "candidates": ["a", "b", "c"]}
    assert httpx.post(server.url + "/v1/score", json=many).status_code == 429
    assert server.service.generator.client.num_unfinished == 2
    runner.open()
    eventually(lambda: server.service.generator.client.num_unfinished == 0)
    response = httpx.post(server.url + "/v1/score", json=many)
    assert response.status_code == 200, "more than slots and queue hold, but they come in as one"
    assert len(response.json()["data"]) == 3


def test_a_client_that_leaves_takes_all_its_candidates_with_it(stepped_server, call, eventually):
    server, runner = stepped_server()
    caller = call(server, "/v1/score", {"prompt": "word " * 100, "candidates": [" a", " b", " c"]})
    eventually(lambda: runner.arrived)
    assert server.service.generator.client.num_unfinished == 3
    caller.leave()
    eventually(lambda: server.service.generator.client.num_unfinished == 0)
    runner.let_through(1)
    eventually(lambda: server.metric("gpt2_slots_used") == 0)
    assert len(runner.arrived) == 1
    eventually(lambda: server.metric("gpt2_requests_total", route="/v1/score", outcome="aborted") == 1)


def test_a_failure_of_one_candidate_is_the_requests(stepped_server):
    server, runner = stepped_server()
    runner.open()
    (runner.poisoned_token,) = (token.id for token in server.service.generator.tokenizer.spans("!"))
    response = httpx.post(server.url + "/v1/score", json={"prompt": "a", "candidates": [" b", "!!", " c"]})
    assert response.status_code == 500
    assert "not a number" in response.json()["error"]["message"]
    assert server.service.generator.client.num_unfinished == 0


def test_a_prompt_to_score_after_is_read_as_any_other(client):
    wanted = {"prompt": "a<|endoftext|>", "candidates": ["b"]}
    tokens = client.post("/v1/score", json=wanted).json()["usage"]["prompt_tokens"]
    plain = client.post("/v1/score", json={**wanted, "parse_special": False}).json()["usage"]["prompt_tokens"]
    assert (tokens, plain > 3) == (3, True)


def test_a_prompt_to_score_after_may_be_token_ids_or_nothing(client, server):
    ids = [token["id"] for token in client.post("/tokenize", json={"inputs": "The old"}).json()]
    by_ids, by_text = (
        client.post("/v1/score", json={"prompt": prompt, "candidates": [" man"]}).json() for prompt in (ids, "The old")
    )
    assert by_ids["data"] == by_text["data"]
    end = [server.service.generator.eos_token_ids[0]]
    for body in ({}, {"prompt": ""}, {"prompt": []}):
        assert (
            client.post("/v1/score", json={**body, "candidates": ["a"]}).json()["data"]
            == (client.post("/v1/score", json={"prompt": end, "candidates": ["a"]}).json()["data"])
        )
