"""Random JSON thrown at every route: an answer or a clear refusal, never a 5xx."""

import json

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.schemas import CompletionRequest, DetokenizeRequest, GenerateParameters, GenerateRequest, TokenizeRequest

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
ROUTES = {
    "/generate": GENERATE,
    "/generate_stream": GENERATE,
    "/": GENERATE,
    "/v1/completions": COMPLETION,
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
