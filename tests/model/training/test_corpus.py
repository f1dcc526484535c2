"""Text files as documents: what is read, and what is refused with which words."""

import gzip
import json
import lzma
import os
from pathlib import Path

import pytest

from model.training.data.corpus import documents, read_corpus
from model.training.data.records import records
from model.training.data.selection import text_files
from model.training.errors import TrainingError

MARKED = "First.\n<|endoftext|>\nSecond,\r\nnaïve.\r\n<|endoftext|>\r\n\n<|endoftext|>\nA <|endoftext|> within a line parts, too.\n"


def written(file: Path, contents: bytes | str) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(contents if isinstance(contents, bytes) else contents.encode("utf-8"))
    return file


@pytest.mark.parametrize(
    ("name", "packed"), [("a.txt", bytes), ("a.txt.xz", lzma.compress), ("a.TXT.GZ", gzip.compress), ("a.txt.gz", gzip.compress)]
)
def test_documents_are_parted_by_lines_of_the_end_token(tmp_path, name, packed):
    file = written(tmp_path / name, packed(MARKED.encode("utf-8")))
    assert list(documents(file)) == ["First.\n", "Second,\r\nnaïve.\r\n", "A ", " within a line parts, too.\n"]


def test_a_jsonl_line_is_a_document(tmp_path):
    texts = ["First.", "Second,\nnaïve. \ud83d\ude42", " ", "one<|endoftext|>two"]
    lines = "\n".join(json.dumps({"text": text, "n": 1}) for text in texts) + "\n\n"
    assert list(documents(written(tmp_path / "a.jsonl", lines))) == ["First.", "Second,\nnaïve. 🙂", "one", "two"]
    assert list(documents(written(tmp_path / "a.jsonl.xz", lzma.compress(lines.encode())))) == [
        "First.",
        "Second,\nnaïve. 🙂",
        "one",
        "two",
    ]


def test_records_are_numbered_by_their_lines(tmp_path):
    file = written(tmp_path / "a.jsonl", '{"prompt": "a"}\n\n{"prompt": "b"}')
    assert list(records(file)) == [(1, {"prompt": "a"}), (3, {"prompt": "b"})]


def test_a_byte_order_mark_is_no_text(tmp_path):
    assert list(documents(written(tmp_path / "a.txt", b"\xef\xbb\xbf<|endoftext|>\nText.\xef\xbb\xbf"))) == ["Text.\ufeff"]
    assert list(documents(written(tmp_path / "a.jsonl", b'\xef\xbb\xbf{"text": "Text."}'))) == ["Text."]


def test_line_ends_stay_as_they_are(tmp_path):
    assert list(documents(written(tmp_path / "a.txt", "a\r\nb\rc\n\x0b\u2028d"))) == ["a\r\nb\rc\n\x0b\u2028d"]


def test_a_folder_gives_its_text_files_in_a_fixed_order_and_nothing_hidden(tmp_path):
    wanted = ["B.md", "a.txt", "below/c.jsonl.gz", "below/d.text.xz", "z.JSONL"]
    others = [".hidden.txt", ".git/e.txt", "f.png", "g.csv", "below/.h/i.txt", "model/merges.txt", "model/vocab.json"]
    for name in (*wanted, *others):
        written(tmp_path / name, "text")
    assert [str(file.relative_to(tmp_path)) for file in text_files([tmp_path])] == wanted


def test_a_file_that_is_named_needs_no_suffix_and_counts_once(tmp_path):
    file = written(tmp_path / "Faust", "Habe nun, ach!")
    other = written(tmp_path / "a.txt", "a")
    assert text_files([file, tmp_path, file, other]) == [file, other]
    assert list(documents(file)) == ["Habe nun, ach!"]


def test_bytes_are_those_of_the_text(tmp_path):
    files = [written(tmp_path / "a.txt.xz", lzma.compress("naïve\n<|endoftext|>\n".encode())), written(tmp_path / "b.txt", "b")]
    assert read_corpus(files).num_bytes == len("naïve\nb".encode())


def refusal(read):
    with pytest.raises(TrainingError) as refused:
        list(read())
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_what_is_not_there_is_named(tmp_path):
    assert refusal(lambda: text_files([tmp_path / "gone"])) == f"no such file or folder: {tmp_path / 'gone'}"


def test_an_empty_folder_is_refused_with_what_could_be_in_it(tmp_path):
    assert refusal(lambda: text_files([tmp_path])) == (
        f"{tmp_path} has no text files (.txt, .text, .md, .jsonl, .ndjson, .jsonlines, also with .xz or .gz); put some there"
    )


def test_a_folder_of_other_files_is_refused_with_what_is_in_it(tmp_path):
    for name in ("a.pdf", "b.pdf", "c.html", "README"):
        written(tmp_path / name, "text")
    assert refusal(lambda: text_files([tmp_path])).endswith(" but .html, .pdf, README; --include '*.html' reads such files")
    for name in ("a.pdf", "b.pdf", "c.html"):
        (tmp_path / name).unlink()
    assert refusal(lambda: text_files([tmp_path])).endswith(" but README; name such a file itself if it holds text")


@pytest.mark.parametrize("contents", ["", "\n \n", "<|endoftext|>\n"])
def test_files_without_text_are_refused(tmp_path, contents):
    file = written(tmp_path / "a.txt", contents)
    assert refusal(lambda: [read_corpus([file])]) == f"there is no text in {file}"


@pytest.mark.parametrize(
    ("name", "contents", "words"),
    [
        ("a.txt", b"one\ntwo \xff\n", "is not UTF-8 text (byte 0xff in line 2); convert it, or leave it out (--skip-bad)"),
        (
            "a.txt",
            "Müller\n".encode("latin-1"),
            "is not UTF-8 text (byte 0xfc in line 1); convert it, or leave it out (--skip-bad)",
        ),
        (
            "a.txt",
            "text".encode("utf-16"),
            "is UTF-16, which Windows calls Unicode; save it as UTF-8, or leave it out (--skip-bad)",
        ),
        ("a.csv", b"\xfe\xff" + "text".encode("utf-16-be"), "is UTF-16, which Windows calls Unicode; save it as UTF-8"),
        ("a.txt", b"\x7fELF\0\0", "is binary: line 1 has a zero byte; convert it, or leave it out (--skip-bad)"),
        ("a.txt.xz", b"plain text", "is damaged, or not what its suffix says: "),
        ("a.txt.gz", b"plain text", "is damaged, or not what its suffix says: "),
        ("a.txt.xz", lzma.compress(b"text" * 99)[:-20], "is damaged, or not what its suffix says: "),
        ("a.txt.gz", gzip.compress(b"text" * 99)[:-9], "is damaged, or not what its suffix says: "),
        ("a.txt.gz", gzip.compress(b"text" * 99)[:12] + b"\xff" * 20, "is damaged, or not what its suffix says: "),
        ("a.jsonl", "text", "line 1 is not JSON: "),
        ("a.jsonl", '{"text": "a"}\n[1]', "line 2 is not a JSON object"),
        ("a.jsonl", "[" * 100_000, "line 1 is not JSON: "),
        ("a.jsonl", '{"content": "a"}', 'line 1: no "text" field that is a string'),
        (
            "a.jsonl",
            '{"prompt": "a", "completion": "b"}',
            'line 1: no "text" field that is a string; "prompt" and "completion" are examples',
        ),
        ("a.jsonl", '{"messages": []}', '; "messages" are examples; gpt2 train finetune learns from files of these alone'),
        (
            "a.jsonl",
            '{"chosen": [], "rejected": []}',
            '; "chosen" and "rejected" are preferences; gpt2 train dpo learns from these',
        ),
        (
            "a.csv",
            "instruction,output\na,b",
            'columns "instruction", "output"; "instruction" and "output" are examples; gpt2 train finetune',
        ),
        ("a.jsonl", '{"text": 1}', 'line 1: no "text" field that is a string'),
        ("a.jsonl", '{"text": "\\ud83d"}', 'line 1: "text" has half a surrogate pair, which is no character'),
    ],
)
def test_what_is_no_text_is_refused_with_its_file_named(tmp_path, name, contents, words):
    file = written(tmp_path / name, contents)
    message = refusal(lambda: documents(file))
    assert message.startswith(str(file))
    assert words in message


def test_a_file_that_may_not_be_read_is_refused(tmp_path):
    assert refusal(lambda: documents(tmp_path)) == f"{tmp_path} cannot be read: Is a directory"
    if os.geteuid():  # root may read everything
        file = written(tmp_path / "a.txt", "text")
        file.chmod(0)
        assert refusal(lambda: documents(file)) == f"{file} cannot be read: Permission denied"
