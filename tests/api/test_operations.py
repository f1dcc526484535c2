"""Health, facts, the tokenizer, the documentation, CORS and what every answer carries."""

import re
import shutil

import httpx
import pytest
from safetensors.numpy import load_file, save_file

from model.batch import RunnerLost

NATIVE_ERROR = {"error", "error_type"}


@pytest.mark.row("route.health", "route.health_live", "route.health_ready", "route.health_startup")
def test_a_ready_server_says_so(client):
    for path in ("/health", "/health/live", "/health/ready", "/health/startup"):
        response = client.get(path)
        assert (response.status_code, response.text) == (200, "ok"), path


@pytest.mark.row("route.health_live")
def test_probes_answer_while_the_engine_is_busy(stepped_server, in_background, eventually):
    server, runner = stepped_server()
    waiting = in_background(server, "/generate", {"inputs": "a", "parameters": {"max_new_tokens": 1}})
    eventually(lambda: runner.arrived)
    for path in ("/health/live", "/health/ready", "/metrics", "/info"):
        assert httpx.get(server.url + path).status_code == 200
    runner.open()
    assert waiting.response.status_code == 200


class LostRunner:
    """The real runner until it is to run something."""

    def __init__(self, runner):
        self._runner = runner

    def __getattr__(self, name):
        return getattr(self._runner, name)

    def launch(self, batch):
        raise RunnerLost("an illegal memory access")


@pytest.mark.row("route.health_ready", "error.not_ready")
def test_a_dead_engine_is_not_ready_and_says_why(start_server, monkeypatch):
    monkeypatch.setattr("app.server.LOST_SECONDS", 600)  # in which a service that cannot go on still answers
    server = start_server(runner=LostRunner)
    for _ in range(2):
        response = httpx.post(server.url + "/generate", json={"inputs": "a"})
        assert response.status_code == 503
        assert response.json()["error_type"] == "not_ready"
        assert "an illegal memory access" in response.json()["error"]
        assert int(response.headers["retry-after"]) >= 1
    assert httpx.get(server.url + "/health/ready").status_code == 503
    assert httpx.get(server.url + "/health/live").status_code == 200


@pytest.mark.row("route.info")
def test_info_tells_the_model_and_the_limits(client):
    info = client.get("/info").json()
    assert (info["dtype"], info["backend"]) in [("int8", "native"), ("float32", "torch")]
    assert info["arithmetic"] == ("int8" if info["backend"] == "native" else "torch-float32")
    assert info["kernels"] in ("amx", "avx512", "avx2", "neon", "scalar", "torch")
    assert {
        "model_id": "tiny-gpt2",
        "device": "cpu",
        "max_total_tokens": 1024,
        "vocab_size": 500,
        "max_running": 8,
        "max_waiting": 1024,
    }.items() <= info.items()
    assert info["num_parameters"] == 395_200
    assert re.fullmatch(r"\d+\.\d+.*", info["version"])


def test_the_fingerprint_names_weights_precision_and_version(start_server, tiny_checkpoint, tmp_path, monkeypatch):
    def fingerprint(**settings):
        return start_server(**{"dtype": "float32"} | settings).service.info.fingerprint

    changed = shutil.copytree(tiny_checkpoint, tmp_path / "tiny-gpt2")
    tensors = load_file(changed / "model.safetensors")
    next(iter(tensors.values())).reshape(-1)[0] += 1
    save_file(tensors, changed / "model.safetensors", metadata={"format": "pt"})
    first = fingerprint()
    assert re.fullmatch("fp_[0-9a-f]{16}", first)
    assert fingerprint() == first
    others = [fingerprint(model=str(changed)), fingerprint(dtype="bfloat16")]
    monkeypatch.setattr("app.info.VERSION", "another")
    assert len({first, *others, fingerprint()}) == 4


def test_info_tells_the_fingerprint(client, server):
    assert client.get("/info").json()["fingerprint"] == server.service.info.fingerprint


def test_the_number_of_parameters_is_the_networks_whatever_computes(server_of_each_kind):
    assert httpx.get(server_of_each_kind.url + "/info").json()["num_parameters"] == 395_200


@pytest.mark.row("route.tokenize", "route.detokenize", "tokenize.inputs", "tokenize.answer", "detokenize.ids", "detokenize.answer")
@pytest.mark.parametrize("text", ["Hello world", "", "é日本語🎉 <|endoftext|>", "a\x00b", "x " * 20000])
def test_tokenize_and_detokenize_are_each_others_inverse(client, text):
    tokens = client.post("/tokenize", json={"inputs": text}).json()
    assert all(list(token) == ["id", "text", "start", "stop"] for token in tokens)
    assert client.post("/detokenize", json={"ids": [token["id"] for token in tokens]}).json() == {"text": text}
    assert "".join(token["text"] for token in tokens) == text
    assert all(text[token["start"] : token["stop"]] == token["text"] for token in tokens)


@pytest.mark.row("error.token_ids")
def test_detokenize_refuses_ids_outside_the_vocabulary(client):
    assert client.post("/detokenize", json={"ids": [499, 0]}).status_code == 200
    for token_id in (500, 2**31 - 1):
        response = client.post("/detokenize", json={"ids": [0, token_id]})
        assert response.status_code == 422
        assert str(token_id) in response.json()["error"]
        assert "500" in response.json()["error"]


@pytest.mark.row("route.openapi")
def test_the_openapi_document_describes_the_bodies_and_every_reference_leads_somewhere(client):
    document = client.get("/openapi.json").json()
    schema = document["paths"]["/generate"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert "inputs" in schema["properties"]
    for reference in re.findall(r'"\$ref":\s*"#/([^"]*)"', client.get("/openapi.json").text):
        place = document
        for part in reference.split("/"):
            place = place[part]
    assert {"/generate", "/generate_stream", "/", "/v1/completions", "/v1/score", "/v1/models", "/tokenize", "/detokenize"} <= set(
        document["paths"]
    )


def test_tokenize_reads_a_text_as_a_prompt_is_read_or_as_plain_text(client):
    text = "a<|endoftext|>b"
    assert [token["id"] for token in client.post("/tokenize", json={"inputs": text}).json()] == [64, 499, 65]
    plain = client.post("/tokenize", json={"inputs": text, "parse_special": False}).json()
    assert 499 not in [token["id"] for token in plain]
    assert client.post("/tokenize", json={"inputs": text, "parameters": {"parse_special": False}}).json() == plain
    assert client.post("/tokenize", json={"inputs": text, "add_special_tokens": False}).status_code == 200


def test_tokenize_takes_the_parameters_of_generation_and_keeps_the_last_tokens_if_told_to(client):
    tokens = client.post("/tokenize", json={"inputs": "abcd", "parameters": None}).json()
    assert client.post("/tokenize", json={"inputs": "abcd", "parameters": {"max_new_tokens": 5}}).json() == tokens
    for kept in (1, len(tokens), 99):
        assert client.post("/tokenize", json={"inputs": "abcd", "parameters": {"truncate": kept}}).json() == tokens[-kept:]


def test_detokenize_leaves_special_tokens_out_if_told_to(client):
    ids = [64, 499, 65]
    assert client.post("/detokenize", json={"ids": ids}).json() == {"text": "a<|endoftext|>b"}
    assert client.post("/detokenize", json={"ids": ids, "skip_special_tokens": True}).json() == {"text": "ab"}


def test_the_models_tell_how_long_prompt_and_text_may_be(client):
    (model,) = client.get("/v1/models").json()["data"]
    assert model == client.get("/v1/models/tiny-gpt2").json()
    assert (model["id"], model["max_model_len"]) == ("tiny-gpt2", 1024)


@pytest.mark.row("error.not_found", "error.method", "error.native_shape", "error.openai_shape")
@pytest.mark.parametrize(
    "method_and_path", [("GET", "/nowhere"), ("PUT", "/generate"), ("GET", "/v1/nothing"), ("DELETE", "/v1/completions")]
)
def test_unknown_paths_and_methods_get_an_error_in_the_routes_dialect(client, method_and_path):
    response = client.request(*method_and_path)
    assert response.status_code in (404, 405)
    if method_and_path[1].startswith("/v1/"):
        assert set(response.json()["error"]) == {"message", "type", "param", "code"}
    else:
        assert set(response.json()) == NATIVE_ERROR
    assert response.headers["x-request-id"]


@pytest.mark.row("http.request_id")
def test_a_harmless_request_id_is_kept_and_any_other_replaced(client):
    assert client.get("/info", headers={"x-request-id": "my-id_1.2:3"}).headers["x-request-id"] == "my-id_1.2:3"
    for strange in ("", "a b", "x" * 129, 'in"jected'):
        given = client.get("/info", headers={"x-request-id": strange}).headers["x-request-id"]
        assert re.fullmatch("[0-9a-f]{32}", given)


@pytest.mark.row("error.generation", "http.request_id")
@pytest.mark.parametrize("path", ["/tokenize", "/v1/completions"])
def test_a_fault_of_ours_is_a_500_with_the_request_id(start_server, monkeypatch, path):
    def broken(*arguments):
        raise KeyError("a secret of ours")

    server = start_server()
    monkeypatch.setattr(server.service.generator.tokenizer, "spans", broken)
    monkeypatch.setattr(server.service.generator.__class__, "start", broken)
    response = httpx.post(server.url + path, json={"inputs": "a", "prompt": "a"} if path != "/tokenize" else {"inputs": "a"})
    assert response.status_code == 500
    request_id = response.headers["x-request-id"]
    error = response.json()["error"]
    message = error["message"] if path.startswith("/v1") else error
    assert request_id in message
    assert "secret" not in message


def test_no_origin_is_allowed_unless_named(client):
    assert "access-control-allow-origin" not in client.get("/info", headers={"origin": "https://a.example"}).headers


@pytest.mark.row("http.cors")
def test_named_origins_may_call_from_a_web_page(start_server):
    server = start_server(cors_origins="https://a.example,https://b.example")
    with httpx.Client(base_url=server.url) as client:
        for origin in ("https://a.example", "https://b.example"):
            response = client.post("/generate", json={"inputs": "", "parameters": {}}, headers={"origin": origin})
            assert response.headers["access-control-allow-origin"] == origin, "errors are readable too"
            assert "x-seed" in response.headers["access-control-expose-headers"].lower()
        assert "access-control-allow-origin" not in client.get("/info", headers={"origin": "https://c.example"}).headers
        asked = {
            "origin": "https://a.example",
            "access-control-request-method": "POST",
            "access-control-request-headers": "content-type",
        }
        preflight = client.options("/generate", headers=asked)
        assert preflight.status_code == 200
        assert preflight.headers["access-control-allow-origin"] == "https://a.example"


def test_a_star_allows_every_origin(start_server):
    server = start_server(cors_origins="*")
    response = httpx.get(server.url + "/info", headers={"origin": "https://anything.example"})
    assert response.headers["access-control-allow-origin"] == "*"
