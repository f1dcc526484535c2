"""Cells of `gpt2 inspect`'s tables: as wide as a terminal shows them, and nothing that it would act upon."""

import pytest

from app.commands.inspect_cells import PLAIN, RED, Style, clipped, escaped, left, percent, quoted, right, shrunk, width_of


@pytest.mark.parametrize(
    ("text", "width"),
    [("abc", 3), ("你好", 4), ("é", 1), ("e\u0301", 1), ("ｆ", 2), ("🙂", 2), ("", 0), ("한국", 4)],
)
def test_a_wide_character_counts_two_columns_and_a_combining_one_none(text, width):
    assert width_of(text) == width


@pytest.mark.parametrize("text", ["你好吗", "abcdef", "a你b好", "e\u0301" * 9, ""])
@pytest.mark.parametrize("width", [1, 2, 3, 4, 5, 8])
@pytest.mark.parametrize("pad", [left, right])
def test_a_cell_has_its_columns_whatever_its_text(text, width, pad):
    assert width_of(pad(text, width)) == width


def test_text_that_fits_is_whole_and_other_text_ends_in_an_ellipsis():
    assert clipped("你好", 4) == "你好"
    assert clipped("你好吗", 5) == "你好…"
    assert clipped("你好吗", 4) == "你…"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31m", "\\x1b[31m"),
        ("a\nb\tc\r", "a\\nb\\tc\\r"),
        ("\u202e", "\\u202e"),  # turns the rest of the line around
        ("\u200b", "\\u200b"),
        ("\u2028", "\\u2028"),
        ('"\\', '\\"\\\\'),
        ("你é🙂\ufffd", "你é🙂\ufffd"),
    ],
)
def test_what_a_terminal_would_act_upon_is_written_out(text, shown):
    assert escaped(text) == shown


def test_a_token_stands_in_quotes_so_that_its_spaces_are_seen():
    assert quoted(" old", 16) == '" old"'
    assert quoted(" characteristically", 10) == '" charac…"'


@pytest.mark.parametrize(
    ("probability", "shown"), [(1.0, "100.0 %"), (0.1234, "12.3 %"), (0.00123, "0.1 %"), (0.000123, "0.012 %"), (1e-9, "<.001 %")]
)
def test_small_probabilities_are_still_told(probability, shown):
    assert percent(probability) == shown


def test_a_bar_is_as_long_as_its_value_and_always_as_wide():
    style = Style()
    assert style.bar(1.0, 1.0, 4) == "████"
    assert style.bar(-0.5, 1.0, 4) == "▒▒  "  # colours do not reach a pipe
    assert style.bar(0.16, 1.0, 4) == "▋   "
    assert style.bar(0.0, 0.0, 4) == "    "
    assert style.bar(3.0, 1.0, 4) == "████"
    assert Style(has_blocks=False).bar(0.5, 1.0, 4) == "##  "
    assert Style(has_blocks=False).bar(-0.5, 1.0, 4) == "--  "


def test_where_room_is_short_the_last_columns_give_way_first():
    assert shrunk((17, 14, 15), (8, 0, 0), 50) == [17, 14, 15]
    assert shrunk((17, 14, 15), (8, 0, 0), 40) == [17, 14, 9]
    assert shrunk((17, 14, 15), (8, 0, 0), 20) == [17, 3, 0]
    assert shrunk((17, 14, 15), (8, 0, 0), 0) == [8, 0, 0]


def test_colours_are_painted_only_where_they_can_be_seen():
    assert Style(has_colours=True).paint("x", RED) == f"{RED}x{PLAIN}"
    assert Style(has_colours=True).paint("  ", RED) == "  "
    assert Style(has_colours=True).paint("x", "") == "x"
    assert Style().paint("x", RED) == "x"
