"""Fonts of `gpt2 inspect --png`: one that matplotlib does not know yet is found by its characters."""

import matplotlib as mpl
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib import font_manager
from matplotlib.figure import Figure

from app.commands.inspect_fonts import DEFAULT, fonts_for


@pytest.fixture
def installed(monkeypatch, tmp_path):
    """The machine has one font with two characters, which came after matplotlib made its list, and a file that is no font."""
    pen = TTGlyphPen(None)
    pen.moveTo((0, 0))
    for corner in ((0, 700), (700, 700), (700, 0)):
        pen.lineTo(corner)
    pen.closePath()
    box = pen.glyph()
    font = FontBuilder(1000, isTTF=True)
    font.setupGlyphOrder([".notdef", "ni", "hao"])
    font.setupCharacterMap({ord("你"): "ni", ord("好"): "hao"})
    font.setupGlyf(dict.fromkeys((".notdef", "ni", "hao"), box))
    font.setupHorizontalMetrics(dict.fromkeys((".notdef", "ni", "hao"), (800, 0)))
    font.setupHorizontalHeader(ascent=800, descent=-200)
    font.setupNameTable({"familyName": "Newcomer", "styleName": "Regular", "psName": "Newcomer-Regular"})
    font.setupOS2()
    font.setupPost()
    files = [tmp_path / "Newcomer-Regular.ttf", tmp_path / "broken.ttf"]
    font.save(files[0])
    files[1].write_bytes(b"no font")
    manager = font_manager.fontManager
    monkeypatch.setattr(manager, "ttflist", [entry for entry in manager.ttflist if entry.name.startswith("DejaVu")])
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: [str(file) for file in files])


def test_a_font_that_came_after_matplotlibs_list_was_made_is_found_and_drawn_with(installed, tmp_path):
    families, missing = fonts_for("a 你好")
    assert (families, missing) == ([DEFAULT, "Newcomer"], "")
    with mpl.rc_context({"font.family": families}):  # warnings are errors: a glyph that is missing is one
        figure = Figure()
        figure.text(0, 0, "a 你好")
        figure.savefig(tmp_path / "a.svg")
    assert "Newcomer" in (tmp_path / "a.svg").read_text()


def test_what_no_font_has_is_told(installed):
    assert fonts_for("你们\n") == ([DEFAULT, "Newcomer"], "们")


def test_no_file_is_read_for_a_text_that_the_first_font_has(installed, monkeypatch):
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: pytest.fail("fonts were looked for"))
    assert fonts_for("The old man, é \ufffd") == ([DEFAULT], "")
