"""Health, facts, the tokenizer, the documentation, CORS and what every answer carries."""

import re

import httpx
import pytest

from app.engine.engine import Engine

NATIVE_ERROR = {"error", "error_type"}


def test_a_ready_server_says_so(client):
    for path in ("/health", "/health/live", "/health/ready", "/health/startup"):
        response = client.get(path)
        assert (response.status_code, response.text) == (200, "ok"), path


def test_probes_answer_while_the_engine_is_busy(stepped_server, in_background, eventually):
    server, runner = stepped_server()
    waiting = in_background(server, "/generate", {"inputs": "a", "parameters": {"max_new_tokens": 1}})
    eventually(lambda: runner.arrived)
    for path in ("/health/live", "/health/ready", "/metrics", "/info"):
        assert httpx.get(server.url + path).status_code == 200
    runner.open()
    assert waiting.response.status_code == 200


def test_a_dead_engine_is_not_ready_and_says_why(start_server, eventually, monkeypatch):
    server = start_server()
    monkeypatch.setattr(Engine, "step", lambda engine: 1 / 0)
    eventually(lambda: httpx.get(server.url + "/health/ready").status_code == 503)
    response = httpx.post(server.url + "/generate", json={"inputs": "a"})
    assert response.status_code == 503
    assert response.json()["error_type"] == "not_ready"
    assert "ZeroDivisionError" in response.json()["error"]
    assert int(response.headers["retry-after"]) >= 1
    assert httpx.get(server.url + "/health/live").status_code == 200


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


def test_the_number_of_parameters_is_the_networks_whatever_computes(server_of_each_kind):
    assert httpx.get(server_of_each_kind.url + "/info").json()["num_parameters"] == 395_200


@pytest.mark.parametrize("text", ["Hello world", "", "é日本語🎉 <|endoftext|>", "a\x00b", "x " * 20000])
def test_tokenize_and_detokenize_are_each_others_inverse(client, text):
    tokens = client.post("/tokenize", json={"inputs": text}).json()
    assert all(list(token) == ["id", "text", "start", "stop"] for token in tokens)
    assert client.post("/detokenize", json={"ids": [token["id"] for token in tokens]}).json() == {"text": text}
    assert "".join(token["text"] for token in tokens) == text
    assert all(text[token["start"] : token["stop"]] == token["text"] for token in tokens)


def test_detokenize_refuses_ids_outside_the_vocabulary(client):
    assert client.post("/detokenize", json={"ids": [499, 0]}).status_code == 200
    for token_id in (500, 2**31 - 1):
        response = client.post("/detokenize", json={"ids": [0, token_id]})
        assert response.status_code == 422
        assert str(token_id) in response.json()["error"]
        assert "500" in response.json()["error"]


def test_the_page_and_the_documentation_are_there(client):
    assert client.get("/").headers["content-type"].startswith("text/html")
    assert client.get("/docs").headers["content-type"].startswith("text/html")


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


def test_a_harmless_request_id_is_kept_and_any_other_replaced(client):
    assert client.get("/info", headers={"x-request-id": "my-id_1.2:3"}).headers["x-request-id"] == "my-id_1.2:3"
    for strange in ("", "a b", "x" * 129, 'in"jected'):
        given = client.get("/info", headers={"x-request-id": strange}).headers["x-request-id"]
        assert re.fullmatch("[0-9a-f]{32}", given)


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
