"""Several samples of one prompt: each is what a request of its own gets, streamed or not, and the likeliest can be picked."""

import pytest

SEED = 2**64 - 3  # the fourth sample's seed is 0
PROMPT = "The old man and the sea. "
STYLES = {
    "sampled": {"temperature": 1.3},
    "filtered": {"temperature": 0.9, "top_k": 60, "top_p": 0.95},
    "penalised": {"temperature": 1.1, "repetition_penalty": 1.3, "frequency_penalty": 0.4},
    "greedy": {},
}
each_style = pytest.mark.parametrize("style", STYLES.values(), ids=STYLES.keys())


@pytest.fixture(scope="module")
def server(server_of_each_kind):
    return server_of_each_kind


def told(answer):
    """The details of every sample, its text among them."""
    first = {name: value for name, value in answer["details"].items() if name not in ("best_of_sequences", "input_length")}
    others = [dict(other) for other in answer["details"].get("best_of_sequences", [])]
    for other in others:
        other.pop("input_length")
    return [{"generated_text": answer["generated_text"], **first}, *others]


def mean_logprob(details):
    return sum(token["logprob"] for token in details["tokens"]) / len(details["tokens"])


@pytest.mark.row("generate.n", "generate.best_of_sequences")
@each_style
@pytest.mark.parametrize("n", [2, 9], ids=["n fits", "n is more than the slots"])
def test_sample_i_is_to_the_bit_what_a_request_with_the_seed_plus_i_gets(generate, style, n):
    answer = generate(PROMPT, n=n, seed=SEED, max_new_tokens=10, top_n_tokens=2, **style)
    samples = told(answer)
    assert len(samples) == n
    for i, sample in enumerate(samples):
        alone = generate(PROMPT, seed=(SEED + i) % 2**64, max_new_tokens=10, top_n_tokens=2, **style)
        assert told(alone) == [sample]


@pytest.mark.row("completions.n")
@each_style
def test_openais_choices_are_too(complete, style):
    fields = {"max_tokens": 8, "logprobs": 2, "temperature": 0} | style
    answer = complete(PROMPT, n=6, seed=7, **fields)
    assert [choice["index"] for choice in answer["choices"]] == list(range(6))
    alone = [complete(PROMPT, seed=7 + i, **fields) for i in range(6)]
    assert answer["choices"] == [single["choices"][0] | {"index": i} for i, single in enumerate(alone)]
    num_prompt = alone[0]["usage"]["prompt_tokens"]
    num_completion = sum(single["usage"]["completion_tokens"] for single in alone)
    usage = answer["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]) == (
        num_prompt,
        num_completion,
        num_prompt + num_completion,
    )


def test_a_long_prompt_is_computed_once_for_all_samples(server, generate):
    prompt = "word after word and no end, " * 25
    before = server.metric("gpt2_prompt_tokens_total")
    details = generate(prompt, n=4, max_new_tokens=3, temperature=1.0)["details"]
    assert server.metric("gpt2_prompt_tokens_total") - before <= details["input_length"] + 3 * 128


def test_samples_in_company_get_what_they_get_alone(server, generate, in_background):
    wanted = {"n": 5, "seed": 3, "temperature": 1.2, "max_new_tokens": 24}
    alone = generate(PROMPT, **wanted)
    neighbours = [
        in_background(server, "/generate", {"inputs": PROMPT[:length], "parameters": {"n": 2, "temperature": 1.5, "seed": length}})
        for length in (3, 9, len(PROMPT))
    ]
    assert generate(PROMPT, **wanted) == alone
    assert [neighbour.response.status_code for neighbour in neighbours] == [200] * 3


@pytest.mark.row("generate.n_stream")
@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"stop": ["e"]},
        {"logit_bias": {"499": 3}},
        {"return_full_text": True},
        {"top_n_tokens": 3, "decoder_input_details": True},
    ],
    ids=["plain", "stop string", "end token", "full text", "everything"],
)
def test_a_stream_has_each_samples_events_and_ends_each_with_its_text(generate, stream, parameters):
    wanted = {"n": 5, "seed": 11, "temperature": 1.6, "max_new_tokens": 30} | parameters
    samples, events = told(generate("Café 日本", **wanted)), stream("Café 日本", **wanted)
    for i, sample in enumerate(samples):
        own = [event for event in events if event["sample"] == i]
        assert [event["index"] for event in own] == list(range(1, len(own) + 1))
        assert [event["token"] for event in own] == sample["tokens"]
        assert [event.get("top_tokens") for event in own] == sample.get("top_tokens", [None] * len(own))
        assert all(event["generated_text"] is None and event["details"] is None for event in own[:-1])
        assert own[-1]["generated_text"] == sample["generated_text"]
        details = own[-1]["details"]
        assert details.pop("input_length")
        assert details == {name: sample[name] for name in details}
        assert details["seed"] == 11 + i
    assert {event["sample"] for event in events} == set(range(5))


def test_a_single_samples_events_do_not_name_it(stream):
    assert all("sample" not in event for event in stream(n=1, max_new_tokens=2))


@pytest.mark.parametrize("fields", [{}, {"stop": "e"}, {"logprobs": 1}, {"echo": True}, {"echo": True, "logprobs": 2}])
def test_openais_chunks_add_up_to_each_choice(complete, chunks, fields):
    wanted = {"n": 4, "temperature": 1.6, "max_tokens": 25} | fields
    answer, events = complete(**wanted), chunks(**wanted, stream_options={"include_usage": True})
    assert events.pop() == "[DONE]"
    assert events.pop()["usage"]["completion_tokens"] == answer["usage"]["completion_tokens"]
    for choice in answer["choices"]:
        own = [part for event in events for part in event["choices"] if part["index"] == choice["index"]]
        assert "".join(part["text"] for part in own) == choice["text"]
        assert [part["finish_reason"] for part in own] == [None] * (len(own) - 1) + [choice["finish_reason"]]
        if choice["logprobs"] is None:
            assert all(part["logprobs"] is None for part in own)
        for name, values in (choice["logprobs"] or {}).items():
            assert [value for part in own if part["logprobs"] for value in part["logprobs"][name]] == values


def test_a_stop_string_ends_each_sample_where_it_finds_it(generate):
    wanted = {"n": 6, "seed": 5, "temperature": 1.2, "max_new_tokens": 40}
    free = told(generate(**wanted))
    stop = free[2]["generated_text"][9:11]
    for sample, before in zip(told(generate(**wanted, stop=[stop])), free, strict=True):
        text = before["generated_text"]
        assert sample["generated_text"] == text.split(stop)[0]
        assert sample["finish_reason"] == ("stop_sequence" if stop in text else before["finish_reason"])
        assert sample["tokens"] == before["tokens"][: sample["generated_tokens"]] or stop in text


@pytest.mark.row("generate.best_of")
def test_the_likeliest_of_best_of_are_told_in_their_order(generate):
    wanted = {"seed": 20, "temperature": 1.5, "max_new_tokens": 9, "logit_bias": {"499": 2}}
    drawn = told(generate(n=7, **wanted))
    ranked = sorted(drawn, key=mean_logprob, reverse=True)
    assert ranked != drawn, "the seeds show a ranking"
    assert told(generate(n=3, best_of=7, **wanted)) == ranked[:3]
    assert told(generate(n=1, best_of=7, **wanted)) == ranked[:1]


@pytest.mark.row("generate.best_of", "generate.best_of_sequences")
def test_tgis_best_of_without_n_tells_all_the_others_in_the_details(client, generate):
    wanted = {"best_of": 4, "seed": 20, "temperature": 1.5, "max_new_tokens": 9}
    ranked = sorted(told(generate(n=4, **wanted)), key=mean_logprob, reverse=True)
    assert told(generate(**wanted)) == ranked
    bare = client.post("/generate", json={"inputs": "The old man", "parameters": wanted}).json()
    assert bare == {"generated_text": ranked[0]["generated_text"]}


@pytest.mark.row("completions.best_of", "completions.usage")
def test_openais_best_of_counts_all_that_was_drawn(complete, generate):
    wanted = {"seed": 20, "temperature": 1.5}
    drawn = told(generate(n=5, max_new_tokens=9, **wanted))
    answer = complete(n=2, best_of=5, max_tokens=9, **wanted)
    texts = [sample["generated_text"] for sample in sorted(drawn, key=mean_logprob, reverse=True)]
    assert [choice["text"] for choice in answer["choices"]] == texts[:2]
    assert [choice["index"] for choice in answer["choices"]] == [0, 1]
    assert answer["usage"]["completion_tokens"] == sum(sample["generated_tokens"] for sample in drawn)


def test_among_equally_likely_samples_the_first_is_the_best(generate):
    assert [sample["seed"] for sample in told(generate(n=2, best_of=5, seed=8, max_new_tokens=3))] == [8, 9]


def test_best_of_equal_to_n_is_not_ranked_and_may_be_streamed(generate, stream):
    wanted = {"seed": 20, "temperature": 1.5, "max_new_tokens": 5, "n": 4}
    assert generate(best_of=4, **wanted) == generate(**wanted)
    key = lambda event: (event["sample"], event["index"])  # noqa: E731  # samples may take turns in any order
    assert sorted(stream(best_of=4, **wanted), key=key) == sorted(stream(**wanted), key=key)


@pytest.mark.row("generate.details")
def test_details_come_with_several_samples_even_if_nobody_asked(client):
    answer = client.post("/generate", json={"inputs": "a", "parameters": {"n": 3, "max_new_tokens": 2}}).json()
    assert len(answer["details"]["best_of_sequences"]) == 2
    assert set(answer["details"]["best_of_sequences"][0]) >= {
        "generated_text",
        "finish_reason",
        "generated_tokens",
        "prefill",
        "seed",
        "tokens",
    }


@pytest.mark.row("header.seed", "header.generated_tokens")
def test_the_headers_have_the_first_seed_and_all_samples_tokens(client):
    response = client.post("/generate", json={"inputs": "a", "parameters": {"n": 3, "best_of": 4, "max_new_tokens": 2, "seed": 5}})
    assert (response.headers["x-seed"], response.headers["x-generated-tokens"]) == ("5", "8")


def test_every_drawn_seed_can_be_read_by_javascript(client):
    response = client.post("/generate", json={"inputs": "a", "parameters": {"n": 16, "do_sample": True, "max_new_tokens": 1}})
    assert response.json()["details"]["best_of_sequences"][-1]["seed"] < 2**53
