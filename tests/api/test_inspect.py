"""POST /v1/inspect: the answers are the inspector's own, whatever is asked for, and the served ones those of the engine."""

import json
import math
from dataclasses import replace

import httpx
import pytest
import safetensors.torch
import torch

from model.inspection.request import InspectionRequest, MLPAblation
from tests.api.inspections import PATH, STREAM, TEXT, alike, ids_of, inspect, inspector, own_answer, tokenizer, without_measurements

__all__ = ["ids_of", "inspect", "inspector", "own_answer", "tokenizer"]  # fixtures


ASKED = {
    "as it comes": ({}, {}),
    "activations": ({"names": ["hook_embed", "blocks.*.attn.hook_attn_scores"]},) * 2,
    "positions": ({"names": ["blocks.0.attn.hook_pattern"], "positions": [0, -1]},) * 2,
    "summaries": ({"summaries": ["norms", "layer_norm_order"]},) * 2,
    "no summaries": ({"summaries": []},) * 2,
    "more of the likeliest": ({"top_n": 20},) * 2,
    "another target": ({"target_position": 2, "target_token": 7},) * 2,
    "no continuation": ({"max_new_tokens": 0},) * 2,
}


@pytest.mark.row(
    "route.inspect", "inspect.names", "inspect.positions", "inspect.summaries", "inspect.top_n", "inspect.target",
    "inspect.max_new_tokens", "inspect.run", "inspect.activations", "inspect.norms", "inspect.layer_norms", "inspect.attention",
    "inspect.lens", "inspect.entropy", "inspect.attribution", "inspect.prompt_attribution", "inspect.layer_norm_order",
)  # fmt: skip
@pytest.mark.parametrize(("fields", "request_fields"), ASKED.values(), ids=ASKED)
def test_the_answer_is_the_inspectors_own(inspect, own_answer, fields, request_fields):
    own = own_answer(**{name: tuple(value) if isinstance(value, list) else value for name, value in request_fields.items()})
    assert own["run"]["loss"] > 0
    assert alike(without_measurements(inspect(**fields)), without_measurements(own))


@pytest.mark.row("inspect.prompt")
def test_ids_are_their_text_and_nothing_is_an_end_token(inspect, ids_of):
    assert without_measurements(inspect(list(ids_of(TEXT)))) == without_measurements(inspect(TEXT))
    nothing = inspect("")
    assert [token["id"] for token in nothing["tokens"]] == [499]
    assert nothing["run"]["loss"] is None
    assert nothing["served"]["logprobs"] == [None]


@pytest.mark.row("inspect.prompt", "tokens.parse_special")
def test_special_tokens_in_a_text_are_tokens_unless_they_are_not_to_be(inspect):
    text = "a<|endoftext|>"
    assert inspect(text)["tokens"][-1] == {"id": 499, "text": "<|endoftext|>", "special": True}
    assert 499 not in [token["id"] for token in inspect(text, parse_special=False)["tokens"]]


@pytest.mark.row("inspect.max_new_tokens")
def test_a_prompt_that_fills_the_context_is_not_continued(inspect):
    answer = inspect([5] * 1024, summaries=["norms"], positions=[-1], max_new_tokens=64)
    assert answer["run"]["continuation"] is None
    assert answer["served"]["next"] == []
    assert len(answer["served"]["logprobs"]) == len(answer["run"]["logprobs"]) == 1024
    almost = inspect([5] * 1022, summaries=[], max_new_tokens=64)
    assert len(almost["run"]["continuation"]["tokens"]) <= 2


@pytest.mark.row("inspect.target")
def test_a_target_may_be_named_by_its_text(inspect, ids_of):
    by_text, by_id = (
        inspect(target_token=token, summaries=["attribution"])["run"]["summaries"]["attribution"]["token"]
        for token in ("e", ids_of("e")[0])
    )
    assert by_text == by_id == {"id": ids_of("e")[0], "text": "e"}


@pytest.mark.row("inspect.served", "inspect.compare_served")
@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_the_served_numbers_are_those_that_completions_tell(start_server, ids_of, dtype):
    server = start_server(dtype=dtype)
    body = {"prompt": TEXT, "max_tokens": 1, "temperature": 0, "logprobs": 5, "prompt_logprobs": 0}
    (choice,) = httpx.post(server.url + "/v1/completions", json=body).json()["choices"]
    ids = ids_of(TEXT)
    told = [entry[str(token)]["logprob"] for entry, token in zip(choice["prompt_logprobs"][1:], ids[1:], strict=True)]
    answer = httpx.post(server.url + PATH, json={"prompt": TEXT}, timeout=120).json()
    served, run = answer["served"], answer["run"]
    assert served["dtype"] == dtype
    assert served["logprobs"] == [None, *told]
    assert served["loss"] == pytest.approx(-sum(told) / len(told))
    differences = [abs(a - b) for a, b in zip(told, run["logprobs"][1:], strict=True)]
    assert served["max_difference"] == pytest.approx(max(differences), abs=1e-6)
    assert served["mean_difference"] == pytest.approx(sum(differences) / len(differences), abs=1e-6)
    assert max(differences) < (1e-3 if dtype == "float32" else 1)
    assert [token["logprob"] for token in served["next"]] == list(choice["logprobs"]["top_logprobs"][0].values())
    assert httpx.post(server.url + PATH, json={"prompt": TEXT, "compare_served": False}).json()["served"] is None


@pytest.mark.row("inspect.usage")
def test_usage_counts_the_prompt_and_both_continuations(inspect, ids_of):
    answer = inspect(ablations=[{"kind": "mlp"}], max_new_tokens=3)
    num_new = sum(len(answer[run]["continuation"]["tokens"]) for run in ("run", "ablated"))
    num_prompt = len(ids_of(TEXT))
    assert answer["usage"] == {
        "prompt_tokens": num_prompt,
        "completion_tokens": num_new,
        "total_tokens": num_prompt + num_new,
    }
    assert answer["seconds"] > 0


@pytest.mark.row("inspect.estimate")
def test_the_estimate_is_the_size_of_what_is_sent_then(inspect, ids_of):
    asked = {"names": ["blocks.*.attn.hook_z", "hook_embed"], "positions": [0, 1], "ablations": [{"kind": "mlp"}]}
    estimate, answer = inspect(estimate=True, **asked), inspect(**asked)
    assert estimate["object"] == "inspection.estimate"
    sent = {name: activation["shape"] for name, activation in answer["run"]["activations"].items()}
    assert {name: size["shape"] for name, size in estimate["activations"].items()} == sent
    assert {name: size["bytes"] for name, size in estimate["activations"].items()} == {
        name: 4 * math.prod(shape) for name, shape in sent.items()
    }
    of_a_run = sum(size["bytes"] for size in estimate["activations"].values()) + estimate["summaries"]["bytes"]
    assert estimate["bytes"] == 2 * of_a_run, "in both runs"
    without = inspect(estimate=True, summaries=[], **asked)
    assert without["summaries"] == {"bytes": 0}
    assert without["bytes"] == estimate["bytes"] - 2 * estimate["summaries"]["bytes"]
    assert estimate["limit_bytes"] == 32 << 20


@pytest.mark.row("inspect.format")
def test_safetensors_have_the_tensors_and_all_else_as_metadata(client, inspect, inspector, ids_of):
    asked = {"prompt": TEXT, "names": ["blocks.0.attn.hook_attn_scores", STREAM], "ablations": [{"kind": "mlp", "layer": 0}]}
    response = client.post(PATH, json=asked | {"format": "safetensors"})
    assert response.headers["content-type"] == "application/octet-stream"
    tensors = safetensors.torch.load(response.content)
    request = InspectionRequest(ids_of(TEXT), names=tuple(asked["names"]))
    own = inspector.inspect(request).run.activations
    changed = inspector.inspect(replace(request, ablations=(MLPAblation(0),))).ablated.activations
    assert tensors.keys() == own.keys() | {f"ablated.{name}" for name in changed}
    for name in own:
        torch.testing.assert_close(tensors[name], own[name])
        torch.testing.assert_close(tensors[f"ablated.{name}"], changed[name])
    assert torch.isneginf(tensors["blocks.0.attn.hook_attn_scores"][:, 0, 1]).all()
    header_size = int.from_bytes(response.content[:8], "little")
    metadata = json.loads(response.content[8 : 8 + header_size])["__metadata__"]
    as_json = inspect(**asked)
    for run in ("run", "ablated"):
        as_json[run]["activations"] = {}
    assert alike(without_measurements(json.loads(metadata["inspection"])), without_measurements(as_json))


def test_a_large_answer_comes_whole(client):
    body = {
        "prompt": [5] * 512,
        "names": ["blocks.*.attn.hook_pattern"],
        "summaries": [],
        "max_new_tokens": 0,
        "compare_served": False,
    }
    response = client.post(PATH, json=body)
    assert int(response.headers["content-length"]) == len(response.content) > 4_000_000
    pattern = torch.tensor(response.json()["run"]["activations"]["blocks.1.attn.hook_pattern"]["data"])
    assert pattern.shape == (4, 512, 512)
    torch.testing.assert_close(pattern.sum(-1), torch.ones(4, 512))


def test_null_stands_for_the_default_of_any_field(inspect):
    names = (
        "names", "positions", "summaries", "top_n", "target_position", "target_token", "ablations", "max_new_tokens",
        "compare_served", "format", "estimate", "parse_special", "add_special_tokens", "timeout_seconds", "model",
    )  # fmt: skip
    assert without_measurements(inspect(**dict.fromkeys(names))) == without_measurements(inspect())


def test_requests_are_counted_and_the_page_can_tell_that_they_are_taken(client, server, inspect):
    counted = server.metric("gpt2_requests_total", route=PATH, outcome="completed")
    measured = server.metric("gpt2_inspection_seconds_count")
    inspect()
    assert server.metric("gpt2_requests_total", route=PATH, outcome="completed") == counted + 1
    assert server.metric("gpt2_inspection_seconds_count") == measured + 1
    assert client.get("/info").json()["inspect"] is True


@pytest.fixture(scope="module")
def server_of_words(words_checkpoint):
    from app.settings import Settings
    from tests.conftest import running_server

    with running_server(Settings(model=str(words_checkpoint), port=0, device="cpu", _env_file=None)) as running:
        yield running


def test_a_vocabulary_of_words_is_read_as_everywhere(server_of_words):
    answer = httpx.post(server_of_words.url + PATH, json={"prompt": "the old 你"}, timeout=120).json()
    spans = httpx.post(server_of_words.url + "/tokenize", json={"inputs": "the old 你"}).json()
    assert [token["id"] for token in answer["tokens"]] == [span["id"] for span in spans]
