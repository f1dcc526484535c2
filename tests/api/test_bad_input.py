"""Whatever is wrong with a request is said clearly: field, value and limit, in the route's dialect, and never a 500."""

import json

import httpx
import pytest
from starlette.datastructures import URL
from starlette.requests import HTTPConnection

from app.schemas.native import GenerateParameters
from app.schemas.openai import CompletionRequest

ROUTES = ["/generate", "/generate_stream", "/", "/v1/completions", "/v1/score", "/tokenize", "/detokenize"]
GENERATION_ROUTES = ["/generate", "/v1/completions"]
HUGE = 10**30
DEEP = 100_000  # at most 1 MB of any of them


def check_error(response, path):
    """The error's message, once its shape has been seen to be the route's."""
    assert response.status_code == (400 if path.startswith("/v1") else 422), response.text
    return check_shape(response, path)


def check_shape(response, path):
    assert response.headers["x-request-id"]
    assert response.headers["content-type"] == "application/json"
    body = response.json()
    if path.startswith("/v1"):
        assert set(body) == {"error"}
        assert set(body["error"]) == {"message", "type", "param", "code"}
        assert body["error"]["type"] == "invalid_request_error"
        return body["error"]["message"]
    assert set(body) == {"error", "error_type"}
    assert body["error_type"] == "validation"
    return body["error"]


def body_with(path, field, value):
    """A body for a route as JSON text, in which one field has a value given as JSON text."""
    encoded = f'{{"{field}": {value}}}'
    return f'{{"prompt": "a", {encoded[1:]}' if path == "/v1/completions" else f'{{"inputs": "a", "parameters": {encoded}}}'


NOT_JSON = {
    "empty": b"",
    "blank": b"  \n",
    "not JSON": b"hello",
    "cut off": b'{"inputs": "a"',
    "trailing comma": b'{"inputs": "a",}',
    "single quotes": b"{'inputs': 'a'}",
    "two values": b'{"inputs": "a"} {"inputs": "b"}',
    "invalid UTF-8": b'{"inputs": "\xff\xfe"}',
    "UTF-16": '{"inputs": "a", "prompt": "a"}'.encode("utf-16"),
    "UTF-16 without a mark": '{"inputs": "a"}'.encode("utf-16-le"),
    "UTF-8 with a mark": b'\xef\xbb\xbf{"inputs": "a"}',
    "a NUL inside a string": b'{"inputs": "a\x00b"}',
    "a NUL after it": b'{"inputs": "a"}\x00',
    "array": b'["inputs", "a"]',
    "string": b'"inputs"',
    "number": b"5",
    "null": b"null",
    "duplicate key": b'{"inputs": "a", "inputs": "b", "prompt": "a", "prompt": "b", "ids": [1], "ids": [1]}',
    "duplicate key, spelt otherwise": b'{"inputs": "a", "\\u0069nputs": "b"}',
    "deep arrays": b'{"inputs": ' + b"[" * DEEP + b"]" * DEEP + b"}",
    "deep objects": b'{"a":' * DEEP + b"1" + b"}" * DEEP,
    "deep and cut off": b"[" * DEEP,
    "a lone surrogate": b'{"inputs": "\\ud800", "prompt": "\\ud800", "ids": "\\ud800"}',
    "a lone surrogate in a key": b'{"\\udfff": 1, "prompt": 1}',
}


@pytest.mark.row("error.not_json", "error.surrogate")
@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.parametrize("body", NOT_JSON.values(), ids=NOT_JSON.keys())
def test_a_body_that_is_no_request_is_refused(client, path, body):
    message = check_error(client.post(path, content=body), path)
    assert message.isprintable()
    assert len(message) < 1000


@pytest.mark.row("error.not_json")
@pytest.mark.parametrize("path", ROUTES)
def test_a_body_that_is_no_object_is_called_so(client, path):
    assert "object" in check_error(client.post(path, content=b"[1]"), path)


@pytest.mark.row("error.nesting")
@pytest.mark.parametrize("depth", [50, 300, 500, 700, 900, 950, 980, 1000, 2000, 10_000])
@pytest.mark.parametrize("path", GENERATION_ROUTES)
@pytest.mark.parametrize("field", ["grammar", "logit_bias", "prompt", "unheard_of"])
def test_deep_nesting_is_refused_at_any_depth_and_place(client, path, field, depth):
    for opening, closing in (("[", "]"), ('{"a":', "}")):
        response = client.post(path, content=body_with(path, field, opening * depth + "1" + closing * depth))
        if not (path.startswith("/v1") and field in ("grammar", "unheard_of") and response.status_code == 200):  # it ignores those
            check_error(response, path)


@pytest.mark.row("http.body_limit")
@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.parametrize("chunked", [False, True], ids=["content-length", "chunked"])
def test_a_body_of_5_mb_is_refused_with_413(client, path, chunked):
    content = b'{"inputs": "' + b"a" * 5_000_000 + b'"}'
    pieces = (content[i : i + 65536] for i in range(0, len(content), 65536))
    response = client.post(path, content=pieces if chunked else content)
    assert response.status_code == 413
    assert "1048576" in check_shape(response, path)


@pytest.mark.row("http.body_limit")
def test_a_connection_lives_on_after_a_413(client):
    for _ in range(3):
        assert client.post("/tokenize", content=b" " * 2_000_000).status_code == 413
        assert client.post("/tokenize", json={"inputs": "a"}).status_code == 200


@pytest.mark.row("http.body_limit")
def test_a_body_at_the_limit_is_read(client):
    body = json.dumps({"inputs": ""}).encode()
    assert client.post("/tokenize", content=body + b" " * (1_048_576 - len(body))).status_code == 200
    assert client.post("/tokenize", content=body + b" " * (1_048_577 - len(body))).status_code == 413


FLOATS = ["temperature", "top_p", "min_p", "repetition_penalty", "frequency_penalty", "presence_penalty"]
OUT_OF_RANGE = {
    "temperature": ["-1", "-1e-300", "-1e300"],
    "top_p": ["0", "-0.5", "1.0000001", "1e300"],
    "min_p": ["-1e-9", "1.1", "-1e300"],
    "repetition_penalty": ["0", "-1", "1000.1", "1e300"],
    "frequency_penalty": ["-2.1", "2.1", "-1e300", "1e300"],
    "presence_penalty": ["-2.1", "2.1", "-1e300", "1e300"],
    "top_k": ["-2", str(-HUGE), "1.5", "1e3"],
    "seed": [str(HUGE), "18446744073709551616", "1.0", str(-HUGE)],
    "stop_token_ids": ["[-1]", "[500]", f"[{HUGE}]", '["1"]', "[true]", "[1.0]", f"[{'1,' * 64}1]", "5"],
    "stop": ['[""]', '["a","a","a","a","a"]', "[1]", "[null]", f'["{"a" * 257}"]', '{"a": 1}'],
    "logit_bias": [
        '{"1": 101}',
        '{"1": -101}',
        '{"-1": 1}',
        '{"x": 1}',
        '{"500": 1}',
        '{"99999999999": 1}',
        '{"1": "1"}',
        "[]",
        '{"": 1}',
    ],
    "n": ["0", "-1", "17", str(HUGE), "1.0", "[2]"],
    "best_of": ["-1", "17", str(HUGE), "2.5", "{}"],
}
CASES = [(path, field, value) for field, values in OUT_OF_RANGE.items() for value in values for path in GENERATION_ROUTES]
CASES += [("/generate", "typical_p", value) for value in ("0", "-1", "1.01", "1e300")]
CASES += [("/generate", "seed", "-1"), ("/v1/completions", "temperature", "2.1")]
CASES += [("/generate", "max_new_tokens", value) for value in ("0", "-1", str(-HUGE), "1.0", "1e3")]
CASES += [("/v1/completions", "max_tokens", value) for value in ("-1", str(-HUGE), "1.0", "1e3")]
CASES += [("/generate", "min_new_tokens", "-1"), ("/v1/completions", "min_tokens", "-1")]
CASES += [("/generate", "top_n_tokens", value) for value in ("-1", "6", str(HUGE), "1.0")]
CASES += [("/generate", "decoder_input_details", value) for value in ("1", '"true"', "[]")]
CASES += [("/v1/completions", "logprobs", value) for value in ("-1", "6", str(HUGE), "1.0", "true")]
CASES += [("/v1/completions", "prompt_logprobs", value) for value in ("-1", "21", str(HUGE), "1.0", "true")]
CASES += [("/v1/completions", "echo", value) for value in ("1", '"true"', "[]")]


@pytest.mark.row("error.out_of_range", "error.token_ids", "error.openai_shape", "error.native_shape")
@pytest.mark.parametrize(("path", "field", "value"), CASES)
def test_a_value_out_of_range_is_refused_by_its_field(client, path, field, value):
    response = client.post(path, content=body_with(path, field, value))
    assert field in check_error(response, path)
    if path.startswith("/v1"):
        assert response.json()["error"]["param"].split(".")[0] == field


DEPENDENT = {
    "best_of below n": ({"n": 3, "best_of": 2}, "best_of"),
    "best_of above n, streamed": ({"n": 2, "best_of": 3, "stream": True}, "best_of"),
    "best_of without n, streamed": ({"best_of": 2, "stream": True}, "best_of"),
}


@pytest.mark.row("generate.best_of_stream")
@pytest.mark.parametrize("path", GENERATION_ROUTES)
@pytest.mark.parametrize(("fields", "blamed"), DEPENDENT.values(), ids=DEPENDENT.keys())
def test_what_does_not_go_together_is_refused_by_name(client, path, fields, blamed):
    streamed = {"stream": True} if "stream" in fields else {}
    fields = {name: value for name, value in fields.items() if name != "stream"}
    native = path == "/generate"
    body = {"inputs": "a", "parameters": fields, **streamed} if native else {"prompt": "a", **fields, **streamed}
    response = client.post(path, json=body)
    assert blamed in check_error(response, path)
    if not native:
        assert response.json()["error"]["param"] == blamed


@pytest.mark.row("completions.max_tokens_zero")
@pytest.mark.parametrize("extra", [{}, {"echo": False}, {"echo": None}, {"logprobs": 1}, {"prompt_logprobs": 1}, {"stream": True}])
def test_no_tokens_are_wanted_only_with_an_echo(client, extra):
    response = client.post("/v1/completions", json={"prompt": "a", "max_tokens": 0, **extra})
    assert "echo" in check_error(response, "/v1/completions")
    assert response.json()["error"]["param"] == "max_tokens"


@pytest.mark.row("generate.best_of_stream")
def test_the_route_that_always_streams_refuses_what_cannot_be_streamed(client):
    response = client.post("/generate_stream", json={"inputs": "a", "parameters": {"best_of": 2}})
    assert "best_of" in check_error(response, "/generate_stream")


@pytest.mark.row("error.message")
@pytest.mark.parametrize(
    ("field", "value", "limit"),
    [("top_p", 1.5, "1"), ("seed", 2**64, str(2**64 - 1)), ("max_new_tokens", 0, "1"), ("frequency_penalty", -3.0, "-2")],
)
def test_the_message_names_field_value_and_limit(client, field, value, limit):
    message = client.post("/generate", json={"inputs": "a", "parameters": {field: value}}).json()["error"]
    name, _, rest = message.partition(": ")
    assert name == f"parameters.{field}"
    assert rest.startswith(f"{value} is refused")
    assert limit in rest.split("refused")[1]


FIELDS = [("/generate", name) for name in GenerateParameters.model_fields]
FIELDS += [("/v1/completions", name) for name in CompletionRequest.model_fields]
NEVER_RIGHT = ["NaN", "Infinity", "-Infinity", "1e400", "-1e400", "9" * 5000, "-" + "9" * 5000, '"\\ud800"']
NO_NUMBERS = ['"5"', '"0.5"', "[1]", '{"a": 1}', '""']


@pytest.mark.row("error.wrong_type", "error.surrogate")
@pytest.mark.parametrize(("path", "field"), FIELDS)
@pytest.mark.parametrize("value", NEVER_RIGHT, ids=lambda value: value[:10])
def test_what_is_no_json_value_is_refused_in_every_field(client, path, field, value):
    message = check_error(client.post(path, content=body_with(path, field, value)), path)
    assert message.isprintable()
    assert len(message) < 1000


def fields_of(kinds):
    """The fields of either dialect that take one of these JSON types."""
    for path, name in FIELDS:
        schema = GenerateParameters if path == "/generate" else CompletionRequest
        options = schema.model_json_schema()["properties"][name]["anyOf"]
        if name != "prompt" and kinds & {option.get("type") for option in options}:
            yield path, name


NUMERIC, FLAGS = list(fields_of({"integer", "number"})), list(fields_of({"boolean"}))


@pytest.mark.row("error.wrong_type")
@pytest.mark.parametrize(("path", "field"), NUMERIC)
@pytest.mark.parametrize("value", [*NO_NUMBERS, "true", "false"])
def test_only_a_number_is_a_number(client, path, field, value):
    assert field in check_error(client.post(path, content=body_with(path, field, value)), path)


@pytest.mark.row("error.wrong_type")
@pytest.mark.parametrize(("path", "field"), FLAGS)
@pytest.mark.parametrize("value", ["0", "1", '"true"', "[]", "1.0"])
def test_only_true_and_false_are_flags(client, path, field, value):
    assert field in check_error(client.post(path, content=body_with(path, field, value)), path)


@pytest.mark.parametrize(("path", "field"), FIELDS)
@pytest.mark.parametrize("number", [-(10**38), -HUGE, -(2**63) - 1, -1, -0.5, 0, 1e-300, 2**31, 2**63, 2**64, HUGE, 10**39, 1e300])
def test_no_number_in_any_field_is_ever_a_server_error(client, path, field, number):
    ends_soon = {"max_tokens" if path.startswith("/v1") else "max_new_tokens": 1, "logit_bias": {"499": 100}}
    fields = ends_soon | {field: number}
    response = client.post(
        path, json={"prompt": "a", **fields} if path.startswith("/v1") else {"inputs": "a", "parameters": fields}
    )
    if response.status_code != 200:
        assert field in check_error(response, path)


@pytest.mark.row("generate.unknown_field")
@pytest.mark.parametrize("path", ["/generate", "/generate_stream", "/", "/tokenize", "/detokenize"])
@pytest.mark.parametrize("name", ["max_tokens", "inputs ", "Inputs", "x" * 10_000, "\x00", "\x1b[31m", "é"])
def test_native_routes_name_an_unknown_field(client, path, name):
    message = check_error(client.post(path, json={"inputs": "a", "ids": [1], name: 1}), path)
    assert "no such field" in message
    assert name[:20].strip() in message or not name.isprintable()
    assert len(message) < 1000
    assert message.isprintable()


@pytest.mark.row("generate.unknown_field")
def test_an_unknown_parameter_is_named(client):
    response = client.post("/generate", json={"inputs": "a", "parameters": {"max_tokens": 3, "topp": 1}})
    assert "parameters.max_tokens" in response.json()["error"]
    assert "parameters.topp" in response.json()["error"]


@pytest.mark.parametrize("body", [{"inputs": "a", "prompt": "a"}, {"inputs": 5}, {"inputs": ["a"]}, {"inputs": {}}])
def test_there_is_one_prompt_and_it_is_text_or_token_ids(client, body):
    assert "inputs" in check_error(client.post("/generate", json=body), "/generate")


@pytest.mark.row("completions.prompt")
@pytest.mark.parametrize("body", [{"prompt": 5}, {"prompt": {}}, {"prompt": True}])
def test_openais_prompt_is_text_or_token_ids(client, body):
    response = client.post("/v1/completions", json=body)
    assert "prompt" in check_error(response, "/v1/completions")
    assert response.json()["error"]["param"] == "prompt"


@pytest.mark.row("generate.prompt_limit")
@pytest.mark.parametrize(("path", "name"), [("/generate", "inputs"), ("/v1/completions", "prompt")])
@pytest.mark.parametrize("num_tokens", [1024, 5000, 200_000])
def test_a_prompt_beyond_the_context_is_refused_with_the_numbers(client, path, name, num_tokens):
    message = check_error(client.post(path, json={name: "\x7f\u0080"[1] * (num_tokens // 2)}), path)
    assert "1023" in message
    assert "tokens" in message


def test_every_fault_of_a_request_is_named_up_to_five(client):
    parameters = {"top_p": 7, "min_p": 7, "seed": -1, "typical_p": 7, "max_new_tokens": 0, "temperature": -1, "top_k": -2}
    message = client.post("/generate", json={"inputs": "a", "parameters": parameters}).json()["error"]
    assert message.count("is refused") == 5
    assert "2 more" in message


def test_a_body_without_a_content_type_is_taken(server):
    assert httpx.post(server.url + "/generate", content=b'{"inputs": "a"}').status_code == 200


@pytest.mark.parametrize(
    "line",
    [
        b"GET /\xff HTTP/1.1",
        b"GET /%00%ff%ud800 HTTP/1.1",
        b"POST /v1/%2e%2e/generate HTTP/1.1",
        b"GET //evil HTTP/1.1",
        b"NONSENSE",
    ],
)
def test_a_strange_request_line_is_no_server_error(raw_answer, line):
    answer = raw_answer(line + b"\r\nHost: a\r\nConnection: close\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 4")


@pytest.mark.parametrize("host", [b"", b"a:b:c", b"[", b"\xff", b"a b/../x?"])
def test_a_strange_host_header_is_no_server_error(raw_answer, host):
    answer = raw_answer(b"GET /v1/nothing HTTP/1.1\r\nHost: " + host + b"\r\nConnection: close\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 4")


@pytest.mark.parametrize("host", [b"a/v1/", b"a/x?", b"a#", b"a"])
@pytest.mark.parametrize("path", ["/nothing", "/v1/nothing"])
def test_the_dialect_of_an_error_is_that_of_the_path_whatever_the_host_header_says(raw_answer, monkeypatch, host, path):
    # As Starlette made it before it looked at the header's form.
    monkeypatch.setattr(HTTPConnection, "url", property(lambda self: URL(f"http://{self.headers['host']}{self.scope['path']}")))
    answer = raw_answer(b"GET " + path.encode() + b" HTTP/1.1\r\nHost: " + host + b"\r\nConnection: close\r\n\r\n")
    head, _, content = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 404" if host == b"a" else b"HTTP/1.1 400")
    error = json.loads(content)["error"]
    message = error["message"] if path.startswith("/v1/") else error
    assert message.startswith(f"GET {path}: " if host == b"a" else "the request is no HTTP/1.1: ")
