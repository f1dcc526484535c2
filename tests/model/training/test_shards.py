"""Shards: documents go in, the same tokens come out, and what was made once is made again only if it must be."""

import json
import os
import tempfile
from itertools import count, islice
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.bpe import BPETokenizer
from model.training.data import shards
from model.training.data.corpus import read_corpus
from model.training.data.shards import map_shards, tokenize
from model.training.errors import TrainingError


@settings(deadline=None, max_examples=50)
@given(
    files=st.lists(st.lists(st.integers(1, 60) | st.integers(1, 600), min_size=1, max_size=5), min_size=1, max_size=4),
    tokens_per_shard=st.integers(1, 200),
    fraction=st.none() | st.floats(0.01, 0.9),
)
def test_each_character_is_in_one_split_or_the_other_in_its_order(byte_tokenizer, files, tokens_per_shard, fraction):
    characters = map(chr, count(0x4E00))  # none twice, each of three bytes
    with tempfile.TemporaryDirectory() as folder, patch.object(shards, "TOKENS_PER_SHARD", tokens_per_shard):
        paths = []
        for number, lengths in enumerate(files):
            paths.append(Path(folder) / f"{number}.jsonl")
            texts = ("".join(islice(characters, length)) for length in lengths)
            paths[-1].write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
        try:
            made = tokenize(read_corpus(paths), byte_tokenizer, Path(folder) / "tokens", fraction)
        except TrainingError as error:  # of a text so short one or two documents may be all
            assert "nothing is left to train on" in str(error)  # noqa: PT017
            return
        splits = [np.concatenate([np.zeros(0, int), *split]) for split in (made.train, made.validation)]
        assert all(len(shard) < tokens_per_shard + 3 * 600 + 1 for shard in (*made.train, *made.validation))
    assert all(not len(ids) or ids[0] == 256 for ids in splits)
    found = [byte_tokenizer.decode(ids.tolist()) for ids in splits]
    assert all(list(text) == sorted(text) for text in found)
    num = sum(sum(lengths) for lengths in files)
    assert sorted("".join(found)) == list(map(chr, range(0x4E00, 0x4E00 + num)))
    assert made.num_bytes == 3 * num


@pytest.fixture
def corpus(tmp_path, shakespeare):
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text(shakespeare[:2000] + name)
    return [tmp_path / "a.txt", tmp_path / "b.txt"]


def made_at(directory):
    return (directory / "index.json").stat().st_mtime_ns


def test_each_document_follows_an_end_token(tmp_path, byte_tokenizer):
    (tmp_path / "a.txt").write_text("redo\n<|endoftext|>\nundo\n")
    made = tokenize(read_corpus([tmp_path / "a.txt"]), byte_tokenizer, tmp_path / "tokens", 0.01)
    assert made.train[0].tolist() == [256, *byte_tokenizer.encode("redo\n"), 256, *byte_tokenizer.encode("undo\n")]


def test_text_is_tokenised_once(tmp_path, corpus, byte_tokenizer):
    made = tokenize(read_corpus(corpus), byte_tokenizer, tmp_path / "tokens", None)
    first = made_at(tmp_path / "tokens")
    again = tokenize(read_corpus(corpus), byte_tokenizer, tmp_path / "tokens", None)
    assert made_at(tmp_path / "tokens") == first
    assert [shard.tolist() for shard in again.train] == [shard.tolist() for shard in made.train]


@pytest.mark.parametrize("change", ["size", "date", "files", "vocabulary", "fraction", "damage"])
def test_text_is_tokenised_anew_when_anything_changed(tmp_path, corpus, byte_tokenizer, small_tokenizer, change):
    directory, tokenizer, fraction = tmp_path / "tokens", byte_tokenizer, None
    tokenize(read_corpus(corpus), tokenizer, directory, fraction)
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
    made = tokenize(read_corpus(corpus), tokenizer, directory, fraction)
    assert made_at(directory) != first
    assert made.num_bytes == sum(file.stat().st_size for file in corpus)


def test_an_interrupted_tokenisation_is_not_believed(tmp_path, corpus, byte_tokenizer):
    def interrupt(num_bytes):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tokenize(read_corpus(corpus), byte_tokenizer, tmp_path / "tokens", None, interrupt)
    with pytest.raises(TrainingError, match=r"index\.json is missing; put back a copy of it, or train anew with another --out"):
        map_shards(tmp_path / "tokens")
    made = tokenize(read_corpus(corpus), byte_tokenizer, tmp_path / "tokens", None)
    assert made.num_bytes == sum(file.stat().st_size for file in corpus)


def test_a_shard_that_was_cut_off_is_noticed(tmp_path, corpus, byte_tokenizer):
    tokenize(read_corpus(corpus), byte_tokenizer, tmp_path / "tokens", None)
    shard = tmp_path / "tokens" / "train-00000.bin"
    shard.write_bytes(shard.read_bytes()[:-2])
    with pytest.raises(TrainingError, match=r"train-00000\.bin is damaged: .*; put back a copy of it, or train anew"):
        map_shards(tmp_path / "tokens")


@pytest.mark.parametrize(("last_id", "size"), [((1 << 16) - 1, 2), (1 << 16, 4)])
def test_ids_take_16_bits_where_they_fit(tmp_path, corpus, byte_tokenizer, last_id, size):
    vocab = {token: i for token, i in byte_tokenizer.vocab.items() if token != "<|endoftext|>"} | {"<|endoftext|>": last_id}
    made = tokenize(read_corpus(corpus), BPETokenizer(vocab, []), tmp_path / "tokens", None)
    assert made.train[0].dtype.itemsize == size
    assert made.train[0][0] == last_id


def test_ten_percent_is_held_out_but_no_more_than_is_worth_measuring(tmp_path, corpus, byte_tokenizer):
    made = tokenize(read_corpus(corpus), byte_tokenizer, tmp_path / "tokens", None)
    assert sum(map(len, made.validation)) / made.num_tokens == pytest.approx(0.1, abs=0.025)
    os.truncate(corpus[0], 0)
    with corpus[1].open("ab") as file:
        file.write(b"x" * 400_000)
    with patch.object(shards, "HELD_OUT_BYTES", 10_000):
        made = tokenize(read_corpus(corpus), byte_tokenizer, tmp_path / "tokens", None)
    assert sum(map(len, made.validation)) == pytest.approx(10_000, rel=0.1)


def test_progress_counts_the_bytes_of_text(tmp_path, corpus, byte_tokenizer):
    sizes = []
    made = tokenize(read_corpus(corpus), byte_tokenizer, tmp_path / "tokens", None, sizes.append)
    assert sum(sizes) == made.num_bytes


def test_files_without_text_are_refused(tmp_path, byte_tokenizer):
    (tmp_path / "a.txt").write_text("\n")
    with pytest.raises(TrainingError, match=r"there is no text in .*a\.txt"):
        tokenize(read_corpus([tmp_path / "a.txt"]), byte_tokenizer, tmp_path / "tokens", None)
