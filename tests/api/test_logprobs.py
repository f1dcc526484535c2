"""Log-probabilities of generated tokens, of prompts, and of the likeliest beside them, in TGI's, OpenAI's and vLLM's forms."""

import pytest
import torch
from transformers import GPT2LMHeadModel

PROMPT = "The old man, é and 日本, looked at the sea."
TOLERANCE = 1e-4  # of float32 against float64


@pytest.fixture(scope="module")
def server(server_of_each_kind):
    return server_of_each_kind


@pytest.fixture(scope="module")
def reference(tiny_checkpoint):
    """Log-probabilities after each position (T, V), by transformers in float64."""
    model = GPT2LMHeadModel.from_pretrained(tiny_checkpoint).double().eval()

    def logprobs(ids):
        with torch.inference_mode():
            return torch.log_softmax(model(torch.tensor([ids])).logits[0], dim=-1)

    return logprobs


@pytest.fixture
def ids_of(client):
    return lambda text: [token["id"] for token in client.post("/tokenize", json={"inputs": text}).json()]


def is_near(values, wanted):
    return values == pytest.approx([float(value) for value in wanted], abs=TOLERANCE)


@pytest.mark.row("generate.decoder_input_details", "generate.prefill")
@pytest.mark.parametrize("prompt", [PROMPT, "a", "word after word " * 40], ids=["short", "one token", "several chunks"])
def test_the_prompts_own_tokens_have_the_log_probabilities_of_the_reference(generate, reference, ids_of, prompt):
    prefill = generate(prompt, max_new_tokens=1, decoder_input_details=True)["details"]["prefill"]
    ids = ids_of(prompt)
    assert [token["id"] for token in prefill] == ids
    assert "".join(token["text"] for token in prefill) == prompt
    assert prefill[0]["logprob"] is None
    rows = reference(ids)
    assert is_near([token["logprob"] for token in prefill[1:]], [rows[i, ids[i + 1]] for i in range(len(ids) - 1)])


@pytest.mark.row("generate.top_n_tokens", "generate.tokens")
def test_generated_tokens_and_the_likeliest_beside_them_have_those_too(generate, reference, ids_of):
    details = generate(PROMPT, max_new_tokens=8, temperature=1.5, seed=3, top_n_tokens=5)["details"]
    ids = ids_of(PROMPT)
    drawn = [token["id"] for token in details["tokens"]]
    rows = reference(ids + drawn)[len(ids) - 1 :]
    assert is_near([token["logprob"] for token in details["tokens"]], [rows[i, token_id] for i, token_id in enumerate(drawn)])
    for row, top in zip(rows, details["top_tokens"], strict=False):
        assert is_near([token["logprob"] for token in top], row.topk(5).values)
        assert is_near([token["logprob"] for token in top], [row[token["id"]] for token in top])
        assert all(set(token) == {"id", "text", "logprob", "special"} for token in top)


def test_the_likeliest_token_is_the_first_of_the_top_and_the_greedy_choice(generate):
    details = generate(max_new_tokens=12, top_n_tokens=3)["details"]
    for token, top in zip(details["tokens"], details["top_tokens"], strict=True):
        assert (top[0]["id"], top[0]["logprob"]) == (token["id"], token["logprob"])
        assert [other["logprob"] for other in top] == sorted((other["logprob"] for other in top), reverse=True)


@pytest.mark.parametrize("num", [1, 5])
def test_each_event_of_a_stream_has_its_top_tokens(generate, stream, num):
    wanted = {"max_new_tokens": 4, "top_n_tokens": num}
    assert [event["top_tokens"] for event in stream(**wanted)] == generate(**wanted)["details"]["top_tokens"]


@pytest.mark.row("generate.details")
def test_asking_for_log_probabilities_asks_for_details(client):
    for asked in ({"top_n_tokens": 1}, {"decoder_input_details": True}):
        answer = client.post("/generate", json={"inputs": "a", "parameters": {"max_new_tokens": 1, **asked}}).json()
        assert answer["details"]["tokens"]


@pytest.mark.row("generate.prefill", "stream.native_last")
def test_a_stream_tells_the_prompts_log_probabilities_at_its_end(generate, stream):
    wanted = {"max_new_tokens": 3, "decoder_input_details": True}
    assert stream(**wanted)[-1]["details"]["prefill"] == generate(**wanted)["details"]["prefill"]


@pytest.mark.row("completions.logprobs")
@pytest.mark.parametrize("num", range(6))
def test_openais_logprobs_are_four_lists_with_the_chosen_token_among_the_top(complete, generate, num):
    fields = {"temperature": 1.5, "seed": 4}
    choice = complete(PROMPT, logprobs=num, max_tokens=12, **fields)["choices"][0]
    tokens = generate(PROMPT, max_new_tokens=12, **fields)["details"]["tokens"]
    logprobs = choice["logprobs"]
    assert list(logprobs) == ["tokens", "token_logprobs", "top_logprobs", "text_offset"]
    assert logprobs["token_logprobs"] == [token["logprob"] for token in tokens]
    for name, logprob, top in zip(logprobs["tokens"], logprobs["token_logprobs"], logprobs["top_logprobs"], strict=True):
        assert top[name] == logprob
        assert num <= len(top) <= num + 1
        assert all(other >= logprob for key, other in top.items() if key != name) or len(top) == num


@pytest.mark.row("completions.logprobs")
def test_offsets_tell_where_in_the_choices_text_each_token_stands(complete):
    for fields in ({}, {"echo": True}):
        choice = complete("The old man looked", logprobs=0, max_tokens=20, temperature=0.5, **fields)["choices"][0]
        logprobs = choice["logprobs"]
        assert logprobs["text_offset"][0] == 0
        assert logprobs["text_offset"] == sorted(logprobs["text_offset"])
        whole = [pair for pair in zip(logprobs["tokens"], logprobs["text_offset"], strict=True) if "bytes:" not in pair[0]]
        assert len(whole) > 2
        assert all(choice["text"][offset : offset + len(token)] == token for token, offset in whole)


def test_a_token_that_is_no_whole_character_is_written_as_its_bytes(complete):
    choice = complete(echo=True, prompt="é", max_tokens=2, logprobs=0, logit_bias={"127": 100})["choices"][0]
    assert choice["logprobs"]["tokens"][-2:] == ["bytes:\\xc3"] * 2
    assert choice["logprobs"]["text_offset"][-2:] == [1, 2]
    assert choice["text"] == "é\ufffd\ufffd"


def test_the_end_token_is_written_by_its_name_at_the_end_of_the_text(complete):
    choice = complete(logit_bias={"499": 100}, logprobs=1)["choices"][0]
    assert (choice["text"], choice["logprobs"]["tokens"], choice["logprobs"]["text_offset"]) == ("", ["<|endoftext|>"], [0])


@pytest.mark.row("completions.echo")
def test_an_echo_puts_prompt_and_log_probabilities_first(complete, reference, ids_of):
    plain, echoed = (complete(PROMPT, logprobs=2, max_tokens=6, echo=echo)["choices"][0] for echo in (False, True))
    ids = ids_of(PROMPT)
    assert echoed["text"] == PROMPT + plain["text"]
    logprobs = echoed["logprobs"]
    assert (logprobs["token_logprobs"][0], logprobs["top_logprobs"][0], logprobs["text_offset"][0]) == (None, None, 0)
    assert logprobs["token_logprobs"][len(ids) :] == plain["logprobs"]["token_logprobs"]
    assert logprobs["tokens"][len(ids) :] == plain["logprobs"]["tokens"]
    assert logprobs["text_offset"][len(ids) :] == [len(PROMPT) + offset for offset in plain["logprobs"]["text_offset"]]
    rows = reference(ids)
    assert is_near(logprobs["token_logprobs"][1 : len(ids)], [rows[i, ids[i + 1]] for i in range(len(ids) - 1)])
    for row, top in zip(rows, logprobs["top_logprobs"][1 : len(ids)], strict=False):
        assert is_near(sorted(top.values(), reverse=True)[:2], row.topk(2).values)


@pytest.mark.row("completions.echo")
def test_an_echo_alone_is_the_prompt_before_the_text(complete):
    plain, echoed = (complete(PROMPT, max_tokens=6, echo=echo)["choices"][0] for echo in (False, True))
    assert echoed == plain | {"text": PROMPT + plain["text"]}


@pytest.mark.row("completions.max_tokens_zero")
@pytest.mark.parametrize("fields", [{}, {"logprobs": 1}, {"logprobs": 0, "prompt_logprobs": 3}, {"n": 3, "logprobs": 1}])
def test_without_new_tokens_an_echo_scores_the_prompt_alone(complete, chunks, fields):
    answer = complete(PROMPT, max_tokens=0, echo=True, **fields)
    longer = complete(PROMPT, max_tokens=1, echo=True, **fields)
    assert len(answer["choices"]) == fields.get("n", 1)
    assert answer["usage"]["completion_tokens"] == 0
    for choice, more in zip(answer["choices"], longer["choices"], strict=True):
        assert (choice["text"], choice["finish_reason"]) == (PROMPT, "length")
        assert choice.get("prompt_logprobs") == more.get("prompt_logprobs")
        for name, values in (choice["logprobs"] or {}).items():
            assert values == more["logprobs"][name][:-1]
    *events, done = chunks(PROMPT, max_tokens=0, echo=True, **fields)
    assert done == "[DONE]"
    assert [event["choices"][0] for event in events] == answer["choices"]


def test_a_prompt_may_fill_the_whole_context_where_nothing_is_generated(complete, client):
    prompt = "\x00" * 1024
    assert complete(prompt, max_tokens=0, echo=True, logprobs=0)["usage"]["total_tokens"] == 1024
    response = client.post("/v1/completions", json={"prompt": prompt + "\x00", "max_tokens": 0, "echo": True})
    assert response.status_code == 400
    assert "1024" in response.json()["error"]["message"]


@pytest.mark.row("completions.prompt_logprobs")
@pytest.mark.parametrize("num", [0, 3, 20])
def test_vllms_prompt_logprobs_are_by_id_with_ranks(complete, reference, ids_of, num):
    choice = complete(PROMPT, max_tokens=2, prompt_logprobs=num)["choices"][0]
    ids, told = ids_of(PROMPT), choice["prompt_logprobs"]
    assert len(told) == len(ids)
    assert told[0] is None
    for row, token_id, entry in zip(reference(ids), ids[1:], told[1:], strict=False):
        own = entry[str(token_id)]
        assert set(own) == {"logprob", "rank", "decoded_token"}
        assert own["logprob"] == pytest.approx(float(row[token_id]), abs=TOLERANCE)
        assert num <= len(entry) <= num + 1
        ranked = sorted((e for e in entry.values() if e["rank"] is not None), key=lambda e: e["rank"])
        assert [e["rank"] for e in ranked] == list(range(1, num + 1))
        assert is_near([e["logprob"] for e in ranked], row.topk(num).values)


def test_prompt_logprobs_come_in_the_first_chunk_of_a_stream(complete, chunks):
    wanted = {"max_tokens": 2, "prompt_logprobs": 2, "logprobs": 1}
    first, *others, _ = chunks(PROMPT, **wanted)
    assert first["choices"][0]["prompt_logprobs"] == complete(PROMPT, **wanted)["choices"][0]["prompt_logprobs"]
    assert first["choices"][0]["text"] == ""
    assert all("prompt_logprobs" not in event["choices"][0] for event in others)


def test_different_numbers_of_alternatives_may_be_asked_for_at_once(complete):
    choice = complete(PROMPT, max_tokens=2, echo=True, logprobs=1, prompt_logprobs=4)["choices"][0]
    assert choice == complete(PROMPT, max_tokens=2, echo=True, logprobs=1)["choices"][0] | {
        "prompt_logprobs": complete(PROMPT, max_tokens=2, prompt_logprobs=4)["choices"][0]["prompt_logprobs"]
    }
