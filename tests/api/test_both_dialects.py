"""A field that both dialects have means the same in both, and a filter keeps what it promises."""

import pytest

# What leaves a single token to draw from, as docs/api.md describes each field.
NARROWEST = [
    pytest.param({"top_k": 1}, marks=pytest.mark.row("generate.top_k")),
    pytest.param({"top_p": 1e-9}, marks=pytest.mark.row("generate.top_p")),
    pytest.param({"min_p": 1.0}, marks=pytest.mark.row("generate.min_p")),
]
SAME = [
    pytest.param({"top_k": 3}, marks=pytest.mark.row("completions.top_k")),
    pytest.param({"top_p": 0.3}, marks=pytest.mark.row("completions.top_p")),
    pytest.param({"min_p": 0.5}, marks=pytest.mark.row("completions.min_p")),
    pytest.param({"repetition_penalty": 5.0}, marks=pytest.mark.row("completions.repetition_penalty")),
    pytest.param({"frequency_penalty": 2.0}, marks=pytest.mark.row("completions.frequency_penalty")),
    pytest.param({"presence_penalty": 2.0}, marks=pytest.mark.row("completions.presence_penalty")),
    pytest.param({"logit_bias": {"42": 100}}, marks=pytest.mark.row("completions.logit_bias")),
]
SETTLED = {"do_sample": True, "temperature": 1.0, "seed": 7}


def drawn(answer):
    return [token["id"] for token in answer["details"]["tokens"]]


@pytest.mark.parametrize("field", NARROWEST)
def test_the_narrowest_filter_leaves_only_the_likeliest_token(generate, field):
    assert drawn(generate(**field, temperature=2.0, seed=1)) == drawn(generate())


@pytest.mark.row("generate.typical_p")
def test_the_narrowest_typical_p_leaves_nothing_to_the_seed(generate):
    free, narrow = ([drawn(generate(typical_p=p, temperature=0.5, seed=seed)) for seed in (1, 2)] for p in (1.0, 1e-9))
    assert free[0] != free[1]
    assert narrow[0] == narrow[1]


@pytest.mark.row("generate.top_k")
def test_top_k_draws_from_the_k_likeliest(generate):
    details = generate(max_new_tokens=60, temperature=50.0, top_k=3, top_n_tokens=5, seed=1)["details"]
    places = [
        [other["id"] for other in top].index(token["id"])
        for token, top in zip(details["tokens"], details["top_tokens"], strict=True)
    ]
    assert set(places) == {0, 1, 2}


@pytest.mark.parametrize("field", SAME)
def test_a_field_of_both_dialects_means_the_same_in_both(generate, complete, field):
    native = generate("a a a a a a", max_new_tokens=40, **SETTLED, **field)["generated_text"]
    assert complete("a a a a a a", max_tokens=40, temperature=1.0, seed=7, **field)["choices"][0]["text"] == native
    assert generate("a a a a a a", max_new_tokens=40, **SETTLED)["generated_text"] != native


@pytest.mark.row("completions.stop_token_ids")
def test_openais_route_takes_stop_token_ids(generate, complete):
    first, second = drawn(generate(max_new_tokens=2, **SETTLED))
    answer = complete(seed=7, stop_token_ids=[second])
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert answer["usage"]["completion_tokens"] == (1 if first == second else 2)


@pytest.mark.row("completions.ignore_eos")
def test_openais_route_can_go_on_past_the_end_token(complete):
    favoured = {"logit_bias": {"499": 100}, "max_tokens": 5}
    assert complete(**favoured)["usage"]["completion_tokens"] == 1
    assert complete(**favoured, ignore_eos=True)["usage"]["completion_tokens"] == 5
