"""Vocabularies: what is learned from text, and that all who read its files read it alike."""

import random
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import GPT2TokenizerFast

from model.bpe import BPETokenizer
from model.checkpoint import save_tokenizer
from model.tokenizer import Tokenizer
from model.training.data.corpus import read_corpus
from model.training.errors import TrainingError
from model.training.vocabulary import (
    _without_endless_words,
    has_vocabulary,
    learn_vocabulary,
    load_vocabulary,
    train_vocabulary,
)
from tests.chaos.texts import FAMILIES

# Words with shared beginnings and ends, runs, other scripts: what makes merges compete.
COMPETING = " ".join(
    f"{a}{b}{c}"
    for a in ("", "un", "re", "日本")
    for b in ("do", "doing", "aaa", "bababa", "naïve")
    for c in ("", "s", "'ll", "!!", " 12\n")
)
ODD = [
    "    if x[1] == 0x7f:\r\n\t\treturn {'key': \"value\"}  # 100%\r\n",
    "\r\n\r\n",
    " " * 37,
    "\t \t\n\n\n   x",
    "3.14159 1,000,000 ٣٤ ½ ²",
    "🙂👩\u200d👧🇩🇪",
    "e\u0301 é \u00a0\u2003\u200b",
    "Ελλάδα Россия 日本語 한국어 עברית",
    "we'll I'd they'VE don't '''''",
    "\x7f\x1b[0m\x01",
    "<|endoftext",
    "\U0001f9ff\U000e0041\uffff",
]

Readers = tuple[Tokenizer, GPT2TokenizerFast, tokenizers.Tokenizer]


@pytest.fixture(scope="module")
def readers(shakespeare: str, tmp_path_factory: pytest.TempPathFactory) -> Readers:
    """One vocabulary's two files, read by this service (on tiktoken), by transformers and by the tokenizers library."""
    directory = tmp_path_factory.mktemp("vocabulary")
    save_tokenizer(directory, train_vocabulary([shakespeare, COMPETING, *ODD], 1500))
    files = str(directory / "vocab.json"), str(directory / "merges.txt")
    library = tokenizers.Tokenizer(tokenizers.models.BPE.from_file(*files))
    library.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    return load_vocabulary(directory), GPT2TokenizerFast(*files), library


def megabyte(text: str) -> str:
    """Pieces of the text, and between them code, numbers, runs of blanks, emoji and any characters at all."""
    choose = random.Random(0)
    pieces: list[str] = []
    size = 0
    while size < 1_000_000:
        begin = choose.randrange(len(text))
        anything = "".join(
            chr(choose.choice((choose.randrange(0xD800), choose.randrange(0xE000, 0x110000)))) for _ in range(choose.randrange(20))
        )
        number = str(choose.randrange(10 ** choose.randrange(1, 12)))
        blanks = "".join(choose.choices(" \t\r\n", k=choose.randrange(30)))
        piece = text[begin : begin + choose.randrange(2000)] + choose.choice(ODD) + anything + number + blanks
        pieces.append(piece)
        size += len(piece.encode())
    return "".join(pieces)


def test_a_megabyte_gets_the_same_ids_from_all_who_read_the_files(readers: Readers, shakespeare: str) -> None:
    ours, transformers, library = readers
    text = megabyte(shakespeare)
    ids = ours.encode(text)
    assert ids == library.encode(text).ids
    assert ids == transformers.encode(text)
    assert ours.decode(ids) == text
    assert len(set(ids)) > 1200


@settings(deadline=None)
@given(
    text=st.text(st.sampled_from(sorted(set(COMPETING))))
    | st.lists(st.sampled_from(COMPETING.split(" "))).map(" ".join)
    | st.text(max_size=20)
)
def test_what_makes_merges_compete_gets_the_same_ids_too(readers: Readers, text: str) -> None:
    ours, transformers, library = readers
    ids = ours.encode(text)
    assert ids == transformers.encode(text)
    assert ids == library.encode(text).ids
    assert text == ours.decode(ids) == transformers.decode(ids, clean_up_tokenization_spaces=False)


def test_the_bytes_come_first_and_the_end_token_last() -> None:
    tokenizer = train_vocabulary([COMPETING], 300)
    assert tokenizer.vocab_size == len(tokenizer.vocab) == 300
    assert tokenizer.eos_token_id == 299
    assert all(len(tokenizer.token_bytes(i)) == 1 for i in range(256))
    assert len(tokenizer.encode(COMPETING)) < len(COMPETING.encode()) / 3


def test_257_tokens_are_the_bytes_alone(tmp_path: Path) -> None:
    save_tokenizer(tmp_path, train_vocabulary([COMPETING], 257))
    tokenizer = load_vocabulary(tmp_path)
    assert (tokenizer.vocab_size, tokenizer.eos_token_id) == (257, 256)
    assert len(tokenizer.encode("naïve 日本")) == len("naïve 日本".encode())
    transformers = GPT2TokenizerFast(str(tmp_path / "vocab.json"), str(tmp_path / "merges.txt"))
    assert transformers.encode("naïve 日本") == tokenizer.encode("naïve 日本")


@pytest.fixture(scope="module")
def readers_of_characters(tmp_path_factory: pytest.TempPathFactory) -> Readers:
    """A vocabulary of characters, read by all three: of two-, three- and four-byte ones, some of them with tokens of their own."""
    directory = tmp_path_factory.mktemp("characters")
    save_tokenizer(
        directory, train_vocabulary([COMPETING, *ODD, "床前明月光，疑是地上霜。" * 9, "🙂🙃😀" * 9], 330, characters=True)
    )
    files = str(directory / "vocab.json"), str(directory / "merges.txt")
    library = tokenizers.Tokenizer(tokenizers.models.BPE.from_file(*files))
    library.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    return load_vocabulary(directory), GPT2TokenizerFast(*files), library


@settings(deadline=None)
@given(text=st.text(st.sampled_from("床前明月光，霜🙂日本ï1 \nab'll")) | st.text(max_size=20))
def test_tokens_of_characters_never_reach_beyond_one(readers_of_characters: Readers, text: str) -> None:
    ours, transformers, library = readers_of_characters
    ids = ours.encode(text)
    assert ids == [i for character in text for i in ours.encode(character)]
    assert ids == transformers.encode(text) == library.encode(text).ids
    assert ours.decode(ids) == text


def test_frequent_characters_are_one_token_and_rare_ones_stay_bytes(readers_of_characters: Readers) -> None:
    ours, _, _ = readers_of_characters
    assert [len(ours.encode(character)) for character in "明，🙂"] == [1, 1, 1]
    assert 2 <= len(ours.encode("龘")) <= 3
    learned = [ours.token_bytes(i) for i in range(256, ours.vocab_size - 1)]
    assert all(len(token.decode(errors="ignore")) <= 1 for token in learned)  # the others are parts of one


def test_fewer_tokens_than_bytes_are_refused() -> None:
    with pytest.raises(TrainingError, match="a vocabulary of 256 is too small: the bytes and the end token alone are 257"):
        train_vocabulary([COMPETING], 256)


def learn(tmp_path: Path, text: str, vocab_size: int | None) -> tuple[Tokenizer, list[str]]:
    (tmp_path / "text.txt").write_text(text, encoding="utf-8")
    lines: list[str] = []
    corpus = read_corpus([tmp_path / "text.txt"])
    return learn_vocabulary(corpus, vocab_size, tmp_path / "out", lines.append), lines


def test_a_vocabulary_larger_than_the_text_supports_is_refused_with_the_size_it_could_have(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"the text supports a vocabulary of at most 261 tokens, not 5000: .*--vocab-size 261"):
        learn(tmp_path, "banana", 5000)
    assert not (tmp_path / "out").exists()
    tokenizer, _ = learn(tmp_path, "banana", 261)
    assert tokenizer.encode("banana") == [tokenizer.vocab["banana"]]


def test_a_vocabulary_of_no_given_size_takes_what_the_text_supports(tmp_path: Path) -> None:
    tokenizer, lines = learn(tmp_path, "banana", None)
    assert tokenizer.vocab_size == 261
    assert lines == ["learning a vocabulary of 512 tokens"]


@pytest.mark.parametrize("file", ["vocab.json", "merges.txt"])
def test_a_vocabulary_is_never_overwritten(tmp_path: Path, file: str) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / file).write_text("precious")
    with pytest.raises(TrainingError, match=f"{file} exists already and would be overwritten; choose another --out"):
        learn(tmp_path, COMPETING, 300)
    assert (tmp_path / "out" / file).read_text() == "precious"
    assert len(list((tmp_path / "out").iterdir())) == 1


def test_a_large_text_is_sampled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("model.training.vocabulary.SAMPLE_BYTES", 100)
    tokenizer, _ = learn(tmp_path, "\n\n".join(["seen", "unread"] * 20), None)
    assert "seen" in tokenizer.vocab
    assert "unread" not in tokenizer.vocab


def test_a_directory_without_a_usable_vocabulary_is_refused(tmp_path: Path, byte_tokenizer: Tokenizer) -> None:
    with pytest.raises(TrainingError, match=r"has no vocab.json; make a vocabulary by gpt2 train tokenizer"):
        load_vocabulary(tmp_path)
    save_tokenizer(tmp_path, byte_tokenizer)
    assert has_vocabulary(tmp_path)
    (tmp_path / "merges.txt").unlink()
    assert not has_vocabulary(tmp_path)
    with pytest.raises(TrainingError, match=r"has no merges.txt"):
        load_vocabulary(tmp_path)


def test_a_vocabulary_that_is_read_by_more_than_its_two_files_is_refused_or_kept_whole(
    tmp_path: Path, byte_tokenizer: Tokenizer
) -> None:
    save_tokenizer(tmp_path, byte_tokenizer)
    (tmp_path / "added_tokens.json").write_text('{"<|user|>": 257}')
    read = load_vocabulary(tmp_path)
    assert read.encode("<|user|>") == [257]
    save_tokenizer(tmp_path / "out", read)
    assert load_vocabulary(tmp_path / "out").encode("<|user|>") == [257]
    (tmp_path / "tokenizer_config.json").write_text('{"add_bos_token": true}')
    with pytest.raises(TrainingError, match="is not GPT-2's plain one"):
        load_vocabulary(tmp_path)


def test_a_vocabulary_that_cannot_mark_documents_is_refused(tmp_path: Path, byte_tokenizer: Tokenizer) -> None:
    ordinary = {token: i for token, i in byte_tokenizer.vocab.items() if i != byte_tokenizer.eos_token_id}
    save_tokenizer(tmp_path, BPETokenizer(ordinary, byte_tokenizer.merges))
    with pytest.raises(TrainingError, match=r"has no end token <\|endoftext\|>"):
        load_vocabulary(tmp_path)


@pytest.mark.timeout(100)
@pytest.mark.parametrize(
    "name", ["a letter", "spaces and a letter", "no-break spaces and a letter", "newlines", "digits", "punctuation"]
)
def test_a_text_that_is_one_endless_word_is_learned_from(name: str) -> None:
    """The trainer's time grew with the square of a word's length: minutes for this one."""
    text = FAMILIES[name](300_000)
    tokenizer = train_vocabulary([text], 300)
    assert tokenizer.decode(tokenizer.encode(text[-1000:])) == text[-1000:]


def test_words_of_any_usual_length_are_learned_from_whole(shakespeare: str) -> None:
    for text in (shakespeare, "x" * 255 + " " * 255 + "7" * 255, *ODD):
        assert list(_without_endless_words(text)) == [text]
