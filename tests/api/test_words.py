"""A vocabulary of words, which puts tokens around every text; what tells answers apart; what nobody foresaw."""

import json
import shutil
from pathlib import Path

import httpx
import pytest

from app.sample import Sample
from tests.api.conftest import Json


def post(url: str, path: str, body: Json) -> Json:
    response = httpx.post(url + path, json=body, timeout=60)
    assert response.status_code == 200, response.text
    return response.json()


@pytest.mark.parametrize("fields", [{"echo": True}, {"echo": True, "logprobs": 1}, {"prompt_logprobs": 1}])
@pytest.mark.parametrize("prompt", ["", " ", [], ["", "the old", " "]])
def test_a_prompt_of_nothing_is_one_end_token_and_is_told_as_nothing(start_server, words_checkpoint, prompt, fields):
    server = start_server(model=str(words_checkpoint))
    body = {"prompt": prompt, "max_tokens": 2, "temperature": 0, "add_special_tokens": False, **fields}
    answer = post(server.url, "/v1/completions", body)
    num_nothing = 2 if isinstance(prompt, list) and prompt else 1
    assert answer["usage"]["prompt_tokens"] == num_nothing + (2 if num_nothing == 2 else 0)


def test_nothing_is_one_end_token_whatever_the_tokenizer_puts_around_a_text(start_server, words_checkpoint):
    server = start_server(model=str(words_checkpoint))
    wanted = {"max_new_tokens": 2, "details": True, "decoder_input_details": True, "seed": 1}
    nothing = post(server.url, "/generate", {"inputs": "", "parameters": wanted})
    end = server.service.generator.eos_token_ids[0]
    assert nothing["details"]["input_length"] == 1
    assert [token["id"] for token in nothing["details"]["prefill"]] == [end]
    assert post(server.url, "/generate", {"inputs": "the olds", "parameters": wanted})["details"]["input_length"] == 5


def changed_config(directory: Path) -> None:
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**config, "n_head": 2}))


def changed_tokenizer(directory: Path) -> None:
    (directory / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer", "do_lower_case": False}))


@pytest.mark.parametrize("change", [changed_config, changed_tokenizer])
def test_the_fingerprint_is_another_if_the_same_weights_answer_otherwise(start_server, words_checkpoint, tmp_path, change):
    shutil.copytree(words_checkpoint, tmp_path / "other")
    change(tmp_path / "other")
    prints = [
        start_server(model=str(model)).service.info.fingerprint
        for model in (words_checkpoint, words_checkpoint, tmp_path / "other")
    ]
    assert prints[0] == prints[1] != prints[2]


def test_the_fingerprint_is_another_by_another_chat_template(start_server):
    names = ("", "plain", "dialogpt", "plain")
    prints = [start_server(chat_template=name).service.info.fingerprint for name in names]
    assert prints[1] == prints[3]
    assert len(set(prints)) == 3


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/generate_stream", {"inputs": "a", "parameters": {"max_new_tokens": 5}}),
        ("/v1/completions", {"prompt": "a", "stream": True, "ignore_eos": True}),
    ],
)
def test_what_nobody_foresaw_is_the_last_event_of_a_stream_under_way(stepped_server, monkeypatch, sse, path, body):
    server, runner = stepped_server()
    take = Sample.take

    def break_later(sample, output):
        if sample.num_generated == 2:
            raise RuntimeError("a fault of ours")
        return take(sample, output)

    monkeypatch.setattr(Sample, "take", break_later)
    runner.let_through(1)
    with httpx.stream("POST", server.url + path, json=body, timeout=60) as response:
        runner.open()  # the status is there: it came with the first token
        events = [event for event in sse(response) if event != "[DONE]"]
    assert events[0].get("error") is None, "the stream was under way"
    assert "the log has it under" in str(events[-1]["error"])
    assert response.headers["x-request-id"] in str(events[-1]["error"])
    assert ("[DONE]" in response.text) == path.startswith("/v1")
