"""Extreme but legal values give an answer with finite log-probabilities, alone and all together."""

import itertools
import math

import pytest

EXTREMES = {
    "temperature": [1e-300, 5e-324, 1e-5, 2e-5, 1e300, 1.7e308],
    "top_k": [1, 10**9, 2**31 - 1],
    "top_p": [1e-300, 5e-324, 1 - 1e-16],
    "typical_p": [1e-12, 1e-300, 1 - 1e-16],
    "min_p": [1.0, 1e-300, 5e-324],
    "repetition_penalty": [1e-300, 5e-324, 1e-40, 1e-5, 1000.0],
    "frequency_penalty": [-2.0, 2.0],
    "presence_penalty": [-2.0, 2.0],
    "logit_bias": [{"0": 100}, {"0": -100}, {str(i): -100 for i in range(500)}, {str(i): 100.0 for i in range(500)}],
    "seed": [0, 2**64 - 1],
    "max_new_tokens": [1, 10**30],
    "min_new_tokens": [10**30],
    "stop_token_ids": [list(range(64))],
    "n": [16],
    "best_of": [16],
    "top_n_tokens": [5],
    "decoder_input_details": [True],
}
SINGLE = [{name: value} for name, values in EXTREMES.items() for value in values]
PENALTIES = [
    {"repetition_penalty": r, "frequency_penalty": f, "presence_penalty": p, "logit_bias": b}
    for r, f, p, b in itertools.product((1e-300, 1000.0), (-2.0, 2.0), (-2.0, 2.0), ({"0": -100, "1": 100},))
]
FILTERS = [
    {"top_k": k, "top_p": p, "min_p": m, "typical_p": t}
    for k, p, m, t in itertools.product((1, 10**9), (1e-300, 1.0), (1.0, 1e-300), (1e-12, 1.0))
]


def short(value):
    return str(value)[:60] if isinstance(value, dict) else None


def is_finite(tokens):
    return all(math.isfinite(token["logprob"]) and 0 <= token["id"] < 500 for token in tokens)


@pytest.mark.parametrize("parameters", [*SINGLE, *PENALTIES, *FILTERS], ids=short)
@pytest.mark.parametrize(
    "drawn", [{}, {"temperature": 1.0}, {"temperature": 1e300}, {"temperature": 1e-5}], ids=["greedy", "1", "1e300", "1e-5"]
)
def test_an_extreme_value_gives_finite_log_probabilities(generate, parameters, drawn):
    answer = generate("a a a b", **({"max_new_tokens": 4, "seed": 1} | drawn | parameters))
    assert is_finite(answer["details"]["tokens"])


@pytest.mark.parametrize(
    "fields",
    [
        {"temperature": 1e-300},
        {"temperature": 2},
        {"top_k": 10**9},
        {"top_p": 1e-300},
        {"min_p": 1},
        {"repetition_penalty": 1e-300},
        {"repetition_penalty": 1000},
        {"logit_bias": {"0": 100, "1": -100}},
        {"frequency_penalty": -2, "presence_penalty": -2, "repetition_penalty": 1e-300},
        {"frequency_penalty": 2, "presence_penalty": 2, "repetition_penalty": 1000},
        {"seed": -(2**63)},
        {"max_tokens": 10**30},
        {"min_tokens": 10**30},
        {"n": 16, "best_of": 16, "logprobs": 5, "echo": True, "prompt_logprobs": 20},
        {"logprobs": 5, "logit_bias": {str(i): -100 for i in range(1, 500)}},
        {"n": 2, "best_of": 16, "temperature": 1e-300},
    ],
    ids=short,
)
def test_openais_route_takes_them_too(client, fields):
    response = client.post("/v1/completions", json={"prompt": "a a a b", "max_tokens": 4} | fields)
    assert response.status_code == 200, response.text
    assert response.json()["usage"]["completion_tokens"] >= 1


def test_an_extreme_neighbour_changes_nothing_for_the_others(generate, server, in_background):
    wanted = {"max_new_tokens": 40, "temperature": 1.0, "seed": 5}
    alone = generate(**wanted)
    neighbours = [
        in_background(server, "/generate", {"inputs": "a a b", "parameters": {"max_new_tokens": 40, "ignore_eos": True, **extreme}})
        for extreme in (
            {"repetition_penalty": 1e-300, "do_sample": True},
            {"top_k": 10**9, "temperature": 1e300},
            {"typical_p": 1e-300},
        )
    ]
    assert generate(**wanted) == alone
    assert [neighbour.response.status_code for neighbour in neighbours] == [200] * 3
