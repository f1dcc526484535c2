"""What tests of POST /v1/inspect share: the route, and the inspector beside it, whose answers it ought to have."""

import math

import pytest

from model.checkpoint import load_tokenizer
from model.inspection.answer import answer_of
from model.inspection.inspector import Inspector
from model.inspection.request import InspectionRequest
from model.network_files import load_model

PATH = "/v1/inspect"
TEXT = "The old man looked at the old sea"
STREAM = "blocks.1.hook_resid_pre"


@pytest.fixture(scope="module")
def inspector(tiny_checkpoint):
    return Inspector(load_model(tiny_checkpoint))


@pytest.fixture(scope="module")
def tokenizer(tiny_checkpoint):
    return load_tokenizer(tiny_checkpoint)


@pytest.fixture(scope="module")
def ids_of(tokenizer):
    return lambda text: tuple(tokenizer.encode(text))


@pytest.fixture
def inspect(client):
    def post(prompt=TEXT, **fields):
        response = client.post(PATH, json={"prompt": prompt, **fields})
        assert response.status_code == 200, response.text
        return response.json()

    return post


@pytest.fixture
def own_answer(inspector, tokenizer, ids_of):
    """The inspector's, to the same request."""

    def ask(**fields):
        request = InspectionRequest(**{"prompt": ids_of(TEXT), **fields})
        return answer_of(inspector.inspect(request), tokenizer, "tiny-gpt2", 0.0)

    return ask


def alike(one, other):
    """Whether two JSON values are the same, but for the last digits of their numbers."""
    if isinstance(one, float) and isinstance(other, float | int):
        return math.isclose(one, other, rel_tol=1e-4, abs_tol=1e-5)
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(alike(one[name], other[name]) for name in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(alike, one, other))
    return one == other


def without_measurements(answer):
    return {name: value for name, value in answer.items() if name not in ("seconds", "served")}
