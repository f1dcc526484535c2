"""Files of records that cannot be read, or hold nothing: told as such files of text are, whatever the records teach."""

import json
import lzma
import random

import pytest

from model.training.data.conversations import ChatWriter
from model.training.data.corpus import survey
from model.training.data.example_files import ExampleEncoder, hold_examples, read_examples
from model.training.data.options import DataOptions
from model.training.data.preference_files import read_preferences
from model.training.data.selection import select
from model.training.errors import TrainingError
from tests.model.training.test_conversations import EOS, template_of

RECORDS = {
    "texts": {"text": "a text"},
    "examples": {"prompt": "a", "completion": "b"},
    "pairs": {"prompt": "a", "chosen": "b", "rejected": "c"},
}
READERS = {"examples": read_examples, "pairs": read_preferences}


def lines_of(record, count=1):
    return (json.dumps(record) + "\n").encode() * count


@pytest.fixture(params=RECORDS)
def kind(request):
    return request.param


@pytest.fixture
def read(kind, small_tokenizer):
    """Reads files, and returns the lines reported."""
    encoder = ExampleEncoder(small_tokenizer, EOS, lambda: ChatWriter(template_of("plain"), small_tokenizer, EOS))

    def read(files, skip_bad=False):
        said = []
        if kind == "texts":
            survey(select(DataOptions(paths=files, skip_bad=skip_bad)), said.append)
        else:
            assert len(READERS[kind](files, encoder, 64, said.append, skip_bad)) == 1
        return said

    return read


@pytest.fixture
def damaged(kind, tmp_path):
    """Files that cannot be read, one of them for what stands at its end, with the words that say why."""
    draw = random.Random(0)
    many = b"".join(lines_of(RECORDS[kind] | {"id": draw.random()}) for _ in range(20_000))
    packed = lzma.compress(many)
    contents = {
        "binary.jsonl": (b"a\0b\n", "is binary: line 1 has a zero byte"),
        "latin.jsonl": (lines_of(RECORDS[kind]) + b'{"prompt": "\xff"}\n', "is not UTF-8 text (byte 0xff in line 2)"),
        "cut.jsonl.xz": (packed[: len(packed) // 2], "is damaged, or not what its suffix says"),
        "open.json": (b"[" + lines_of(RECORDS[kind]).strip(), "is no JSON array"),
    }
    for name, (content, _) in contents.items():
        (tmp_path / name).write_bytes(content)
    return {tmp_path / name: words for name, (_, words) in contents.items()}


@pytest.fixture
def good(kind, tmp_path):
    (tmp_path / "good.jsonl").write_bytes(lines_of(RECORDS[kind]))
    return tmp_path / "good.jsonl"


def test_all_damaged_files_are_named_at_once(read, good, damaged):
    with pytest.raises(TrainingError) as refused:
        read([good, *damaged])
    message = str(refused.value)
    assert message.startswith("4 files cannot be read: ")
    assert all(f"{file} {words}" in message for file, words in damaged.items())
    assert message.count("--skip-bad") == 1, "what helps is said once"


def test_damaged_files_are_left_out_whole_and_counted_where_that_is_asked_for(read, good, damaged):
    said = read([*damaged, good], skip_bad=True)
    first, words = next(iter(damaged.items()))
    assert said[0] == f"left out: 4 files that cannot be read; the first: {first} {words}"


@pytest.mark.parametrize("kind", ["texts", "examples"], indirect=True)
def test_damage_does_not_hide_what_the_other_files_hold(kind, good, damaged):
    assert all(hold_examples([*damaged, good], skip_bad) is (kind == "examples") for skip_bad in (False, True))


def test_files_that_are_all_damaged_are_no_text_but_are_named(tmp_path):
    files = [tmp_path / "a.jsonl", tmp_path / "b.jsonl"]
    for file in files:
        file.write_bytes(b"\0")
    with pytest.raises(TrainingError, match=r"2 files cannot be read: .*a\.jsonl is binary.*; .*b\.jsonl is binary"):
        hold_examples(files)


@pytest.mark.parametrize("content", [b"", b"\n", b'{"prompt": \n'])
def test_a_file_without_a_record_is_of_neither_kind(tmp_path, content):
    files = [tmp_path / "good.jsonl", tmp_path / "empty.jsonl"]
    files[1].write_bytes(content)
    for kind in ("examples", "texts"):
        files[0].write_bytes(lines_of(RECORDS[kind]))
        assert hold_examples(files, skip_bad=True) is (kind == "examples")


@pytest.mark.parametrize("kind", READERS, indirect=True)
def test_a_file_without_a_record_is_counted(read, good, tmp_path):
    (empty := tmp_path / "empty.jsonl").write_bytes(b"\n")
    assert read([empty, good]) == [f"left out: 1 file without a record; the first: {empty}"]
