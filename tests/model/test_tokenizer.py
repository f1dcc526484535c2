"""Text to ids and back: as transformers does it, without ever losing or halving a character."""

import contextlib
import json
import time
from pathlib import Path

import pytest
import tiktoken
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import GPT2TokenizerFast

from model.bpe import BPETokenizer, byte_alphabet
from model.tokenizer import Reading, Tokenizer, TokenizerError
from model.tokenizer_files import read_tokenizer

DATA = Path(__file__).parents[1] / "data"
# The pattern of GPT-2's release as it stands there, which ours must split like.
RELEASED_PATTERN = r"""'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""
TRICKY = [
    "",
    " ",
    "Hello, world!",
    "  leading and trailing  ",
    "it's we'll they've I'm you'd he're don't CAN'T 'sup ''s",
    "tabs\tand\nnewlines\r\n\n\n  \n x",
    "numbers 1234567890 ½ ² ٣ 3.14e-10",
    "naïve café \u0065\u0301 ﬁ",
    "日本語のテキスト 中文 한국어",
    "🙂 👩‍👩‍👧‍👦 🏳️‍🌈 🇫🇷",
    "العربية עברית हिन्दी ไทย",
    "a\u00a0b\u2003c\u3000d\u200be\ufeff",
    "\x00\x01\x7f\x85\u2028",
    "_____----====!!!!????....",
    "    def f(x):\n        return x ** 2\n",
    "https://example.com/?q=a%20b&c=d#e",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "\U0010ffff\ue000𝔘𝔫𝔦",
]
TEXTS = st.text(st.characters(exclude_categories=["Cs"])) | st.text(" \n\tab'sé日🙂1!", max_size=40)


@pytest.fixture(scope="module")
def theirs() -> GPT2TokenizerFast:
    return GPT2TokenizerFast.from_pretrained(DATA)


@pytest.fixture(scope="module")
def released(gpt2_tokenizer: Tokenizer) -> tiktoken.Encoding:
    ranks = {gpt2_tokenizer.token_bytes(i): i for i in range(50256)}
    return tiktoken.Encoding("released", pat_str=RELEASED_PATTERN, mergeable_ranks=ranks, special_tokens={})


@pytest.fixture(scope="module")
def end_first(small_tokenizer: Tokenizer) -> Tokenizer:
    """The small vocabulary with its end token first and the others in reverse: no id is a merge's rank."""
    ordinary = [token for token in small_tokenizer.vocab if token != "<|endoftext|>"]
    return BPETokenizer({token: i for i, token in enumerate(["<|endoftext|>", *reversed(ordinary)])}, small_tokenizer.merges)


@pytest.mark.parametrize("text", TRICKY)
def test_ids_are_those_of_transformers(gpt2_tokenizer: Tokenizer, theirs: GPT2TokenizerFast, text: str) -> None:
    assert gpt2_tokenizer.encode(text) == theirs.encode(text)


@settings(deadline=None)
@given(text=TEXTS)
def test_ids_of_any_text_are_those_of_transformers(gpt2_tokenizer: Tokenizer, theirs: GPT2TokenizerFast, text: str) -> None:
    assert gpt2_tokenizer.encode(text) == theirs.encode(text)


@settings(deadline=None)
@given(text=TEXTS)
def test_the_possessive_pattern_splits_like_the_released_one(
    gpt2_tokenizer: Tokenizer, released: tiktoken.Encoding, text: str
) -> None:
    assert gpt2_tokenizer.encode(text) == released.encode_ordinary(text)


@settings(deadline=None)
@given(text=TEXTS)
def test_what_is_encoded_decodes_to_itself(gpt2_tokenizer: Tokenizer, end_first: Tokenizer, text: str) -> None:
    for tokenizer in (gpt2_tokenizer, end_first):
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_known_ids_of_the_released_vocabulary(gpt2_tokenizer: Tokenizer) -> None:
    assert gpt2_tokenizer.encode("Hello world") == [15496, 995]
    assert gpt2_tokenizer.eos_token_id == 50256
    assert gpt2_tokenizer.vocab_size == 50257


def test_the_end_token_in_a_text_is_plain_text_where_tokens_are_not_to_be_read(gpt2_tokenizer: Tokenizer) -> None:
    """A stranger must not be able to end, or to begin, a document by writing its name."""
    ids = gpt2_tokenizer.encode("a<|endoftext|>b", Reading(parse_special=False))
    assert gpt2_tokenizer.eos_token_id not in ids
    assert gpt2_tokenizer.decode(ids) == "a<|endoftext|>b"


def test_the_end_token_in_a_text_is_the_end_token(gpt2_tokenizer: Tokenizer, theirs: GPT2TokenizerFast) -> None:
    ids = gpt2_tokenizer.encode("a<|endoftext|>b")
    assert ids == theirs.encode("a<|endoftext|>b") == [64, 50256, 65]
    assert gpt2_tokenizer.decode(ids) == "ab"
    assert gpt2_tokenizer.decode(ids, skip_special_tokens=False) == "a<|endoftext|>b"


def test_special_and_unknown_ids_have_no_text(gpt2_tokenizer: Tokenizer) -> None:
    assert gpt2_tokenizer.is_special(50256)
    assert gpt2_tokenizer.is_special(60000)
    assert not gpt2_tokenizer.is_special(15496)
    assert gpt2_tokenizer.decode([15496, 50256, 60000, 995]) == "Hello world"


@settings(deadline=None)
@given(text=TEXTS)
def test_a_vocabulary_may_number_its_tokens_in_any_order(small_tokenizer: Tokenizer, end_first: Tokenizer, text: str) -> None:
    names = {i: token for token, i in end_first.vocab.items()}
    assert [small_tokenizer.vocab[names[i]] for i in end_first.encode(text)] == small_tokenizer.encode(text)


def test_the_end_token_may_come_first(end_first: Tokenizer) -> None:
    assert end_first.eos_token_id == 0
    assert end_first.is_special(0)
    assert end_first.vocab_size == 500


@settings(deadline=None)
@given(text=TEXTS)
def test_pieces_never_hold_half_a_character(gpt2_tokenizer: Tokenizer, text: str) -> None:
    text = text.replace("\ufffd", "")
    decoder = gpt2_tokenizer.decoder()
    pieces = [decoder.decode(i) for i in gpt2_tokenizer.encode(text)]
    assert "".join(pieces) == text
    assert not any("\ufffd" in piece for piece in pieces)
    assert decoder.flush() == ""


@settings(deadline=None)
@given(token_ids=st.lists(st.integers(0, 255) | st.integers(0, 50300), max_size=40))
def test_pieces_of_any_ids_add_up_to_their_text(gpt2_tokenizer: Tokenizer, token_ids: list[int]) -> None:
    """Also where the bytes are no UTF-8: what one id at a time gives is what all at once give."""
    decoder = gpt2_tokenizer.decoder()
    pieces = [decoder.decode(i) for i in token_ids]
    assert "".join([*pieces, decoder.flush()]) == gpt2_tokenizer.decode(token_ids)


@settings(deadline=None)
@given(token_ids=st.lists(st.integers(0, 255) | st.integers(0, 50300), max_size=40))
def test_a_tokens_offset_is_where_its_own_text_stands(gpt2_tokenizer: Tokenizer, token_ids: list[int]) -> None:
    """Also behind bytes that turn out to be no character: U+FFFD comes with the token after them, but stands before it."""
    decoder, offsets = gpt2_tokenizer.decoder(), []
    text = ""
    for token_id in token_ids:
        text += decoder.decode(token_id)
        offsets.append(decoder.offset)
    text += decoder.flush()
    assert offsets == sorted(offsets)
    assert decoder.offset == len(text)
    for token_id, offset in zip(token_ids, offsets, strict=True):
        with contextlib.suppress(UnicodeDecodeError):  # else it is no text of its own
            assert text[offset:].startswith(gpt2_tokenizer.token_bytes(token_id).decode())


@pytest.mark.parametrize(("data", "offsets"), [(b"\xc3\xa9a", [0, 0, 1]), (b"\xc3a", [0, 1]), (b"\xc3\xc3\xa9", [0, 1, 1])])
@pytest.mark.parametrize("longer", [b"", b"\xef\xbf\xbd"])
def test_offsets_of_bytes(gpt2_tokenizer: Tokenizer, data: bytes, offsets: list[int], longer: bytes) -> None:
    """The second time with a U+FFFD that is the text's own, byte by byte, before them."""
    ids = {gpt2_tokenizer.token_bytes(i): i for i in range(256)}
    decoder, seen = gpt2_tokenizer.decoder(), []
    for byte in longer + data:
        decoder.decode(ids[bytes([byte])])
        seen.append(decoder.offset)
    assert seen == [0] * len(longer) + [offset + bool(longer) for offset in offsets]


def test_a_token_has_a_name_even_where_it_is_no_text(gpt2_tokenizer: Tokenizer) -> None:
    ids = {gpt2_tokenizer.token_bytes(i): i for i in range(256)}
    assert gpt2_tokenizer.name(ids[b"\xe2"]) == "bytes:\\xe2"
    assert gpt2_tokenizer.name(ids[b"a"]) == "a"
    assert gpt2_tokenizer.name(50256) == "<|endoftext|>"
    assert gpt2_tokenizer.name(50300) == "<|50300|>", "an id that the vocabulary does not hold"


@settings(deadline=None)
@given(text=TEXTS)
def test_spans_cover_the_text_in_order(gpt2_tokenizer: Tokenizer, text: str) -> None:
    spans = gpt2_tokenizer.spans(text)
    assert [span.id for span in spans] == gpt2_tokenizer.encode(text)
    assert "".join(span.text for span in spans) == text
    end = 0
    for span in spans:
        assert (span.start, text[span.start : span.stop]) == (end, span.text)
        end = span.stop
    assert end == len(text)


def test_a_character_cut_over_tokens_belongs_to_the_token_that_completes_it(gpt2_tokenizer: Tokenizer) -> None:
    spans = gpt2_tokenizer.spans("a🜲b")
    assert len(spans) > 3
    assert [(span.text, span.start, span.stop) for span in spans if span.text] == [("a", 0, 1), ("🜲", 1, 2), ("b", 2, 3)]


@pytest.mark.parametrize(
    "text", [" " * 1_000_000, "\n" * 1_000_000, "a" * 1_000_000, "é" * 300_000, " a" * 500_000, "!" * 1_000_000]
)
def test_a_million_characters_of_a_kind_are_encoded(gpt2_tokenizer: Tokenizer, text: str) -> None:
    """With the released pattern a million spaces exhaust the regular expressions' stack."""
    start = time.perf_counter()
    assert gpt2_tokenizer.decode(gpt2_tokenizer.encode(text)) == text
    assert time.perf_counter() - start < 20


def test_a_lone_surrogate_does_not_raise(gpt2_tokenizer: Tokenizer) -> None:
    assert gpt2_tokenizer.decode(gpt2_tokenizer.encode("a\ud800b")) == "a\ufffdb"


# Malformed vocabularies

BYTES = {token: i for i, token in enumerate(byte_alphabet().values())}


@pytest.mark.parametrize(
    ("vocab", "merges", "message"),
    [
        (b"{", b"", "vocab.json is not JSON"),
        (b"\xff\xfe", b"", "vocab.json is not JSON"),
        (b"[" * 100_000, b"", "vocab.json is not JSON"),
        ([], b"", "vocab.json must have one object that maps tokens to ids"),
        ({"a": "1"}, b"", "vocab.json must have one object that maps tokens to ids"),
        ({"a": -1}, b"", "vocab.json must have one object that maps tokens to ids"),
        ({"a": True}, b"", "vocab.json must have one object that maps tokens to ids"),
        ({}, b"", "lacks 256 of its own merges' tokens"),
        (BYTES, b"a b\n", "lacks 1 of its own merges' tokens, the first is 'ab'"),
        (BYTES | {"ab": 0}, b"a b\n", "vocab.json gives several tokens the same id"),
        (BYTES, b"\xff", "merges.txt is not UTF-8"),
        (BYTES, b"#version: 0.2\nab\n", "merges.txt: a merge is two tokens parted by one space"),
        (BYTES, b"a b c\n", "merges.txt: a merge is two tokens parted by one space"),
        (BYTES, b"a  b\n", "merges.txt: a merge is two tokens parted by one space"),
        (BYTES | {"abc": 300}, b"ab c\n", "uses 'ab', which no earlier merge makes"),
    ],
)
def test_a_malformed_vocabulary_is_refused(tmp_path: Path, vocab: object, merges: bytes, message: str) -> None:
    (tmp_path / "vocab.json").write_bytes(vocab if isinstance(vocab, bytes) else json.dumps(vocab).encode())
    (tmp_path / "merges.txt").write_bytes(merges)
    with pytest.raises(TokenizerError) as refusal:
        BPETokenizer.from_files(tmp_path / "vocab.json", tmp_path / "merges.txt")
    assert message in str(refusal.value)


def bpe(**model: object) -> dict[str, object]:
    return {"model": {"type": "BPE", "vocab": BYTES, "merges": []} | model}


def added(**fields: object) -> dict[str, object]:
    return {"added_tokens": [{"content": "x y", "id": 256} | fields]}


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (b"\xff", "tokenizer.json is not JSON"),
        (b"[" * 100_000, "tokenizer.json is not JSON"),
        ([], "tokenizer.json must hold one JSON object"),
        (3, "tokenizer.json must hold one JSON object"),
        ({}, "no model with a vocabulary"),
        ({"model": []}, "no model with a vocabulary"),
        (bpe(type="Unigram"), "holds a Unigram model; served are BPE and WordPiece"),
        (bpe(vocab=[]), "must have one object that maps tokens to ids"),
        (bpe(vocab={token: str(i) for token, i in BYTES.items()}), "must have one object that maps tokens to ids"),
        (bpe(merges=3), "its merges are no list"),
        (bpe(merges=[3]), "a merge is two tokens"),
        (bpe(merges=[["a", "b", "c"]]), "a merge is two tokens"),
        (bpe(merges=[["a", 1]]), "a merge is two tokens"),
        (bpe() | {"added_tokens": ["x"]}, "the added tokens of"),
        (bpe() | {"added_tokens": 3}, "the added tokens of"),
        (bpe() | added(content=""), "a token is written as"),
        (bpe() | added(id="7"), "'7' is no token id"),
        (bpe() | added(id=0), "'x y' the id 0, but behind a vocabulary of 256 tokens transformers reads it as 256"),
        (bpe() | {"normalizer": []}, "normalizer is []; it must be an object with a type"),
        (bpe() | {"normalizer": {"type": "Nonesuch"}}, "the `tokenizers` library cannot use it"),
        (bpe() | {"decoder": {"type": "Metaspace"}}, "its decoder is 'Metaspace' for a model of the type BPE"),
    ],
)
def test_a_malformed_tokenizer_json_is_refused(tmp_path: Path, contents: object, message: str) -> None:
    file = tmp_path / "tokenizer.json"
    file.write_bytes(contents if isinstance(contents, bytes) else json.dumps(contents).encode())
    with pytest.raises(TokenizerError) as refusal:
        read_tokenizer(tmp_path)
    assert message in str(refusal.value)


@pytest.mark.parametrize("merges", ["a b\nab c\n", "#version: 0.2\na b\nab c", "#version: 0.2\r\na b\r\n\r\nab c\r\n"])
def test_merges_are_read_with_any_line_ends_and_without_their_version(tmp_path: Path, merges: str) -> None:
    (tmp_path / "vocab.json").write_text(json.dumps(BYTES | {"ab": 256, "abc": 257}), encoding="utf-8")
    (tmp_path / "merges.txt").write_bytes(merges.encode())
    assert BPETokenizer.from_files(tmp_path / "vocab.json", tmp_path / "merges.txt").encode("abcab") == [257, 256]


@pytest.mark.parametrize("merges", [["a b", "ab c"], [["a", "b"], ["ab", "c"]]])
def test_tokenizer_json_may_write_merges_in_either_way(tmp_path: Path, merges: object) -> None:
    end = {"added_tokens": [{"content": "<|endoftext|>", "id": 258}]}
    (tmp_path / "tokenizer.json").write_text(json.dumps(bpe(vocab=BYTES | {"ab": 256, "abc": 257}, merges=merges) | end))
    tokenizer = read_tokenizer(tmp_path)
    assert tokenizer.encode("abcab") == [257, 256]
    assert tokenizer.eos_token_id == 258
