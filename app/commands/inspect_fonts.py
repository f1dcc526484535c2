"""Fonts of a picture: those that have the characters of a text. Knows matplotlib's fonts, and nothing of what is drawn."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

DEFAULT = "DejaVu Sans"  # comes with matplotlib
KNOWN = ("Noto Sans CJK SC", "Noto Sans CJK JP", "Source Han Sans SC", "WenQuanYi Micro Hei", "WenQuanYi Zen Hei", "PingFang SC")


def fonts_for(text: str) -> tuple[list[str], str]:
    """Families of fonts, the first to be tried first, and the characters of the text that none of this machine's has."""
    from matplotlib import font_manager

    names = set(font_manager.get_font_names())
    families = [DEFAULT, *(family for family in KNOWN if family in names)]
    missing = {character for character in text if character.isprintable()}
    for family in families:
        missing -= _characters_of(font_manager.get_font(font_manager.findfont(family)))
    for file, font in _installed() if missing else ():  # matplotlib's own list may be older than a font
        if missing & (found := _characters_of(font)):
            font_manager.fontManager.addfont(file)
            families.append(font.family_name)
            missing -= found
        if not missing:
            break
    return families, "".join(sorted(missing))


def _characters_of(font: Any) -> set[str]:
    return {chr(code) for code in font.get_charmap()}


def _installed() -> Iterator[tuple[str, Any]]:
    """Files of fonts that can be drawn at any size, upright sans-serif ones first."""
    from matplotlib import font_manager

    def is_special(file: str) -> tuple[bool, bool, str]:
        return "Regular" not in Path(file).name, "Sans" not in Path(file).name, file

    for file in sorted(font_manager.findSystemFonts(), key=is_special):
        try:
            font: Any = font_manager.get_font(file)
        except (OSError, RuntimeError):  # a file that is no font, or is broken
            continue
        if font.scalable:
            yield file, font
