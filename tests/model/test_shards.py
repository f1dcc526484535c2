"""Shards: documents go in, the same tokens come out, and what was made once is made again only if it must be."""

import json
import os
import tempfile
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.bpe import BPETokenizer
from model.training import shards
from model.training.errors import TrainingError
from model.training.shards import map_shards, tokenize

texts = st.text(st.characters(codec="utf-8", exclude_characters="\r\n\0"), min_size=1, max_size=60).filter(str.strip)


@settings(deadline=None, max_examples=50)
@given(
    files=st.lists(st.lists(texts.filter(lambda text: text != "<|endoftext|>"), min_size=1, max_size=5), min_size=1, max_size=4),
    tokens_per_shard=st.integers(1, 200),
    fraction=st.none() | st.floats(0.01, 0.9),
)
def test_documents_come_back_in_their_order_over_both_splits(byte_tokenizer, files, tokens_per_shard, fraction):
    with tempfile.TemporaryDirectory() as folder, patch.object(shards, "TOKENS_PER_SHARD", tokens_per_shard):
        paths = []
        for number, documents in enumerate(files):
            paths.append(Path(folder) / f"{number}.jsonl")
            paths[-1].write_text("".join(json.dumps({"text": text}) + "\n" for text in documents))
        made = tokenize(paths, byte_tokenizer, Path(folder) / "tokens", fraction)
        train, validation = (np.concatenate([*split, []]).tolist() for split in (made.train, made.validation))
        assert all(len(shard) < tokens_per_shard + 61 * 4 * 5 for shard in (*made.train, *made.validation))
    expected = [[i for text in documents for i in (256, *byte_tokenizer.encode(text))] for documents in files]
    for ids in expected:
        held_out = int(len(ids) * (fraction or 0.1))
        assert train[: len(ids) - held_out] + validation[:held_out] == ids
        train, validation = train[len(ids) - held_out :], validation[held_out:]
    assert train == validation == []
    assert made.num_tokens == sum(map(len, expected))
    assert made.num_bytes == sum(len(text.encode()) for documents in files for text in documents)


@pytest.fixture
def corpus(tmp_path, shakespeare):
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text(shakespeare[:2000] + name)
    return [tmp_path / "a.txt", tmp_path / "b.txt"]


def made_at(directory):
    return (directory / "index.json").stat().st_mtime_ns


def test_each_document_follows_an_end_token(tmp_path, byte_tokenizer):
    (tmp_path / "a.txt").write_text("redo\n<|endoftext|>\nundo\n")
    made = tokenize([tmp_path / "a.txt"], byte_tokenizer, tmp_path / "tokens", 0.01)
    assert made.train[0].tolist() == [256, *byte_tokenizer.encode("redo\n"), 256, *byte_tokenizer.encode("undo\n")]


def test_text_is_tokenised_once(tmp_path, corpus, byte_tokenizer):
    made = tokenize(corpus, byte_tokenizer, tmp_path / "tokens", None)
    first = made_at(tmp_path / "tokens")
    again = tokenize(corpus, byte_tokenizer, tmp_path / "tokens", None)
    assert made_at(tmp_path / "tokens") == first
    assert [shard.tolist() for shard in again.train] == [shard.tolist() for shard in made.train]


@pytest.mark.parametrize("change", ["size", "date", "files", "vocabulary", "fraction", "damage"])
def test_text_is_tokenised_anew_when_anything_changed(tmp_path, corpus, byte_tokenizer, small_tokenizer, change):
    directory, tokenizer, fraction = tmp_path / "tokens", byte_tokenizer, None
    tokenize(corpus, tokenizer, directory, fraction)
    first = made_at(directory)
    if change == "size":
        corpus[0].write_text("another text, long enough")
    elif change == "date":
        os.utime(corpus[0], ns=(0, 0))
    elif change == "files":
        corpus = corpus[:1]
    elif change == "vocabulary":
        tokenizer = small_tokenizer
    elif change == "fraction":
        fraction = 0.5
    else:
        (directory / "index.json").write_text('{"fingerprint": ')
    made = tokenize(corpus, tokenizer, directory, fraction)
    assert made_at(directory) != first
    assert made.num_tokens == sum(1 + len(tokenizer.encode(file.read_text())) for file in corpus)


def test_an_interrupted_tokenisation_is_not_believed(tmp_path, corpus, byte_tokenizer):
    def interrupt(num_bytes):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tokenize(corpus, byte_tokenizer, tmp_path / "tokens", None, interrupt)
    with pytest.raises(TrainingError, match=r"the tokenised text in .* is damaged"):
        map_shards(tmp_path / "tokens")
    made = tokenize(corpus, byte_tokenizer, tmp_path / "tokens", None)
    assert made.num_tokens == sum(1 + file.stat().st_size for file in corpus)


def test_a_shard_that_was_cut_off_is_noticed(tmp_path, corpus, byte_tokenizer):
    tokenize(corpus, byte_tokenizer, tmp_path / "tokens", None)
    shard = tmp_path / "tokens" / "train-00000.bin"
    shard.write_bytes(shard.read_bytes()[:-2])
    with pytest.raises(TrainingError, match=r"the tokenised text in .* is damaged .*; begin anew with another --out"):
        map_shards(tmp_path / "tokens")


@pytest.mark.parametrize(("last_id", "size"), [((1 << 16) - 1, 2), (1 << 16, 4)])
def test_ids_take_16_bits_where_they_fit(tmp_path, corpus, byte_tokenizer, last_id, size):
    vocab = {token: i for token, i in byte_tokenizer.vocab.items() if token != "<|endoftext|>"} | {"<|endoftext|>": last_id}
    made = tokenize(corpus, BPETokenizer(vocab, []), tmp_path / "tokens", None)
    assert made.train[0].dtype.itemsize == size
    assert made.train[0][0] == last_id


def test_ten_percent_is_held_out_but_no_more_than_is_worth_measuring(tmp_path, corpus, byte_tokenizer):
    made = tokenize(corpus, byte_tokenizer, tmp_path / "tokens", None)
    assert sum(map(len, made.validation)) / made.num_tokens == pytest.approx(0.1, abs=0.001)
    os.truncate(corpus[0], 0)
    with corpus[1].open("ab") as file:
        file.write(b"x" * 400_000)
    with patch.object(shards, "HELD_OUT_BYTES", 10_000):
        made = tokenize(corpus, byte_tokenizer, tmp_path / "tokens", None)
    assert sum(map(len, made.validation)) == pytest.approx(10_000, rel=0.01)


def test_progress_counts_the_bytes_of_text(tmp_path, corpus, byte_tokenizer):
    sizes = []
    made = tokenize(corpus, byte_tokenizer, tmp_path / "tokens", None, sizes.append)
    assert sum(sizes) == made.num_bytes


def test_files_without_text_are_refused(tmp_path, byte_tokenizer):
    (tmp_path / "a.txt").write_text("\n")
    with pytest.raises(TrainingError, match=r"there is no text in .*a\.txt"):
        tokenize([tmp_path / "a.txt"], byte_tokenizer, tmp_path / "tokens", None)
