"""Which files are read, and that whatever is not is counted and named."""

import gzip
import os
from pathlib import Path

import pytest

from model.training.data.corpus import documents, survey
from model.training.data.options import DataOptions
from model.training.data.selection import select
from model.training.errors import TrainingError


@pytest.fixture
def folder(tmp_path):
    for name in ("a.txt", "code/b.py", "code/c.py", "d.pdf"):
        (tmp_path / "texts" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "texts" / name).write_text(f"text of {name}\n")
    (tmp_path / "texts" / "e.py.gz").write_bytes(gzip.compress(b"text of e"))
    return tmp_path / "texts"


def read(*paths, **options):
    """The names of the files read, and what is reported."""
    lines = []
    corpus = survey(select(DataOptions(paths=paths, **options)), lines.append)
    return [file.name for file in corpus.files], lines


def refusal(*paths, **options):
    with pytest.raises(TrainingError) as refused:
        read(*paths, **options)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_files_of_a_folder_that_are_not_read_are_counted(folder):
    assert read(folder) == (["a.txt"], ["left out of the folders: 3 .py, 1 .pdf; --include '*.py' reads such files"])


def test_other_files_are_read_if_a_pattern_includes_them_packed_or_not(folder):
    assert read(folder, include=("*.py",))[0] == ["a.txt", "b.py", "c.py", "e.py.gz"]
    assert read(folder, include=("code/b*",))[0] == ["a.txt", "b.py"]
    assert refusal(folder, include=("*.rs",)) == "--include '*.rs' matches no file in the folders named"


@pytest.mark.parametrize("name", ["d.pdf", "rows.parquet", "letter.DOCX", "all.zip", "all.tar.gz"])
def test_files_that_are_no_text_by_their_suffix_are_refused_by_name(folder, name):
    (folder / name).write_text("anything")
    assert refusal(folder / name).startswith(f"{folder / name}: .")


def test_linked_folders_are_read_wherever_they_lead(folder):
    (folder.parent / "other").mkdir()
    (folder.parent / "other" / "z.txt").write_text("text of z")
    (folder / "code" / "linked").symlink_to("../../other")
    assert read(folder)[0] == ["a.txt", "z.txt"]
    assert read(folder / "code", include=("linked/*.txt",))[0] == ["z.txt"]
    assert read(folder, folder.parent / "other")[0] == ["a.txt", "z.txt"], "a file counts once, however it is named"


def test_a_folder_is_read_once_however_many_links_lead_there_and_by_its_own_way(folder):
    (folder / "code" / "round").symlink_to(folder)
    (folder / "again").symlink_to("code")
    (folder / "code" / "b.txt").write_text("text of b")
    for name in ("one", "two"):
        (folder / name).symlink_to(folder.parent / "other")
    (folder.parent / "other").mkdir()
    (folder.parent / "other" / "z.txt").write_text("text of z")
    (folder.parent / "other" / "back").symlink_to(folder / "code")
    selection = select(DataOptions(paths=[folder]))
    assert selection.files == [folder / "a.txt", folder / "code" / "b.txt", folder / "one" / "z.txt"]
    assert selection.leftovers.suffixes == {".py": 3, ".pdf": 1}


def test_what_leads_to_no_file_is_counted(folder):
    (folder / "broken.txt").symlink_to("nowhere.txt")
    (folder / "code" / "round").symlink_to("round")
    os.mkfifo(folder / "code" / "pipe.txt")
    (folder / ".hidden").symlink_to("nowhere.txt")
    said = f"3 names without a file behind, as links to nothing are; the first: {folder / 'broken.txt'}"
    assert read(folder)[1][-1] == f"left out of the folders: {said}"
    (folder.parent / "links").mkdir()
    (folder.parent / "links" / "a.txt").symlink_to("nowhere.txt")
    assert refusal(folder.parent / "links").endswith(
        f" but 1 name without a file behind, as links to nothing are; the first: {folder.parent / 'links' / 'a.txt'}"
    )


def test_a_folder_below_that_cannot_be_read_is_no_silent_loss(folder, monkeypatch):
    scan = os.scandir

    def refuse(path):
        if Path(path).name == "code":
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert refusal(folder).startswith(f"{folder / 'code'} cannot be read: Permission denied; ")
    names, lines = read(folder, skip_bad=True)
    assert names == ["a.txt"]
    assert lines[-1] == f"left out: 1 file that cannot be read; the first: {folder / 'code'} cannot be read: Permission denied"


def test_all_files_that_are_no_text_are_named_at_once(folder):
    for number in range(7):
        (folder / f"z{number}.txt").write_bytes(b"\0")
    message = refusal(folder)
    assert message.startswith("7 files cannot be read: ")
    assert message.count("is binary") == 5
    assert message.endswith(" and 2 others; --skip-bad leaves such out")


def test_what_helps_is_said_once_and_not_of_what_is_left_out(folder):
    bad = folder / "bad"
    bad.mkdir()
    (bad / "y.txt").write_bytes(b"\0")
    assert refusal(folder) == f"{bad / 'y.txt'} is binary: line 1 has a zero byte; convert it, or leave it out (--skip-bad)"
    (bad / "z.txt").write_bytes(b"a\n\xff")
    causes = [f"{bad / 'y.txt'} is binary: line 1 has a zero byte", f"{bad / 'z.txt'} is not UTF-8 text (byte 0xff in line 2)"]
    assert refusal(folder) == f"2 files cannot be read: {'; '.join(causes)}; --skip-bad leaves such out"
    assert read(folder, skip_bad=True)[1][-1] == f"left out: 2 files that cannot be read; the first: {causes[0]}"


def test_bad_files_and_records_can_be_left_out_and_are_counted(folder):
    (folder / "b.txt").write_bytes("Müller".encode("latin-1"))
    (folder / "c.jsonl").write_text('{"text": "a"}\n{"title": "b"}\n{"text": "\\ud83d"}\n')
    names, lines = read(folder, skip_bad=True)
    assert names == ["a.txt", "c.jsonl"]
    assert lines[1].startswith(f"left out: 1 file that cannot be read; the first: {folder / 'b.txt'} is not UTF-8 text")
    assert lines[2] == f'left out: 2 bad records; the first: {folder / "c.jsonl"}, line 2: no "text" field that is a string'
    assert list(documents(folder / "c.jsonl", skip_bad=True)) == ["a"]


@pytest.mark.parametrize("name", ["records.txt", "records", "records.log.gz"])
@pytest.mark.parametrize("ends", ["\n", "", "\nno record\n"])
def test_records_are_not_read_as_text_whatever_they_are_called(folder, name, ends):
    contents = f'\ufeff\n{{"prompt": "a", "completion": " b"}}{ends}'.encode()
    (folder / name).write_bytes(gzip.compress(contents) if name.endswith(".gz") else contents)
    cause = f"{folder / name} has records of JSON and is not named .jsonl"
    assert refusal(folder / name) == f"{cause}; rename it, or leave it out (--skip-bad)"
    assert read(folder / "a.txt", folder / name, skip_bad=True)[1] == [f"left out: 1 file that cannot be read; the first: {cause}"]


@pytest.mark.parametrize("contents", ["{", "{\n  int x;\n}\n", "{x: 1}", "[1]\n", '"a"', 'He said: {"a": 1}', "{" * 100_000])
def test_text_and_code_that_look_like_records_are_text(folder, contents):
    (folder / "f.txt").write_text(contents)
    assert read(folder / "f.txt") == (["f.txt"], [])
    assert "".join(documents(folder / "f.txt")) == contents


def test_folders_are_searched_for_records_by_all_their_names(folder):
    for name in ("f.ndjson", "g.jsonlines"):
        (folder / name).write_text('{"text": "a"}\n')
    assert read(folder)[0] == ["a.txt", "f.ndjson", "g.jsonlines"]


def test_fields_that_are_not_used_and_marks_within_lines_are_counted(folder):
    (folder / "a.txt").write_text("one<|endoftext|>two<|endoftext|>\n  <|endoftext|>  \nthree\n")
    (folder / "b.jsonl").write_text('{"text": "a", "label": 1, "id": 1}\n{"text": "b", "label": 0}\n')
    assert read(folder / "a.txt", folder / "b.jsonl")[1] == [
        'fields that are not used, with the number of texts that have them: "label" (2), "id" (1)',
        "2 <|endoftext|> inside lines: each ends a document, as one on its own line does",
    ]
    assert list(documents(folder / "a.txt")) == ["one", "two", "three\n"]


def test_a_table_without_texts_names_the_columns_that_it_has(folder):
    (folder / "a.csv").write_text("title,body\nb,c\n")
    assert refusal(folder / "a.csv").startswith(f'{folder / "a.csv"} has the columns "title", "body"; ')


def test_files_to_validate_on_are_not_trained_on(folder):
    (folder / "b.txt").write_text("held out")
    selection = select(DataOptions(paths=[folder], validation=[folder / "b.txt"]))
    assert [[file.name for file in files] for files in selection.sets] == [["a.txt"]]
    assert selection.validation == [folder / "b.txt"]
    assert refusal(folder / "b.txt", validation=[folder / "b.txt"]).startswith(f"{folder / 'b.txt'} has nothing that is not named")


@pytest.mark.parametrize("contents", ["", " \n<|endoftext|>\n"])
def test_files_to_validate_on_that_have_no_text_are_named(folder, contents):
    (folder / "b.txt").write_text(contents)
    assert refusal(folder / "a.txt", validation=[folder / "b.txt"]) == (
        f"there is no text in {folder / 'b.txt'} (--validation); name another"
    )
    (folder / "b.txt").write_bytes(b"\0")
    assert "(--validation)" in refusal(folder / "a.txt", validation=[folder / "b.txt"], skip_bad=True)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"weights": (1.0, 2.0)}, "weights given: 2; paths: 1"),
        ({"weights": (5.0,)}, "one path takes no weight"),
        ({"weights": (0.0,)}, "each must be above 0"),
        ({"validation": [Path("v")], "validation_fraction": 0.1}, "leave one out"),
    ],
)
def test_options_that_contradict_each_other_are_refused(folder, options, words):
    assert words in refusal(folder, **options)
