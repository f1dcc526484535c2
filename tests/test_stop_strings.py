"""Stop strings in a stream of text: the cut never depends on how the text was divided into pieces."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.stop_strings import StopStrings

TEXT = st.text("abc", max_size=30)
STOPS = st.lists(st.text("abc", min_size=1, max_size=5), min_size=1, max_size=4)


def cut_at_first_match(text: str, stops: list[str]) -> tuple[str, bool]:
    """The reference: read character by character until some stop string is complete; of several, the longest goes."""
    for end in range(1, len(text) + 1):
        complete = [stop for stop in stops if text[:end].endswith(stop)]
        if complete:
            return text[: end - max(map(len, complete))], True
    return text, False


@st.composite
def divided_texts(draw):
    text = draw(TEXT)
    cuts = sorted(draw(st.lists(st.integers(0, len(text)), max_size=10)))
    return text, [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]


def feed_all(stop_strings: StopStrings, pieces: list[str]) -> tuple[str, bool]:
    released = ""
    for piece in pieces:
        shown, found = stop_strings.feed(piece)
        released += shown
        if found:
            return released, True
    return released + stop_strings.flush(), False


@given(divided_texts(), STOPS)
def test_however_a_text_is_divided_it_is_cut_at_the_stop_string_that_is_complete_first(divided, stops):
    text, pieces = divided
    assert feed_all(StopStrings(stops), pieces) == cut_at_first_match(text, stops)


@given(divided_texts(), STOPS)
def test_what_is_held_back_is_always_the_beginning_of_a_stop_string_and_nothing_shown_is_taken_back(divided, stops):
    text, pieces = divided
    stop_strings, fed, released = StopStrings(stops), "", ""
    for piece in pieces:
        shown, found = stop_strings.feed(piece)
        fed, released = fed + piece, released + shown
        assert text.startswith(released)
        if found:
            return
        held = fed[len(released) :]
        assert not held or any(stop.startswith(held) and stop != held for stop in stops)


@given(divided_texts())
def test_without_stop_strings_text_passes_at_once(divided):
    _, pieces = divided
    stop_strings = StopStrings([])
    assert [stop_strings.feed(piece) for piece in pieces] == [(piece, False) for piece in pieces]
    assert stop_strings.flush() == ""


@pytest.mark.parametrize(
    ("stops", "pieces", "expected"),
    [
        (["END"], ["the E", "N", "D of it"], ("the ", True)),
        (["END"], ["the EN", "d"], ("the ENd", False)),
        (["aab"], ["a", "a", "a", "b"], ("a", True)),
        (["bc", "abcd"], ["abcd"], ("a", True)),
        (["bc", "abc"], ["xabc"], ("x", True)),
        (["\n\n"], ["a\n", "b\n", "\nc"], ("a\nb", True)),
        (["é"], ["caf", "é", "s"], ("caf", True)),
    ],
    ids=[
        "across_pieces",
        "almost",
        "overlapping_itself",
        "complete_first",
        "longest_of_two_that_end_together",
        "newlines",
        "accent",
    ],
)
def test_examples(stops, pieces, expected):
    assert feed_all(StopStrings(stops), pieces) == expected


def test_what_was_held_back_comes_out_once_at_the_end():
    stop_strings = StopStrings(["stop"])
    assert stop_strings.feed("a st") == ("a ", False)
    assert stop_strings.flush() == "st"
    assert stop_strings.flush() == ""


@given(divided_texts(), STOPS, st.integers(0, 10))
def test_a_stop_string_that_is_complete_too_early_does_not_count(divided, stops, num_early):
    """Nor does what is left of it hide a later one: the first whose end lies behind the early pieces cuts the text."""
    text, pieces = divided
    early = sum(map(len, pieces[:num_early]))
    strings, released, found = StopStrings(stops), "", False
    for i, piece in enumerate(pieces):
        shown, found = strings.feed(piece, may_end=i >= num_early)
        released += shown
        if found:
            break
    else:
        released += strings.flush()
    ends = [(end, end - len(stop)) for stop in stops for end in range(early + 1, len(text) + 1) if text[:end].endswith(stop)]
    assert found == bool(ends)
    assert released == (text[: min(ends)[1]] if ends else text)
