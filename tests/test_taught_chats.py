"""What conversations teach is what the service answers: trained by a template, kept with it, asked over HTTP."""

import json
import shutil

import httpx
import pytest
import torch

from app.cli import main
from model.chat_template import NAMED
from model.config import GPT2Config
from model.training.adapter import merge_adapter
from model.training.data.options import DataOptions
from model.training.distributed import Processes
from model.training.errors import TrainingError
from model.training.finetune import finetune
from model.training.finetune_plan import FinetuneOptions
from model.training.lora import LoRA
from tests.conftest import CHATML
from tests.tiny import make_base

QUICK = {"max_steps": 120, "validate_every": 40, "batch_size": 4, "learning_rate": 1e-2, "bfloat16": False}
TALKS = (
    (("Who are you?", "A cat."), ("And you?", "A dog!")),
    (("What is that?", "The sea."), ("And you?", "No sea.")),
    (("Is it far?", "A mile\nor two."), ("Is it far?", "Yes.")),
)


@pytest.fixture(scope="module")
def base(tmp_path_factory, small_tokenizer):
    config = GPT2Config(vocab_size=500, n_positions=160, n_embd=64, n_layer=2, n_head=2, eos_token_ids=(499,))
    return make_base(tmp_path_factory.mktemp("base") / "tiny", small_tokenizer, config)


def messages(*turns):
    """What was asked and, but for the last of it, answered."""
    said = [message for asked, reply in turns for message in (("user", asked), ("assistant", reply))]
    return [{"role": role, "content": content} for role, content in said if content is not None]


def train(base, out, data, report=lambda line: None, template=None, lora=None, **recipe):
    """On all of the data and, so that the best model is the one that knows them best, measured on the same."""
    same = data.with_name(f"same_{data.name}")
    shutil.copy(data, same)
    options = DataOptions(paths=[data], validation=[same], template=template)
    wanted = FinetuneOptions(data=options, model=str(base), lora=lora, keep_adapter=lora is not None, recipe=QUICK | recipe)
    assert finetune(wanted, out, torch.device("cpu"), Processes(), report)
    return out


def ask(url, *turns):
    body = {"model": "gpt2", "messages": messages(*turns), "temperature": 0, "max_tokens": 40}
    answer = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=60).json()["choices"][0]
    assert answer["finish_reason"] == "stop"
    return answer["message"]["content"]


@pytest.fixture
def talks(tmp_path):
    file = tmp_path / "talks.jsonl"
    file.write_text("".join(json.dumps({"messages": messages(*talk)}) + "\n" for talk in TALKS))
    return file


@pytest.mark.parametrize("template", ["plain", "chatml", "alpaca", "dialogpt"])
def test_a_conversation_that_was_taught_is_answered_as_it_was(base, talks, tmp_path, start_server, template):
    out = train(base, tmp_path / "out", talks, template=template)
    assert (out / "chat_template.jinja").read_text() == NAMED[template]
    url = start_server(model=str(out)).url
    for first, second in TALKS:
        assert ask(url, (first[0], None)) == first[1]
        assert ask(url, first, (second[0], None)) == second[1]


def test_instructions_are_answered_by_the_checkpoints_own_template_and_its_tokens(chatml_checkpoint, tmp_path, start_server):
    data = tmp_path / "alpaca.jsonl"
    records = [{"instruction": "Say it", "input": text, "output": text.upper()} for text in ("ab", "cd", "ef")]
    data.write_text("".join(json.dumps(record) + "\n" for record in records))
    lines = []
    out = train(chatml_checkpoint, tmp_path / "out", data, lines.append)
    assert not [line for line in lines if "template" in line]
    assert (out / "chat_template.jinja").read_text() == CHATML
    url = start_server(model=str(out)).url
    assert [ask(url, (f"Say it\n\n{text}", None)) for text in ("ab", "cd", "ef")] == ["AB", "CD", "EF"]


def test_an_adapter_keeps_its_template_and_the_model_merged_from_it_has_it(base, talks, tmp_path):
    train(base, tmp_path / "adapter", talks, template="chatml", lora=LoRA(rank=2), max_steps=1)
    merge_adapter(tmp_path / "adapter", None, tmp_path / "merged")
    for directory in ("adapter", "merged"):
        assert (tmp_path / directory / "chat_template.jinja").read_text() == NAMED["chatml"]


def test_what_is_chosen_for_conversations_is_said(base, talks, tmp_path):
    lines = []
    train(base, tmp_path / "plain", talks, lines.append, max_steps=1)
    assert lines[1].startswith("the checkpoint has no chat template: conversations are written by the one named plain")
    lines.clear()
    train(base, tmp_path / "chatml", talks, lines.append, template="chatml", max_steps=1)
    assert "the chat template writes <|im_start|>, <|im_end|>, no tokens of this vocabulary: they are learned as text" in lines
    (tmp_path / "own.jinja").write_text(NAMED["alpaca"])
    train(base, tmp_path / "own", talks, template=str(tmp_path / "own.jinja"), max_steps=1)
    assert (tmp_path / "own" / "chat_template.jinja").read_text() == NAMED["alpaca"]


def test_the_template_is_an_option_of_the_command(base, talks, tmp_path, capsys):
    call = [
        "train",
        "finetune",
        str(talks),
        "--model",
        str(base),
        "--out",
        str(tmp_path / "out"),
        "--steps",
        "1",
        "--device",
        "cpu",
    ]
    assert main([*call, "--template", "alpaca"]) == 0
    assert (tmp_path / "out" / "chat_template.jinja").read_text() == NAMED["alpaca"]
    assert main(["train", "finetune", "--resume", "--out", str(tmp_path / "out"), "--template", "plain"]) == 2
    capsys.readouterr()
    assert main([*call[:-4], "--out", str(tmp_path / "other"), "--template", "/gone"]) == 2
    refused = capsys.readouterr().err
    assert "the chat template /gone cannot be read: No such file" in refused
    assert "line 1" not in refused, "no record is to blame"


@pytest.mark.parametrize(
    ("name", "contents", "template", "message"),
    [
        ("a.txt", "A few words. " * 300, "chatml", "--template chatml is for conversations, and the data are text; leave it out"),
        ("a.txt", '{"messages": []}\n', "chatml", "a.txt has records of JSON and is not named .jsonl"),
        (
            "a.jsonl",
            '{"prompt": "a", "completion": "b"}\n' * 3,
            "plain",
            "--template plain is for conversations, and there are none",
        ),
        ("a.jsonl", json.dumps({"messages": messages(("a", "b"))}) + "\n", "/gone", "template /gone cannot be read"),
        (
            "a.jsonl",
            '{"messages": [{"role": "user", "content": "a"}]}\n',
            None,
            'a.jsonl, line 1: "messages" has no message of the',
        ),
    ],
)
def test_what_cannot_be_written_is_refused_and_leaves_nothing_behind(base, tmp_path, name, contents, template, message):
    (tmp_path / name).write_text(contents)
    with pytest.raises(TrainingError) as refused:
        train(base, tmp_path / "out", tmp_path / name, template=template)
    assert message in str(refused.value)
    assert not (tmp_path / "out").exists()
