"""What /v1/inspect refuses, and how it says so: the field, the value, the limit, the nearest known name."""

import httpx
import pytest

PATH = "/v1/inspect"
BODY = {"prompt": "The old man"}
L, H, T = 2, 4, 1024  # of the tiny checkpoint: layers, heads, context


@pytest.fixture
def refusal(client):
    """The error of a request that is refused with 400."""

    def post(**fields):
        response = client.post(PATH, json=BODY | fields)
        assert response.status_code == 400, response.text
        return response.json()["error"]

    return post


def ablation(kind, **fields):
    return {"ablations": [{"kind": "mlp"}, {"kind": kind, **fields}]}


PATCH = {"name": "blocks.0.hook_resid_pre"}
BAD = {
    "an unknown name": ({"names": ["blocks.0.hook_resid_prr"]}, "names[0]", "'blocks.0.hook_resid_pre'"),
    "a layer that is not there, in a name": ({"names": ["hook_embed", "blocks.2.hook_resid_pre"]}, "names[1]", "layers 0 to 1"),
    "a pattern that fits nothing": ({"names": ["blocks.*.hook_nothing"]}, "names[0]", "blocks.*.hook_nothing"),
    "an unknown summary": ({"summaries": ["norm"]}, "summaries[0]", "norms"),
    "a position out of range": ({"positions": [0, 500]}, "positions[1]", "500"),
    "a position that is no integer": ({"positions": ["a"]}, "positions[0]", "input should be an integer"),
    "a layer that is no integer": (ablation("head", layer=[0, "a"]), "ablations[1].layer[1]", "input should be an integer"),
    "no positions": ({"positions": []}, "positions", "at least 1 item"),
    "a target out of range": ({"target_position": -500}, "target_position", "-500"),
    "a target of several tokens": ({"target_token": "an old man"}, "target_token", "tokens"),
    "a target outside of the vocabulary": ({"target_token": 500}, "target_token", "499"),
    "a target that is neither": ({"target_token": 1.5}, "target_token", "1.5"),
    "too many of the likeliest": ({"top_n": 21}, "top_n", "less than or equal to 20"),
    "too long a continuation": ({"max_new_tokens": 65}, "max_new_tokens", "less than or equal to 64"),
    "another format": ({"format": "npz"}, "format", "'json' or 'safetensors'"),
    "an unknown field": ({"name": ["hook_embed"]}, "name", "did you mean names?"),
    "a token id outside of the vocabulary": ({"prompt": [1, 500]}, "prompt", "499"),
    "too long a text": ({"prompt": "word " * 3000}, "prompt", str(T)),
    "too long a list of ids": ({"prompt": [1] * (T + 1)}, "prompt", str(T)),
    "no text": ({"prompt": 5}, "prompt", "it is a string or a list of token ids"),
    "too many ablations": ({"ablations": [{"kind": "mlp"}] * 33}, "ablations", "at most 32"),
    "an ablation without a kind": ({"ablations": [{"layer": 0}]}, "ablations[0].kind", "no_residual"),
    "an unknown kind": (ablation("heads"), "ablations[1].kind", 'did you mean head?'),
    "an unknown field of an ablation": (ablation("head", heads=[1]), "ablations[1].heads", "did you mean head?"),
    "an ablation that is no object": ({"ablations": ["head"]}, "ablations[0]", "an object"),
    "a missing field of an ablation": (ablation("no_residual"), "ablations[1].branch", "required"),
    "a layer out of range": (ablation("head", layer=[0, L]), "ablations[1].layer[1]", "from 0 to 1"),
    "a head out of range": (ablation("head", head=H), "ablations[1].head", "from 0 to 3"),
    "a layer of the last LayerNorm": (
        ablation("layer_norm", name="ln_final", mode="identity", layer=0), "ablations[1].layer", "ln_final",
    ),
    "another mode": (ablation("mlp", mode="median"), "ablations[1].mode", "'zero' or 'mean'"),
    "a window of none": (ablation("attention_window", size=0), "ablations[1].size", "greater than or equal to 1"),
    "a position of no token": (ablation("attention_position", position=500), "ablations[1].position", "500"),
    "a patch of another shape": (ablation("patch", **PATCH, values=[[1.0]]), "ablations[1].values", "[1, 1]"),
    "a patch of nothing": (ablation("patch", **PATCH), "ablations[1].values", "one of prompt, values"),
    "a patch of no numbers": (ablation("patch", **PATCH, values=[["a"]]), "ablations[1].values", "among its numbers is a string"),
    "too long a text of a patch": (ablation("patch", **PATCH, prompt="word " * 3000), "ablations[1].prompt", str(T)),
    "an unknown name of a patch": (ablation("patch", name="hook_embet", prompt="a"), "ablations[1].name", "'hook_embed'"),
    "a direction of another length": (
        ablation("steer", name="blocks.0.hook_resid_pre", direction=[1.0]), "ablations[1].direction", "[100]",
    ),
    "half a direction": (ablation("steer", name="blocks.0.hook_resid_pre", plus="a"), "ablations[1].minus", "both"),
    "a direction of several tokens": (
        ablation("steer", name="blocks.0.hook_resid_pre", token="an old man"), "ablations[1].token", "tokens",
    ),
}  # fmt: skip


@pytest.mark.row("inspect.bad_input", "error.message")
@pytest.mark.parametrize(("fields", "field", "said"), BAD.values(), ids=BAD)
def test_the_field_is_named_with_value_and_limit(refusal, fields, field, said):
    error = refusal(**fields)
    assert error["param"] == field
    assert error["message"].startswith(f"{field}: ")
    assert said in error["message"]


@pytest.mark.row("inspect.too_large")
def test_an_answer_that_would_be_too_large_is_refused_before_it_is_computed(client, refusal):
    asked = {"prompt": [1] * T, "names": ["blocks.*.attn.hook_pattern", "blocks.*.attn.hook_attn_scores"]}
    asked |= {"summaries": [], "max_new_tokens": 0}
    error = refusal(**asked)
    assert error["param"] == "names"
    assert f"{8 * L * H * T * T:,} bytes" in error["message"]
    assert f"{32 << 20:,}" in error["message"]
    estimate = client.post(PATH, json=BODY | asked | {"estimate": True}).json()
    assert (estimate["bytes"], estimate["limit_bytes"]) == (8 * L * H * T * T, 32 << 20)


def test_a_body_without_a_prompt_is_refused(client):
    response = client.post(PATH, json={"names": []})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "prompt"


@pytest.mark.row("inspect.off")
def test_where_it_is_off_the_answer_says_how_to_turn_it_on(start_server):
    server = start_server(inspect=False)
    for body in ({"prompt": "a"}, {"what": "ever"}):
        response = httpx.post(server.url + PATH, json=body)
        assert response.status_code == 404
        assert "GPT2_INSPECT=on" in response.json()["error"]["message"]
    assert httpx.get(server.url + "/info").json()["inspect"] is False


@pytest.mark.row("inspect.off")
def test_without_pytorch_the_answer_says_where_it_is(start_server, monkeypatch):
    monkeypatch.setattr("app.bootstrap.has_torch", lambda: False)
    server = start_server()
    response = httpx.post(server.url + PATH, json=BODY)
    assert response.status_code == 404
    assert "gpt2-service:cpu" in response.json()["error"]["message"]
    assert httpx.get(server.url + "/info").json()["inspect"] is False


def test_it_needs_a_key_where_there_are_keys(start_server):
    server = start_server(api_keys="somebody:a-long-key-for-these-tests")
    key = {"authorization": "Bearer a-long-key-for-these-tests"}
    assert httpx.post(server.url + PATH, json=BODY).status_code == 401
    assert httpx.post(server.url + PATH, json=BODY | {"estimate": True}, headers=key).status_code == 200


@pytest.mark.row("inspect.timeout_seconds")
def test_no_more_time_is_given_than_the_service_gives(start_server):
    server = start_server(max_timeout_seconds=5)
    response = httpx.post(server.url + PATH, json=BODY | {"timeout_seconds": 6, "estimate": True})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "timeout_seconds"


@pytest.mark.row("inspect.compare_served")
def test_while_the_engine_has_no_room_only_the_comparison_with_it_is_refused(stepped_server, in_background, eventually):
    server, runner = stepped_server(max_running=1, max_waiting=0)
    running = in_background(server, "/generate", {"inputs": "a", "parameters": {"max_new_tokens": 2}})
    eventually(lambda: runner.arrived)
    refused = httpx.post(server.url + PATH, json=BODY)
    assert refused.status_code == 429
    assert "samples wait already" in refused.json()["error"]["message"]
    assert httpx.post(server.url + PATH, json=BODY | {"compare_served": False}, timeout=120).status_code == 200
    runner.open()
    assert running.response.status_code == 200
