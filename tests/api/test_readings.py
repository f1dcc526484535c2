"""How a text is read and written in both dialects: special tokens in it, BOS before it, special tokens of the answer."""

import json
import shutil

import httpx
import pytest

END = 499
SPELT = "the<|endoftext|>sea"


@pytest.fixture
def with_bos(start_server, tiny_checkpoint, tmp_path):
    """A server whose tokenizer puts the end token before every text, as `add_bos_token` asks."""
    directory = shutil.copytree(tiny_checkpoint, tmp_path / "with-bos")
    names = {"tokenizer_class": "GPT2Tokenizer", "bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"}
    (directory / "tokenizer_config.json").write_text(json.dumps(names | {"add_bos_token": True}))
    with httpx.Client(base_url=start_server(model=str(directory)).url, timeout=60) as client:
        yield client


def ids_of(client, text, **fields):
    return [token["id"] for token in client.post("/tokenize", json={"inputs": text, **fields}).json()]


def prompt_sizes(client, text, **fields):
    """How many tokens the prompt has in each dialect."""
    native = client.post("/generate", json={"inputs": text, "parameters": {"max_new_tokens": 1, **fields}})
    openai = client.post("/v1/completions", json={"prompt": text, "max_tokens": 1, **fields})
    return [int(native.headers["x-prompt-tokens"]), openai.json()["usage"]["prompt_tokens"]]


@pytest.mark.row("tokens.added")
def test_a_special_token_in_a_text_is_one_token(client):
    ids = ids_of(client, SPELT)
    assert ids == [*ids_of(client, "the"), END, *ids_of(client, "sea")]
    assert prompt_sizes(client, SPELT) == [len(ids)] * 2


@pytest.mark.row("tokens.parse_special")
def test_a_special_token_is_plain_text_if_that_is_asked_for(client):
    plain = ids_of(client, SPELT, parse_special=False)
    assert END not in plain
    assert prompt_sizes(client, SPELT, parse_special=False) == [len(plain)] * 2
    assert len(plain) > len(ids_of(client, SPELT))


@pytest.mark.row("tokens.bos", "tokens.add_special_tokens")
def test_bos_comes_first_unless_it_is_not_wanted(with_bos, client):
    plain = ids_of(client, "The old man")
    assert ids_of(with_bos, "The old man") == [END, *plain]
    assert ids_of(with_bos, "The old man", add_special_tokens=False) == plain
    assert prompt_sizes(with_bos, "The old man") == [len(plain) + 1] * 2
    assert prompt_sizes(with_bos, "The old man", add_special_tokens=False) == [len(plain)] * 2


@pytest.mark.row("tokens.skip_special_tokens", "tokens.special_output")
def test_special_tokens_of_an_answer_are_shown_if_that_is_asked_for(generate, complete, stream, chunks):
    ends = {"logit_bias": {str(END): 100}, "ignore_eos": True}
    for fields, text in (({}, ""), ({"skip_special_tokens": False}, "<|endoftext|>" * 3)):
        assert generate(max_new_tokens=3, **ends, **fields)["generated_text"] == text
        assert complete(max_tokens=3, **ends, **fields)["choices"][0]["text"] == text
        assert [event["token"]["text"] for event in stream(max_new_tokens=3, **ends, **fields)] == [text[:13]] * 3
        assert [event["choices"][0]["text"] for event in chunks(max_tokens=3, **ends, **fields)[:-1]] == [text[:13]] * 3


@pytest.mark.row("detokenize.skip_special_tokens")
def test_detokenize_leaves_special_tokens_out_if_that_is_asked_for(client):
    assert client.post("/detokenize", json={"ids": [END]}).json() == {"text": "<|endoftext|>"}
    assert client.post("/detokenize", json={"ids": [END], "skip_special_tokens": True}).json() == {"text": ""}
