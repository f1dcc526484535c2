"""A long text is read in parts, and comes to the same ids as in one piece; no text at all breaks the reader."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import tiktoken
from hypothesis import given, settings
from hypothesis import strategies as st

from model import added_tokens, bpe, text_cuts
from model.added_tokens import AddedToken, TextSplitter
from model.bpe import BPETokenizer, without_surrogates
from model.text_cuts import BLANK, parts
from model.tokenizer import PLAIN_TEXT, TokenizerBroke
from tests.chaos.texts import FAMILIES, SEPARATORS, SPECIAL, WHITE_SPACE

# What the places to cut depend on, densely: blanks of both alphabets, letters, digits, signs, apostrophes, and names of tokens.
DENSE = st.text(" \n\t\u00a0\u3000\x1c\x85ab'st1é!", max_size=60)
TEXTS = (
    DENSE
    | st.text(st.characters(exclude_categories=["Cs"]))
    | st.lists(st.sampled_from([" " * 9, "\n\n", SPECIAL, "ab 1", "'ll"])).map("".join)
)


@contextmanager
def tiny_parts() -> Iterator[None]:
    """Parts of four characters, so that short texts have many."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (text_cuts, bpe, added_tokens):
            patch.setattr(module, "PART", 4)
        yield


def whole(tokenizer: BPETokenizer, text: str) -> list[int]:
    """The ids of a text that the library gets in one piece."""
    return [tokenizer._id_of_rank[rank] for rank in tokenizer._encoding.encode_ordinary(text)]


@settings(deadline=None, max_examples=1000)
@given(text=TEXTS)
def test_parts_have_the_ids_of_the_whole(gpt2_tokenizer: BPETokenizer, text: str) -> None:
    with tiny_parts():
        assert gpt2_tokenizer.encode(text, PLAIN_TEXT) == whole(gpt2_tokenizer, text)


@settings(deadline=None, max_examples=300)
@given(text=TEXTS)
def test_parts_add_up_to_the_text_and_none_is_empty(text: str) -> None:
    with tiny_parts():
        found = list(parts(text))
    assert "".join(found) == text
    assert all(found) or found == [""]


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_in_parts_has_the_ids_of_the_whole(gpt2_tokenizer: BPETokenizer, name: str) -> None:
    """Of 100,000 bytes, which the library takes whole yet, and which make several parts of the usual size."""
    text = FAMILIES[name](100_000)
    assert gpt2_tokenizer.encode(text, PLAIN_TEXT) == whole(gpt2_tokenizer, text)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_of_a_megabyte_is_read(gpt2_tokenizer: BPETokenizer, name: str) -> None:
    """999,999 blanks with a letter behind them made the library panic, past every handler of exceptions."""
    text = FAMILIES[name](1_000_000)
    spans = gpt2_tokenizer.spans(text, PLAIN_TEXT)
    assert gpt2_tokenizer.decode(spans.ids.tolist()) == text
    assert spans.stops[-1] == len(text)
    assert (spans.starts[1:] == spans.stops[:-1]).all()


def test_a_run_of_blanks_within_a_part_is_never_longer_than_a_part() -> None:
    for run in (text_cuts.PART - 1, text_cuts.PART, 5 * text_cuts.PART):
        *before, last = parts("x" + " " * run + "y")
        assert all(part.rstrip(" ")[-1:] in ("x", "") for part in before), "what has a long run has it at its end"
        assert len(last) <= text_cuts.PART + 2


def test_blanks_are_what_the_pattern_takes_for_blanks() -> None:
    """To Python, four control characters more are: between them the pattern may be within a piece."""
    every = "".join(chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000)
    ranks = {bytes([i]): i for i in range(256)}
    blanks = tiktoken.Encoding("blanks", pat_str=r"\s", mergeable_ranks=ranks, special_tokens={}).encode_ordinary(every)
    assert bytes(blanks).decode() == WHITE_SPACE
    assert [char for char in every if re.fullmatch(f"[{BLANK}]", char)] == list(WHITE_SPACE)
    assert not set(SEPARATORS) & set(WHITE_SPACE)


@settings(deadline=None)
@given(text=st.lists(st.sampled_from(["<|a|>", "<|a b|>", "<|a", "x", " ", "|>", "<|a|>b"])).map("".join))
def test_added_tokens_are_found_across_the_parts_in_which_they_are_looked_for(text: str) -> None:
    tokens = [
        AddedToken(1, "<|a|>"),
        AddedToken(2, "<|a b|>"),
        AddedToken(3, "<|a|>b", normalized=True),
        AddedToken(4, "x <", normalized=True),
    ]
    with tiny_parts():
        found = TextSplitter(tokens).split(text)
    assert found == TextSplitter(tokens).split(text)


@pytest.mark.parametrize("text", ["a\ud800b", "\ud83d" + "\ude00", "\udc00\ud800"])
def test_halves_of_surrogate_pairs_have_spans_too(gpt2_tokenizer: BPETokenizer, text: str) -> None:
    spans = gpt2_tokenizer.spans(text)
    assert "".join(span.text for span in spans) == without_surrogates(text) == gpt2_tokenizer.decode(gpt2_tokenizer.encode(text))


def test_a_panic_of_the_library_is_an_exception(gpt2_tokenizer: BPETokenizer) -> None:
    """Rust's own is none: it passed by every `except Exception`."""
    with pytest.raises(TokenizerBroke, match="PanicException"):
        gpt2_tokenizer._merge(" " * 1_100_000 + "a")


def test_an_interrupt_stays_one(gpt2_tokenizer: BPETokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupted:
        def encode_ordinary(self, text: str) -> list[int]:
            raise KeyboardInterrupt

    monkeypatch.setattr(gpt2_tokenizer, "_encoding", Interrupted())
    with pytest.raises(KeyboardInterrupt):
        gpt2_tokenizer.encode("a")
