"""How added tokens are found in a text: as the `tokenizers` library finds them, in two passes, the longest at each place."""

import json

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from model.added_tokens import AddedToken, TextSplitter, with_ids
from model.bpe import byte_alphabet

ALPHABET = byte_alphabet()
BYTES = {char: i for i, char in enumerate(ALPHABET.values())}
CONTENTS = st.lists(st.text("<|ab>é", min_size=1, max_size=4), unique=True, min_size=1, max_size=8)


def split(text: str, *tokens: AddedToken) -> list[str | int]:
    return TextSplitter(tokens).split(text)


def test_of_tokens_at_one_place_the_longest_is_taken() -> None:
    tokens = [AddedToken(0, "<a"), AddedToken(1, "<a>"), AddedToken(2, "<"), AddedToken(3, "<ab")]
    assert split("x<a>y<aby<acz<", *tokens) == ["x", 1, "y", 3, "y", 0, "cz", 2]


def test_a_token_that_is_not_normalized_is_found_before_all_others() -> None:
    assert split("abc", AddedToken(0, "ab", normalized=True), AddedToken(1, "bc", normalized=False)) == ["a", 1]
    assert split("abc", AddedToken(0, "ab", normalized=True), AddedToken(1, "bc", normalized=True)) == [0, "c"]


def test_a_text_without_tokens_is_one_piece_and_an_empty_one_none() -> None:
    assert split("abc") == ["abc"]
    assert split("abc", AddedToken(0, "x")) == ["abc"]
    assert split("") == split("", AddedToken(0, "x")) == []


def test_signs_of_regular_expressions_are_letters_here() -> None:
    assert split("a.*[x](y)", AddedToken(0, ".*"), AddedToken(1, "[x]"), AddedToken(2, "(y")) == ["a", 0, 1, 2, ")"]


@settings(deadline=None)
@given(contents=CONTENTS, flags=st.lists(st.booleans(), min_size=8, max_size=8), text=st.text("<|ab>é ", max_size=20))
def test_what_is_found_is_what_the_library_finds(contents: list[str], flags: list[bool], text: str) -> None:
    tokens = with_ids([AddedToken(-1, c, normalized=flag, special=False) for c, flag in zip(contents, flags, strict=False)], BYTES)
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    whole = {"version": "1.0", "truncation": None, "padding": None, "normalizer": None, "post_processor": None}
    whole |= {"added_tokens": [token.to_json() for token in tokens], "pre_tokenizer": byte_level, "decoder": byte_level}
    library = tokenizers.Tokenizer.from_str(json.dumps(whole | {"model": {"type": "BPE", "vocab": BYTES, "merges": []}}))
    ids: list[int] = []
    for piece in TextSplitter(tokens).split(text):
        ids += [piece] if isinstance(piece, int) else [BYTES[ALPHABET[byte]] for byte in piece.encode()]
    assert ids == library.encode(text).ids


@pytest.mark.parametrize(
    ("declared", "ids"),
    [(["<a>", "<b>"], [256, 257]), (["!", "<a>"], [0, 256]), (["<a>", "!", "<a>"], [256, 0])],
)
def test_a_token_has_the_vocabularys_id_or_the_next(declared: list[str], ids: list[int]) -> None:
    placed = {token.content: token.id for token in with_ids([AddedToken(-1, content) for content in declared], BYTES)}
    assert [placed[content] for content in dict.fromkeys(declared)] == ids
