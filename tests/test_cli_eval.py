"""`gpt2 eval`: what it prints of a text, and what it refuses."""

import json
import lzma
import math
import sys

import pytest

from app.cli import main
from model.checkpoint import load_tokenizer
from model.network_files import load_model
from model.training.evaluation import evaluate

FIRST, SECOND = "The naïve old man looked at the sea.\n", "Second, and last.\n"


@pytest.fixture
def measure(tiny_checkpoint, capsys):
    """Run `gpt2 eval` on the tiny checkpoint; the result is what it printed, read as JSON."""

    def run(*arguments):
        assert main(["eval", *map(str, arguments), "--model", str(tiny_checkpoint), "--device", "cpu"]) == 0
        return json.loads(capsys.readouterr().out)

    return run


@pytest.fixture
def complaint(tiny_checkpoint, capsys):
    """The one line with which `gpt2 eval` refuses, behind what was left of the progress bar."""

    def run(*arguments, model=tiny_checkpoint):
        assert main(["eval", *map(str, arguments), "--model", str(model), "--device", "cpu"]) == 2
        output, error = capsys.readouterr()
        assert not output
        line = error.rpartition("\r")[2]
        assert line.count("\n") == 1
        return line

    return run


def write(directory, name, contents):
    file = directory / name
    file.write_bytes(contents if isinstance(contents, bytes) else contents.encode())
    return file


def test_it_prints_what_the_model_gives_the_text(measure, tiny_checkpoint, tmp_path):
    output = measure(write(tmp_path, "a.txt", FIRST))
    token_ids = load_tokenizer(tiny_checkpoint).encode(FIRST)
    expected = evaluate(load_model(tiny_checkpoint), token_ids, len(FIRST.encode()))
    assert output["bits_per_byte"] == pytest.approx(expected.bits_per_byte, rel=1e-6)
    assert output["perplexity"] == pytest.approx(math.exp(expected.nats / len(token_ids)), rel=1e-5)
    assert (output["tokens"], output["bytes"]) == (len(token_ids), len(FIRST.encode()))
    assert (output["context"], output["stride"]) == (1024, 512)
    assert (output["model"], output["device"], output["precision"]) == (str(tiny_checkpoint), "cpu", "float32")
    assert output["tokens_per_second"] == pytest.approx(output["tokens"] / output["seconds"], rel=0.5)


@pytest.fixture
def of_two_documents(tiny_checkpoint):
    """Bits per byte of FIRST and SECOND, an end token between them: as they stand in a text that is trained on."""
    tokenizer, model = load_tokenizer(tiny_checkpoint), load_model(tiny_checkpoint)
    token_ids = [*tokenizer.encode(FIRST), model.config.eos_token_id, *tokenizer.encode(SECOND)]
    return pytest.approx(evaluate(model, token_ids, len((FIRST + SECOND).encode())).bits_per_byte, rel=1e-6)


def test_marks_part_documents_and_are_no_part_of_the_text(measure, tmp_path, of_two_documents):
    marked = measure(write(tmp_path, "marked.txt", f"{FIRST}<|endoftext|>\n{SECOND}<|endoftext|>\n"))
    assert marked["bits_per_byte"] == of_two_documents
    assert (marked["documents"], marked["bytes"]) == (2, len((FIRST + SECOND).encode()))


def test_files_of_folders_and_records_are_documents_too(measure, tmp_path, of_two_documents):
    folder = tmp_path / "texts"
    folder.mkdir()
    write(folder, "a.txt", FIRST)
    write(folder, "b.txt.xz", lzma.compress(SECOND.encode()))
    write(folder, "no_text.png", b"\x89PNG\0")
    records = write(tmp_path, "records.jsonl", "".join(json.dumps({"text": text}) + "\n" for text in (FIRST, SECOND)))
    for paths in ([folder], [folder / "a.txt", folder / "b.txt.xz"], [records]):
        measured = measure(*paths)
        assert (measured["documents"], measured["bits_per_byte"]) == (2, of_two_documents)


def test_max_bytes_takes_the_beginning_and_no_half_character(measure, tmp_path):
    file = write(tmp_path, "a.txt", FIRST)
    cut_in_ï = len(b"The na") + 1
    assert measure(file, "--max-bytes", cut_in_ï)["bytes"] == cut_in_ï - 1
    assert measure(file, "--max-bytes", cut_in_ï + 1)["bytes"] == cut_in_ï + 1
    assert measure(file, "--max-bytes", 10**9)["bytes"] == len(FIRST.encode())


def test_max_bytes_may_end_at_a_document_or_in_the_next_one(measure, tmp_path):
    files = write(tmp_path, "a.txt", FIRST), write(tmp_path, "b.txt", SECOND)
    size = len(FIRST.encode())
    for num_bytes, num_documents in ((size - 1, 1), (size, 1), (size + 1, 2)):
        measured = measure(*files, "--max-bytes", num_bytes)
        assert (measured["bytes"], measured["documents"]) == (num_bytes, num_documents)


def test_max_bytes_reads_no_further_file_than_it_needs(measure, tmp_path):
    first, binary = write(tmp_path, "a.txt", FIRST), write(tmp_path, "b.txt", b"\0")
    assert measure(first, binary, "--max-bytes", 10)["bytes"] == 10


def test_bfloat16_is_close_to_float32(measure, tmp_path):
    file = write(tmp_path, "a.txt", FIRST * 3)
    half = measure(file, "--precision", "bfloat16")
    assert half["precision"] == "bfloat16"
    assert half["bits_per_byte"] == pytest.approx(measure(file)["bits_per_byte"], rel=0.02)


@pytest.mark.parametrize("is_terminal", [True, False])
def test_a_progress_bar_goes_to_standard_error_where_that_is_a_terminal(
    tiny_checkpoint, tmp_path, capsys, monkeypatch, is_terminal
):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: is_terminal)
    main(["eval", str(write(tmp_path, "a.txt", FIRST)), "--model", str(tiny_checkpoint), "--device", "cpu"])
    assert ("evaluating:" in capsys.readouterr().err) is is_terminal


@pytest.mark.parametrize(
    ("name", "contents", "reason"),
    [
        ("empty.txt", "", "no text"),
        ("marks.txt", "<|endoftext|>\n", "no text"),
        ("binary.txt", b"MZ\0\0", "binary"),
        ("latin.txt", "naïve".encode("latin-1"), "not UTF-8"),
        ("damaged.txt.xz", b"no xz", "damaged"),
        ("wrong.jsonl", '{"prompt": "a"}\n', '"text"'),
    ],
)
def test_a_file_that_is_no_text_is_refused_with_its_name(complaint, tmp_path, name, contents, reason):
    line = complaint(write(tmp_path, name, contents))
    assert name in line
    assert reason in line


def test_paths_that_lead_nowhere_are_refused(complaint, tmp_path):
    assert "no such file or folder" in complaint(tmp_path / "absent.txt")
    assert "has no text files" in complaint(tmp_path)


def test_a_model_that_is_not_there_is_refused(complaint, tmp_path):
    file = write(tmp_path, "a.txt", FIRST)
    assert "no such directory" in complaint(file, model=tmp_path / "absent")
    assert "has no config.json" in complaint(file, model=tmp_path)


def test_too_few_bytes_are_refused(complaint, tmp_path):
    file = write(tmp_path, "a.txt", "日本\n")
    assert "--max-bytes is 0" in complaint(file, "--max-bytes", "0")
    assert "no text" in complaint(file, "--max-bytes", "2")
