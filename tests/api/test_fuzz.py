"""Random JSON thrown at every route: an answer or a clear refusal, never a 5xx."""

import json

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.schemas.inspection import KINDS, InspectRequest
from app.schemas.native import DetokenizeRequest, GenerateParameters, GenerateRequest, TokenizeRequest
from app.schemas.openai import CompletionRequest, ScoreRequest

LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-(10**45), 10**45)
    | st.sampled_from([-1, 0, 1, 2, 499, 500, 2**31, 2**63, 2**64])
    | st.floats(allow_nan=True, allow_infinity=True)
    | st.text(st.characters(), max_size=8)
    | st.sampled_from(["\ud800", "a\x00b", "1"])
)
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4), max_leaves=8
)


def bodies(schema, **nested):
    """Objects that have some of a schema's fields, a few unknown ones, and now and then something else entirely."""
    known = {name: nested.get(name, st.nothing()) | VALUES for name in schema.model_fields}
    return st.fixed_dictionaries({}, optional=known) | st.dictionaries(st.sampled_from([*known, "x"]), VALUES, max_size=3) | VALUES


COMPLETION = bodies(CompletionRequest, prompt=st.just("a"), max_tokens=st.just(1))
GENERATE = bodies(GenerateRequest, inputs=st.just("a"), parameters=bodies(GenerateParameters, max_new_tokens=st.just(1)))


def ablations():
    """Lists of some kind's fields each, a few unknown ones, and now and then something else entirely."""
    kinds = [bodies(schema, kind=st.just(name), name=st.sampled_from(NAMES) | VALUES) for name, schema in KINDS.items()]
    return st.lists(st.one_of(*kinds), max_size=3) | VALUES


NAMES = ("hook_embed", "blocks.0.attn.hook_pattern", "blocks.1.hook_resid_pre", "ln1", "ln_final")
INSPECT = bodies(
    InspectRequest,
    prompt=st.just("a b"),
    max_new_tokens=st.just(1),
    timeout_seconds=st.none(),
    names=st.lists(st.sampled_from([*NAMES, "blocks.*"]), max_size=3),
    summaries=st.lists(st.sampled_from(["norms", "lens", "attention", "attribution"]), max_size=3),
    ablations=ablations(),
)
ROUTES = {
    "/generate": GENERATE,
    "/generate_stream": GENERATE,
    "/": GENERATE,
    "/v1/completions": COMPLETION,
    "/v1/score": bodies(
        ScoreRequest, prompt=st.just("a"), candidates=st.lists(st.sampled_from(["b", "", "é"]) | VALUES, max_size=5)
    ),
    "/v1/inspect": INSPECT,
    "/tokenize": bodies(TokenizeRequest),
    "/detokenize": bodies(DetokenizeRequest, ids=st.lists(st.integers(0, 600), max_size=5)),
}


def encode(value):
    """JSON as a careless client writes it: NaN and Infinity bare, surrogates escaped."""
    return json.dumps(value).encode()


@pytest.mark.parametrize("path", ROUTES)
def test_random_json_never_breaks_a_route(server, path):
    with httpx.Client(base_url=server.url, timeout=60) as client:

        @settings(max_examples=150, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
        @given(ROUTES[path])
        def throw(value):
            response = client.post(path, content=encode(value))
            assert response.status_code in (200, 400, 422), response.text
            assert '"error_type":"generation"' not in response.text, "a 5xx in a stream"
            assert response.headers["x-request-id"]

        throw()


@given(content=st.binary(max_size=64), path=st.sampled_from(sorted(ROUTES)))
@settings(max_examples=100, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
def test_random_bytes_are_refused(client, content, path):
    assert client.post(path, content=content).status_code in (400, 422)


FIELDS = st.fixed_dictionaries(
    {
        "prompt": st.sampled_from(["a", "The old man", "é日本", "\x00 \n", "word " * 60]),
        "max_tokens": st.sampled_from([0, 1, 4]),
        "seed": st.integers(-5, 5),
    },
    optional={
        "n": st.integers(1, 6),
        "best_of": st.integers(1, 6),
        "echo": st.booleans(),
        "logprobs": st.integers(0, 5),
        "prompt_logprobs": st.integers(0, 20),
        "temperature": st.sampled_from([0, 1, 2]),
        "stop": st.sampled_from(["e", ["a", "\ufffd"]]),
        "min_tokens": st.integers(0, 4),
        "logit_bias": st.sampled_from([{"499": 100}, {"127": 100}, {"499": 5}]),
    },
)


def added_up(events):
    """The choices that chunks add up to, by their index."""
    choices = {}
    for part in (part for event in events for part in event["choices"]):
        choice = choices.setdefault(part["index"], {"index": part["index"], "text": "", "logprobs": None})
        choice["text"] += part["text"]
        choice["finish_reason"] = part["finish_reason"]
        if "prompt_logprobs" in part:
            choice["prompt_logprobs"] = part["prompt_logprobs"]
        if part["logprobs"] is not None:
            before = choice["logprobs"] or {name: [] for name in part["logprobs"]}
            choice["logprobs"] = {name: before[name] + values for name, values in part["logprobs"].items()}
    return [choices[index] for index in sorted(choices)]


@given(body=FIELDS)
@settings(max_examples=150, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
def test_whatever_is_asked_for_together_is_refused_or_answered_alike_streamed_and_not(client, sse, body):
    whole, streamed = (client.post("/v1/completions", json={**body, "stream": stream}) for stream in (False, True))
    if whole.status_code == 400:
        assert streamed.status_code == 400
        return
    assert whole.status_code == 200, whole.text
    choices = whole.json()["choices"]
    assert [choice["index"] for choice in choices] == list(range(body.get("n", 1)))
    for choice in choices:
        lists = choice["logprobs"] or {}
        assert (choice["logprobs"] is None) == ("logprobs" not in body)
        assert len({len(values) for values in lists.values()}) <= 1
        assert choice["text"].startswith(body["prompt"]) or not body.get("echo")
    if body.get("best_of", 1) > body.get("n", 1):
        assert streamed.status_code == 400
        return
    *events, done = sse(streamed)
    assert done == "[DONE]"
    assert added_up(events) == choices
