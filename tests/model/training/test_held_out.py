"""What is held out: as much as was asked for, all over the text, of whole documents where these are short; and texts in pieces."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.training.base import Base
from model.training.data import encoding
from model.training.data.corpus import Part, read_corpus
from model.training.data.encoding import PieceEncoder
from model.training.data.held_out import HeldOut, pieces
from model.training.data.options import DataOptions
from model.training.data.shards import TokenShards, tokenize
from model.training.dpo_loss import DPO
from model.training.errors import TrainingError
from model.training.tasks.prepared import prepare
from model.training.tasks.text import choose_window

texts = st.text(st.sampled_from("ab 'é漢字\n\t\u3000\x1c1.") | st.characters(codec="utf-8"), min_size=1, max_size=300)


@settings(deadline=None)
@given(documents=st.lists(texts, max_size=5), longest=st.integers(16, 100), block=st.integers(1, 80))
def test_pieces_are_the_documents_and_short_ones_stay_whole(documents, longest, block):
    parts = [Part(i == 0, text[i : i + block]) for text in documents for i in range(0, len(text), block)]
    found = list(pieces(parts, longest, longest // 4))
    joined = []
    for piece in found:
        if piece.begins:
            joined.append("")
        joined[-1] += piece.text
        assert len(piece.text) <= longest
    assert joined == documents
    assert [piece.text for piece in found if piece.text in documents and piece.begins] or not any(
        len(text) <= longest for text in documents
    )


@settings(deadline=None)
@given(
    lengths=st.lists(st.integers(500, 3000), min_size=500, max_size=600),
    fraction=st.sampled_from([0.02, 0.1, 0.3]),
)
def test_each_half_of_a_text_is_held_out_from_and_no_more_than_twice_what_was_asked_for(lengths, fraction):
    num_chars = sum(lengths)
    held_out = HeldOut(num_chars, fraction)
    found = pieces((Part(True, "x" * length) for length in lengths), held_out.longest, held_out.cut)
    sizes = np.array([len(piece.text) for piece in found])
    stops = np.cumsum(sizes)
    chosen = np.array([held_out.holds(int(stop - size), int(stop)) for stop, size in zip(stops, sizes, strict=True)])
    in_first_half = stops < num_chars / 2
    assert (chosen & in_first_half).any()
    assert (chosen & ~in_first_half).any()
    assert sizes[chosen].sum() <= 2 * fraction * num_chars


def test_of_three_languages_in_one_file_each_is_held_out(tmp_path, byte_tokenizer):
    languages = {"a": "alpha ", "b": "beta ", "c": "gamma "}
    (tmp_path / "a.txt").write_text("<|endoftext|>\n".join(word * 5000 + "\n" for word in languages.values()))
    made = tokenize(read_corpus([tmp_path / "a.txt"]), byte_tokenizer, tmp_path / "tokens", None)
    held_out = byte_tokenizer.decode(np.concatenate(made.validation).tolist())
    assert all(held_out.count(word) > 250 for word in languages.values())
    assert len(held_out) == pytest.approx(0.1 * 80_000, rel=0.2)


def test_files_named_for_validation_are_all_that_is_held_out(tmp_path, byte_tokenizer):
    from model.training.data.corpus import survey
    from model.training.data.options import DataOptions
    from model.training.data.selection import select

    for name in ("a", "b"):
        (tmp_path / f"{name}.txt").write_text(name * 100)
    options = DataOptions(paths=[tmp_path / "a.txt"], validation=[tmp_path / "b.txt"])
    made = tokenize(survey(select(options)), byte_tokenizer, tmp_path / "tokens", None)
    splits = [byte_tokenizer.decode(np.concatenate(split).tolist()) for split in (made.train, made.validation)]
    assert splits == ["a" * 100, "b" * 100]


@settings(deadline=None, max_examples=200)
@given(text=st.lists(texts, max_size=6).map("".join), sizes=st.lists(st.integers(1, 90), min_size=1), part=st.integers(1, 100))
def test_ids_of_pieces_are_those_of_the_whole(small_tokenizer, text, sizes, part):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoding, "PART", part)
        encoder = PieceEncoder(small_tokenizer)
        ids, place, number = [], 0, 0
        while place < len(text):
            size = sizes[number % len(sizes)]
            ids += encoder.feed(text[place : place + size])
            place, number = place + size, number + 1
        ids += encoder.finish()
    assert ids == small_tokenizer.encode(text, encoding.PLAIN_TEXT)


PEAK = """
import resource, sys
from pathlib import Path
from model.training.data.corpus import read_corpus
from model.training.data.options import DataOptions
from model.training.data.shards import TokenShards, tokenize
from model.training.errors import TrainingError
from model.training.tasks.prepared import prepare
from model.training.tasks.text import choose_window
from model.training.vocabulary import train_vocabulary
folder, num = Path(sys.argv[1]), int(sys.argv[2])
text = folder / f"{num}.txt"
with text.open("w") as file:
    for i in range(num):
        file.write(f"{i} bottles of beer on the wall " * 300 + "\\n")
tokenize(read_corpus([text]), train_vocabulary(["bottles of beer on the wall"], 270), folder / f"tokens-{num}", None)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_memory_does_not_grow_with_a_document(tmp_path):
    peaks = []
    for num in (400, 4000):  # a document of 3.5 MB, and one of 36 MB
        run = subprocess.run([sys.executable, "-c", PEAK, str(tmp_path), str(num)], capture_output=True, text=True, check=True)
        peaks.append(int(run.stdout) / 1024)
    assert peaks[1] - peaks[0] < 30  # megabytes; the ids alone as Python's integers would be hundreds


@pytest.mark.parametrize(
    ("num_train", "num_validation", "refused"),
    [
        (9000, 5, r"the text of v.txt \(--validation\) has 5 tokens, .* windows of 16: 33 are needed; more of it, or leave --val"),
        (
            90,
            5,
            "the text has 90 tokens to train on and 5 held out, too few even for windows of 16: 144 and 33 are needed; more text",
        ),
        (90, 9000, "the text has 90 tokens to train on and 9,000 held out, .*; more text helps"),
    ],
)
def test_a_file_to_validate_on_that_is_too_short_is_named(num_train, num_validation, refused):
    shards = TokenShards([np.arange(num_train)], [np.arange(num_validation)], 1, [], [])
    with pytest.raises(TrainingError, match=refused):
        choose_window(shards, 64, validation=[Path("v.txt")])


@pytest.mark.parametrize(("num_words", "which"), [(3000, "the text of {short} (--validation)"), (100, "the text")])
def test_the_text_that_decides_on_the_windows_is_named(base, tmp_path, num_words, which):
    """Windows are those of the whole run, however short the text is that is validated on."""
    lines, train, short = [], tmp_path / "train.txt", tmp_path / "short.txt"
    train.write_text("calm sea " * num_words)
    short.write_text("grey " * 20)
    prepare(DataOptions(paths=[train], validation=[short]), None, Base.load(str(base)), tmp_path / "tokens", lines.append)
    assert lines[-1].startswith(f"{which.format(short=short)} is short: all is learned in windows of ")


@pytest.mark.parametrize("dpo", [None, DPO(beta=0.1)])
@pytest.mark.parametrize(("validated", "known"), [([7, 3, 0], 2), ([7, 8], 0)])
def test_records_to_validate_on_that_are_trained_on_are_counted(base, tmp_path, dpo, validated, known):
    """Wherever they stand, and whatever else their lines have."""
    answers = {"chosen": " a", "rejected": " b"} if dpo else {"completion": " a"}
    files = {"train.jsonl": range(5), "validation.jsonl": validated}
    for name, prompts in files.items():
        rows = [{"file": name, "prompt": str(number), **answers} for number in prompts]
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    paths, validation = ([tmp_path / name] for name in files)
    lines = []
    prepare(DataOptions(paths=paths, validation=validation), dpo, Base.load(str(base)), tmp_path / "tokens", lines.append)
    told = (
        f"{known} of 3 records to validate on are among those to train on, too: the figures tell in part what was learned by heart"
    )
    assert [line for line in lines if "to validate on" in line] == [told] * bool(known)


@pytest.mark.parametrize("which", ["train", "validation"])
def test_records_of_which_none_fits_are_named(base, tmp_path, which):
    files = {name: tmp_path / f"{name}.jsonl" for name in ("train", "validation")}
    for name, file in files.items():
        file.write_text(json.dumps({"prompt": "a", "completion": "b" * (900 if name == which else 1)}) + "\n")
    options = DataOptions(paths=[files["train"]], validation=[files["validation"]])
    with pytest.raises(TrainingError, match=rf"nothing for {which}: nothing in {files[which]} fits into 64 tokens"):
        prepare(options, None, Base.load(str(base)), tmp_path / "tokens", lambda line: None)
