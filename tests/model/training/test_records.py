"""Records: JSONL, arrays of JSON and tables give the same, and what is wrong with one is said with its place."""

import csv
import json
from unittest.mock import patch

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from model.training.data import text_blocks
from model.training.data.records import holds_records, records
from model.training.errors import TrainingError

values = st.text(st.characters(codec="utf-8", exclude_characters="\0\r"), max_size=30)


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(st.fixed_dictionaries({"prompt": values, "completion": values}), max_size=6),
    block=st.integers(1, 50),
    indent=st.none() | st.just(1),
)
def test_an_array_is_read_alike_in_blocks_of_any_size(tmp_path, rows, block, indent):
    file = tmp_path / "a.json"
    file.write_text(json.dumps(rows, indent=indent, ensure_ascii=False) + "\n", encoding="utf-8", newline="")
    with patch.object(text_blocks, "BLOCK_BYTES", block):
        assert list(records(file)) == list(enumerate(rows, start=1))


@pytest.mark.parametrize("name", ["a.jsonl", "a.ndjson", "a.jsonlines", "a.NDJSON", "a.json"])
def test_a_line_is_a_record_whatever_such_files_are_called(tmp_path, name):
    """Many that hold a record a line are named as if they were an array."""
    (tmp_path / name).write_text('\n{"n": 1}\n\n{"n": [2]}\n')
    assert holds_records(tmp_path / name)
    assert list(records(tmp_path / name)) == [(2, {"n": 1}), (4, {"n": [2]})]


def test_strings_in_an_array_are_texts(tmp_path):
    (tmp_path / "a.json").write_text('["one", {"text": "two"}]')
    assert list(records(tmp_path / "a.json")) == [(1, {"text": "one"}), (2, {"text": "two"})]


@pytest.mark.parametrize(("suffix", "delimiter"), [("csv", ","), ("tsv", "\t")])
def test_a_row_of_a_table_is_a_record(tmp_path, suffix, delimiter):
    file = tmp_path / f"a.{suffix}"
    file.write_text(
        delimiter.join(["prompt", "completion"]) + "\n" + delimiter.join(['"a\nb, ""c"""', "d"]) + "\n\n" + f"e{delimiter}f"
    )
    assert [record for _, record in records(file)] == [
        {"prompt": 'a\nb, "c"', "completion": "d"},
        {"prompt": "e", "completion": "f"},
    ]


def test_a_table_of_semicolons_is_read_as_one(tmp_path):
    """As spreadsheets write .csv where the comma is the decimal point; a comma in the header says that it is not."""
    (tmp_path / "a.csv").write_text('prompt;completion\n"a; b";1,5\n')
    (tmp_path / "b.csv").write_text("prompt,note;more\na;b,c\n")
    assert [record for _, record in records(tmp_path / "a.csv")] == [{"prompt": "a; b", "completion": "1,5"}]
    assert [record for _, record in records(tmp_path / "b.csv")] == [{"prompt": "a;b", "note;more": "c"}]


@pytest.mark.parametrize(
    "lines",
    [
        ['"I am here,\t0', 'he said. Now go."\t1'] * 3,
        ['"Hello," he said\t0', "a\tb"],
        ['"Hello\t0', "a\tb"],
        ['"Hello"\t0', 'he said "Hello"\t0'],
        ['"I am here,\t0', 'he said."\t1', '"Hello," he said\t1'],
    ],
)
def test_quotation_marks_of_a_corpus_of_tabs_are_its_texts(tmp_path, lines):
    """They swallow no row, whether they happen to pair or not."""
    (tmp_path / "a.tsv").write_text("\n".join(["text\tlabel", *lines]))
    read = [tuple(line.split("\t")) for line in lines]
    assert list(records(tmp_path / "a.tsv")) == [(i, {"text": a, "label": b}) for i, (a, b) in enumerate(read, start=2)]


@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
@pytest.mark.parametrize("columns", [["text"], ["prompt", "completion"], ["id", "prompt", "completion"]])
def test_quotation_marks_of_a_table_of_tabs_are_the_tables(tmp_path, columns, quoting):
    """As spreadsheets and Python's csv write them: a tab, a mark or the end of a line may stand between two."""
    rows = [[f"{column} {text}" for column in columns] for text in ("a", 'say "b"', "c\nd", "e\tf", "g\n\th\n", '"i"')]
    with (tmp_path / "a.tsv").open("w", newline="") as file:
        csv.writer(file, delimiter="\t", quoting=quoting).writerows([columns, *rows])
    assert [list(record.values()) for _, record in records(tmp_path / "a.tsv")] == rows


def test_columns_without_a_name_may_be_many(tmp_path):
    """Spreadsheets write such behind the others."""
    (tmp_path / "a.csv").write_text("text,,\na,,\n")
    assert list(records(tmp_path / "a.csv")) == [(2, {"text": "a", "": ""})]


@pytest.mark.parametrize(
    ("name", "contents", "words"),
    [
        ("a.json", '{"text": "a"}', "is an object of JSON, not an array: put the object into [ ] if it is a record"),
        (
            "a.json",
            '{"v": {"n": [1]}, "data": [{"text": "a"}], "more": []}',
            ": save the array in its field data alone, or put the object",
        ),
        (
            "a.json",
            '{\n "messages": [\n',
            ": save the array in its field messages alone, or put the object into [ ] if it is a record",
        ),
        ("a.json", '{"text": ', "item 1 is not JSON: "),
        ("a.json", "", "is no JSON array of objects or strings: [ should stand where the end does"),
        ("a.json", '["a" "b"]', '] should stand where " does'),
        ("a.json", '["a", {"text": ', "item 2 is not JSON: "),
        ("a.json", "[" * 100_000, "item 1 is not JSON: "),
        ("a.json", '["a"] ["b"]', "goes on behind its array, with [; make one array of it, or a .jsonl"),
        ("a.json", "[]garbage", "goes on behind its array, with g; make one array of it"),
        ("a.json", '["a", 7]', "item 2 is not a JSON object"),
        ("a.csv", "text,label\na,b,c\n", "line 2 has 3 fields, and the header 2"),
        ("a.csv", "text,label,text\na,b,c\n", "has the column text twice; rename or delete one"),
        ("a.tsv", "id\tid\ttext\n", "has the column id twice; rename or delete one"),
        ("a.csv", 'text\na\n"b\nc\n', "line 4: the quotation marks are not as in a table (unexpected end of data): a field with"),
        ("a.csv", "text,label\ra,b\r", ": a line ends with CR alone, as on old Macs; save it with LF, or CR and LF"),
        ("a.tsv", "text\tlabel\ra\tb\r", ": a line ends with CR alone"),
        ("a.csv", "text,label\na,b\rc,d\n", "line 2: a line ends with CR alone"),
        ("a.jsonl", '{"text": "a"}\r{"text": "b"}\r', "line 1 is not JSON: a line ends with CR alone, as on old Macs"),
        ("a.tsv", 'text\tlabel\n"He said" so\t0\na\tb\tc\n', "line 3 has 3 fields, and the header 2"),
    ],
)
def test_what_is_no_record_is_refused_with_its_place(tmp_path, name, contents, words):
    (tmp_path / name).write_text(contents, newline="")
    with pytest.raises(TrainingError) as refused:
        list(records(tmp_path / name))
    assert str(refused.value).startswith(str(tmp_path / name))
    assert words in str(refused.value)


def test_bad_records_can_be_left_out(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"n": 1}\nnothing\n[]\n{"n": 2}\n')
    bad = []
    assert list(records(tmp_path / "a.jsonl", bad.append)) == [(1, {"n": 1}), (4, {"n": 2})]
    assert [str(error).split(", ")[1] for error in bad] == [
        "line 2 is not JSON: Expecting value at column 1",
        "line 3 is not a JSON object",
    ]
