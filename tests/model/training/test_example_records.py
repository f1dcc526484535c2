"""Which records are examples, what they say, and what of them is not used."""

import json
from pathlib import Path

import numpy as np
import pytest

from model.training.data.conversations import ChatWriter
from model.training.data.example_files import ExampleEncoder, hold_examples, read_examples
from model.training.data.example_records import Conversation, Pair, kind_to_read, unused_fields
from model.training.errors import TrainingError
from tests.model.training.test_conversations import END, EOS, learned_of, message, template_of, text_of

SYSTEM, USER, REPLY = message("system", "Be kind."), message("user", "Hello"), message("assistant", "Hi!")
TALK = [SYSTEM, USER, REPLY]
CALL = {"tool_calls": [{"type": "function", "function": {"name": "now", "arguments": "{}"}}]}
HELLO, HI = {"from": "human", "value": "Hello"}, {"from": "gpt", "value": "Hi!"}


@pytest.fixture
def encoder(small_tokenizer):
    return ExampleEncoder(small_tokenizer, EOS, lambda: ChatWriter(template_of("plain"), small_tokenizer, EOS))


def write(file, *records):
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    return file


@pytest.mark.parametrize(
    ("record", "example"),
    [
        ({"prompt": "a", "completion": " b"}, Pair("a", " b")),
        ({"prompt": [USER], "completion": [REPLY]}, Conversation([USER, REPLY], first_learned=1)),
        ({"prompt": [USER, REPLY, USER], "completion": [REPLY]}, Conversation([USER, REPLY, USER, REPLY], first_learned=3)),
        ({"messages": TALK}, Conversation(TALK)),
        ({"messages": [USER, REPLY, USER]}, Conversation([USER, REPLY])),
        ({"system": "Be kind.", "messages": [USER, REPLY]}, Conversation(TALK)),
        ({"messages": [USER | {"name": "Ann"}, REPLY]}, Conversation([USER | {"name": "Ann"}, REPLY])),
        ({"conversations": [{"from": "system", "value": "Be kind."}, HELLO, HI]}, Conversation(TALK)),
        ({"system": "Be kind.", "conversations": [{"from": "user", "value": "Hello"}, HI]}, Conversation(TALK)),
        ({"messages": [message(" System", "Be kind."), USER, message("Assistant ", "Hi!")]}, Conversation(TALK)),
        ({"messages": [message("USER", "Hello"), message("Model", "Hi!")]}, Conversation([USER, REPLY])),
        ({"conversations": [HELLO | {"from": "Human"}, HI | {"from": "bot"}]}, Conversation([USER, REPLY])),
        ({"messages": [message("Ann", "Hello"), REPLY]}, Conversation([message("Ann", "Hello"), REPLY])),
        ({"messages": [USER, REPLY | {"tool_calls": None, "function_call": None}]}, Conversation([USER, REPLY])),
        ({"messages": [HELLO | {"role": None, "content": None}, REPLY]}, Conversation([USER, REPLY])),
        ({"messages": [USER, message("assistant", [{"type": "text", "text": "Hi!"}])]}, Conversation([USER, REPLY])),
        (
            {"messages": [message("user", [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]), REPLY]},
            Conversation([message("user", "one\ntwo"), REPLY]),
        ),
        ({"instruction": "Hello", "input": "", "output": "Hi!"}, Conversation([USER, REPLY])),
        ({"instruction": "Hello", "output": "Hi!"}, Conversation([USER, REPLY])),
        ({"instruction": "Say", "input": "Hello", "output": "Hi!"}, Conversation([message("user", "Say\n\nHello"), REPLY])),
    ],
)  # fmt: skip
def test_records_are_read_by_their_fields(record, example):
    kind = kind_to_read(record)
    assert kind.read(record) == example
    assert unused_fields(record, kind.fields) == set()


@pytest.mark.parametrize(
    ("record", "unused"),
    [
        ({"prompt": "a", "completion": "b", "label": 1, "system": "c"}, {"label", "system"}),
        ({"messages": [USER, REPLY | {"weight": 0}], "id": 7, "prompt": "a"}, {"messages.weight", "id", "prompt"}),
        ({"instruction": "a", "input": None, "output": "b", "text": "ab"}, {"text"}),
    ],
)
def test_fields_that_are_not_used_are_named(record, unused):
    assert unused_fields(record, kind_to_read(record).fields) == unused


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"prompt": [USER], "completion": "a"}, 'no "completion" field that is a list of messages'),
        ({"prompt": "a", "completion": [REPLY]}, 'no "prompt" field that is a list of messages'),
        ({"prompt": [USER]}, 'no "completion" field that is a list of messages'),
        ({"messages": "a"}, 'no "messages" field that is a list of messages'),
        ({"messages": []}, 'no "messages" field that is a list of messages'),
        (
            {"messages": [USER, message("Ann", "Hi!"), USER]},
            '"messages" has no message of the assistant, whose words alone are learned; its roles are user, Ann',
        ),
        ({"prompt": [REPLY], "completion": [USER]}, '"completion" has no message of the assistant'),
        ({"messages": [USER, "Hi!"]}, '"messages", message 2 is not an object'),
        ({"messages": [{"content": "a"}]}, '"messages", message 1 has no "role", or "from", that is a string'),
        ({"messages": [{"role": "assistant", "content": None}]}, 'message 1 has no "content", or "value", that is a string'),
        (
            {"messages": [USER, message("assistant", "") | CALL]},
            '"messages", message 2 has "tool_calls", and GPT-2 calls no tools; write',
        ),
        ({"messages": [USER, message("assistant", None) | CALL]}, 'message 2 has "tool_calls", and GPT-2 calls no tools'),
        ({"messages": [USER, message("assistant", None) | {"function_call": {"name": "now"}}]}, 'message 2 has "function_call"'),
        (
            {"messages": [message("user", [{"type": "image_url"}]), REPLY]},
            'message 1: part 0 is of the type "image_url"; GPT-2 reads',
        ),
        ({"messages": [message("user", ["Hello"]), REPLY]}, '"messages", message 1: part 0 is no object with a type'),
        ({"messages": [message("assistant", "\ud800")]}, "message 1 has half a surrogate pair"),
        ({"messages": [USER, REPLY], "system": 3}, 'no "system" field that is a string'),
        ({"instruction": "a"}, 'no "output" field that is a string'),
        ({"instruction": "a", "input": ["b"], "output": "c"}, 'no "input" field that is a string'),
        (
            {"prompt": "a", "chosen": "b", "rejected": "c"},
            '"chosen" and "rejected" are preferences; gpt2 train dpo learns from these',
        ),
    ],
)
def test_a_record_that_is_no_example_is_refused_for_what_is_wrong_with_it(record, message):
    with pytest.raises(TrainingError) as refused:
        kind_to_read(record).read(record)
    assert message in str(refused.value)


def test_kinds_may_be_mixed(encoder, small_tokenizer, tmp_path):
    records = [
        {"prompt": "a", "completion": " b"},
        {"messages": [USER, REPLY]},
        {"conversations": [{"from": "human", "value": "c"}, {"from": "gpt", "value": "d"}]},
        {"instruction": "e", "output": "f"},
    ]
    files = [write(tmp_path / f"{number}.jsonl", *records[number:]) for number in range(4)]
    assert hold_examples(files)
    examples = read_examples(files[:1], encoder, 64, lambda line: None)
    assert text_of(small_tokenizer, learned_of(examples)) == " b<|endoftext|> Hi!<|endoftext|> d<|endoftext|> f<|endoftext|>"
    assert encoder.writer.origin == "plain"


def test_the_examples_of_the_page_are_read(encoder, tmp_path):
    page = (Path(__file__).parents[3] / "docs" / "training.md").read_text(encoding="utf-8")
    shown = [line.strip() for line in page.splitlines() if line.startswith('    {"')]
    file = tmp_path / "page.jsonl"
    file.write_text("\n".join(shown))
    examples = read_examples([file], encoder, 64, pytest.fail)
    assert len(examples) == len(shown) == 4


def test_no_template_is_looked_for_where_there_are_no_conversations(small_tokenizer, tmp_path):
    file = write(tmp_path / "a.jsonl", {"prompt": "a", "completion": " b"})
    encoder = ExampleEncoder(small_tokenizer, EOS, pytest.fail)
    read_examples([file], encoder, 64, lambda line: None)
    assert encoder.writer is None


def test_preferences_are_refused_by_the_first_line_and_by_any_other(encoder, tmp_path):
    pair, preference = {"prompt": "a", "completion": "b"}, {"prompt": "a", "chosen": "b", "rejected": "c"}
    with pytest.raises(TrainingError, match=r"a.jsonl, line 1: .* gpt2 train dpo learns from these"):
        hold_examples([write(tmp_path / "a.jsonl", preference)])
    with pytest.raises(TrainingError, match=r"b.jsonl, line 2: .* gpt2 train dpo learns from these"):
        read_examples([write(tmp_path / "b.jsonl", pair, preference)], encoder, 64, lambda line: None)


def test_what_is_not_learned_is_counted_a_line_each(encoder, tmp_path):
    records = [
        {"prompt": "a", "completion": "b", "label": 1, "id": 1},
        {"prompt": "a", "completion": "", "label": 1},
        {"messages": [USER, message("assistant", "")], "label": 1},
        {"prompt": "a", "completion": "b" * 90},
    ]
    lines = []
    examples = read_examples([file := write(tmp_path / "a.jsonl", *records)], encoder, 64, lines.append)
    assert len(examples) == 3
    assert lines == [
        f"1 of 4 examples are left out: longer than 64 tokens; the first is {file}, line 4",
        "2 of 4 examples have an empty completion, which teaches to say nothing",
        'fields that are not used, with the number of examples that have them: "label" (3), "id" (1)',
    ]


@pytest.mark.parametrize(
    ("ended", "plain"),
    [
        ({"prompt": "a ->", "completion": f" sea{END}"}, {"prompt": "a ->", "completion": " sea"}),
        ({"messages": [USER, message("assistant", f"Hi!{END}"), USER, REPLY]}, {"messages": [USER, REPLY, USER, REPLY]}),
        (
            {"prompt": [USER, message("assistant", f"Hi!{END}"), USER], "completion": [message("assistant", f"Hi!{END}")]},
            {"prompt": [USER, REPLY, USER], "completion": [REPLY]},
        ),
    ],
)
@pytest.mark.parametrize("template", ["plain", "dialogpt", "chatml"])
def test_an_end_token_that_an_answer_brings_along_is_the_one_that_is_learned_there(
    small_tokenizer, tmp_path, template, ended, plain
):
    encoder = ExampleEncoder(small_tokenizer, EOS, lambda: ChatWriter(template_of(template), small_tokenizer, EOS))
    lines = []
    examples = read_examples([write(tmp_path / "a.jsonl", ended, plain)], encoder, 128, lines.append)
    (ids, plain_ids), (targets, plain_targets) = (tensor.tolist() for tensor in examples.rows(np.arange(2)))
    assert (ids, targets) == (plain_ids, plain_targets)
    assert lines == []


def test_end_tokens_inside_examples_are_counted(encoder, tmp_path):
    records = [
        {"prompt": f"a{END}b", "completion": " c"},
        {"prompt": "a", "completion": f" b{END}{END}"},
        {"messages": [message("user", f"Hello{END}"), REPLY]},
        {"prompt": "a", "completion": f" b{END}"},
    ]
    lines = []
    read_examples([write(tmp_path / "a.jsonl", *records)], encoder, 64, lines.append)
    assert lines == ["3 of 4 examples have <|endoftext|> inside: it is the end token there, too; take it out if no text ends there"]


def test_answers_that_are_empty_among_others_are_counted(encoder, tmp_path):
    records = [{"messages": [USER, message("assistant", ""), USER, REPLY]}, {"messages": [USER, REPLY]}]
    lines = []
    read_examples([write(tmp_path / "a.jsonl", *records)], encoder, 64, lines.append)
    assert lines == ["1 of 2 examples have an empty answer among others, which teaches to say nothing there"]


def test_messages_that_the_template_does_not_write_are_told_with_their_roles(small_tokenizer, tmp_path):
    encoder = ExampleEncoder(small_tokenizer, EOS, lambda: ChatWriter(template_of("alpaca"), small_tokenizer, EOS))
    talk = {"messages": [message("usr", "Hello"), message("tool", "It is 10 o'clock."), REPLY]}
    file = write(
        tmp_path / "a.jsonl", talk, {"messages": [USER, message("tool", "Noon."), REPLY]}, {"prompt": "a", "completion": "b"}
    )
    lines = []
    read_examples([file], encoder, 128, lines.append)
    assert lines == [
        "messages that the chat template does not write: 2 of the role tool, 1 of the role usr; --template names another"
    ]


def test_completions_that_are_all_empty_are_refused(encoder, tmp_path):
    file = write(tmp_path / "a.jsonl", {"prompt": "a", "completion": ""}, {"prompt": "b", "completion": ""})
    with pytest.raises(TrainingError, match=r"all completions in .*a.jsonl are empty; there is nothing to learn"):
        read_examples([file], encoder, 64, lambda line: None)


def test_records_that_are_no_examples_are_left_out_where_that_is_wanted(encoder, tmp_path):
    file = write(tmp_path / "a.jsonl", {"prompt": "a", "completion": "b"}, {"prompt": "a"}, {"messages": [USER]})
    lines = []
    assert len(read_examples([file], encoder, 64, lines.append, skip_bad=True)) == 1
    assert lines == [f'left out: 2 bad records; the first: {file}, line 2: no "completion" field that is a string']
    broken = tmp_path / "c.jsonl"
    broken.write_text('{"a": 1}\n{"prompt": \n{"prompt": "a", "completion": "b"}\n')
    assert hold_examples([broken], skip_bad=True)
    assert len(read_examples([broken], encoder, 64, lines.append, skip_bad=True)) == 1
    assert lines[1].startswith(f'left out: 2 bad records; the first: {broken}, line 1: no "prompt" field')
    nothing = write(tmp_path / "b.jsonl", {"messages": [USER]})
    with pytest.raises(TrainingError, match=r"no examples in .*b.jsonl"):
        read_examples([nothing], encoder, 64, lines.append, skip_bad=True)
    assert lines[-1].startswith(f'left out: 1 bad record; the first: {nothing}, line 1: "messages" has no message')
