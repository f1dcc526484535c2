"""Cells of a terminal's table: text as wide as a terminal shows it, tokens in quotes, bars. Knows nothing of what they mean."""

import textwrap
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

WIDTH, MIN_WIDTH = 80, 44  # columns at most, and those below which lines are longer than the terminal is wide
EIGHTHS = " ▏▎▍▌▋▊▉█"
NEGATIVE = "▒"
GLYPHS = EIGHTHS + NEGATIVE + "…"  # beyond ASCII
ESCAPES = {"\n": "\\n", "\t": "\\t", "\r": "\\r", "\\": "\\\\", '"': '\\"'}
DIM, BOLD, RED, GREEN, BLUE, PLAIN = "\x1b[2m", "\x1b[1m", "\x1b[31m", "\x1b[32m", "\x1b[34m", "\x1b[0m"


def width_of(text: str) -> int:
    """Columns that a terminal gives the text: two to a wide character, none to one that stands on another."""
    return sum(_width_of_one(character) for character in text)


def _width_of_one(character: str) -> int:
    if unicodedata.category(character) in ("Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def clipped(text: str, width: int) -> str:
    """As much of the text as `width` columns hold; its end is then an ellipsis."""
    if width_of(text) <= width:
        return text
    while width_of(text) > width - 1:
        text = text[:-1]
    return text + "…"


def left(text: str, width: int) -> str:
    text = clipped(text, width)
    return text + " " * (width - width_of(text))


def right(text: str, width: int) -> str:
    text = clipped(text, width)
    return " " * (width - width_of(text)) + text


def wrapped(text: str, width: int, indent: str = "") -> list[str]:
    """Its lines; textwrap counts characters, each of which may take two columns where one of them does."""
    is_wide = any(_width_of_one(character) == 2 for character in text)
    return textwrap.wrap(text, width // 2 if is_wide else width, subsequent_indent=indent)


def shrunk(widths: Sequence[int], least: Sequence[int], room: int) -> list[int]:
    """The widths of columns, of which the later ones give way first, until they fit or none may give more."""
    fitted, over = [], sum(widths) - room
    for width, lowest in zip(reversed(widths), reversed(least), strict=True):
        given = min(max(0, over), width - lowest)
        fitted.append(width - given)
        over -= given
    return fitted[::-1]


def escaped(text: str) -> str:
    """Without what a terminal would act upon: a checkpoint's tokens are a stranger's."""
    return "".join(ESCAPES.get(character) or _escaped_one(character) for character in text)


def _escaped_one(character: str) -> str:
    if unicodedata.category(character)[0] != "C" and character not in "\u2028\u2029":
        return character
    return character.encode("unicode_escape").decode()


def quoted(text: str, width: int) -> str:
    """A token, whose spaces count, in quotes and in at most `width` columns; one without text is a part of a character."""
    if not text:
        return "(part)"
    return f'"{clipped(escaped(text), width - 2)}"'


def percent(probability: float) -> str:
    """A probability in 7 columns at most, small ones too."""
    share = 100 * probability
    if share >= 0.1:
        return f"{share:.1f} %"
    return f"{share:.3f} %" if share >= 0.001 else "<.001 %"


@dataclass(frozen=True, slots=True)
class Style:
    """What the output can show: colours on a terminal alone, block characters where its encoding has them, so many columns."""

    has_colours: bool = False
    has_blocks: bool = True
    width: int = WIDTH

    def paint(self, text: str, colour: str) -> str:
        shown = text.rstrip()
        return f"{colour}{shown}{PLAIN}{text[len(shown) :]}" if self.has_colours and colour and shown else text

    def bar(self, value: float, largest: float, width: int) -> str:
        """`width` columns for `largest`, of another glyph below zero; in eighths where blocks are shown; padded with spaces."""
        eighths = round(8 * width * min(1.0, abs(value) / largest)) if largest else 0
        if value < 0 or not self.has_blocks:
            glyph = (NEGATIVE if self.has_blocks else "-") if value < 0 else "#"
            return (glyph * round(eighths / 8)).ljust(width)
        whole, rest = divmod(eighths, 8)
        return ("█" * whole + EIGHTHS[rest].strip()).ljust(width)
