"""What every view inside of a block has: links, languages, themes, no barrier, a picture to save, nothing made while scrubbing."""

from collections.abc import Callable
from typing import Any

import pytest
from selenium.webdriver import Chrome, Keys

from tests.web.browsing import Page, emulated
from tests.web.zoom_page import Zoom


def test_a_text_of_one_token_has_an_inside(zoom: Zoom) -> None:
    zoom.open("head", text="t", layer=1, head=2)
    assert zoom.pair == (0, 0)
    assert [weight for *_, weight in zoom.row()] == [1]


def test_a_link_beyond_what_there_is_leads_to_the_last(zoom: Zoom) -> None:
    zoom.open("head", layer=99, head=99, position=99, key=99)
    assert zoom.text(".zoom-title") == "Block 1, head 3"
    last = len(zoom.inspect()["tokens"]) - 1
    assert zoom.pair == (last, last)


def test_maps_are_painted_anew_in_another_theme(zoom: Zoom) -> None:
    zoom.open(layer=1)
    script = "return [...document.querySelector('.zoom-plane canvas').getContext('2d').getImageData(0, 0, 1, 1).data]"
    light = zoom.page.browser.execute_script(script)
    with emulated(zoom.page.browser, 1280, "dark"):
        zoom.page.until(lambda: zoom.page.browser.execute_script(script) == [0x7C, 0xC0, 0xB0, 255])
    assert light == [0x2F, 0x6F, 0x62, 255]  # of a weight of 1: the accent


def count_requests(browser: Chrome) -> int:
    return int(
        browser.execute_script(
            "return performance.getEntriesByType('resource').filter((e) => e.name.endsWith('/v1/inspect')).length"
        )
    )


@pytest.mark.parametrize(
    ("level", "part"), [("block", "attention"), ("head", "attention"), ("block", "ln1"), ("block", "mlp"), ("block", "add1")]
)
def test_scrubbing_asks_for_nothing_and_makes_no_element(zoom: Zoom, level: str, part: str) -> None:
    zoom.open(level, layer=1)
    if part != "attention":
        zoom.part(part)
    watch = """window.made = 0;
      new MutationObserver((all) => all.forEach((one) => one.addedNodes.forEach((node) => (window.made += node.nodeType === 1))))
        .observe(document.querySelector(".zoom"), { childList: true, subtree: true });"""
    zoom.page.browser.execute_script(watch)
    requests = count_requests(zoom.page.browser)
    zoom.one(".zoom-token[aria-checked=true]").send_keys(Keys.HOME, *[Keys.ARROW_RIGHT] * 6)
    if part == "attention":
        zoom.one(".zoom-pairs").send_keys(Keys.ARROW_UP, Keys.ARROW_LEFT)
        zoom.one(".zoom-head[aria-checked=true]").send_keys(Keys.ARROW_RIGHT)
    assert zoom.one(".zoom-token[aria-checked=true]").text.startswith("5" if part == "attention" else "6")
    assert zoom.page.browser.execute_script("return window.made") == 0
    assert count_requests(zoom.page.browser) == requests


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_barrier_in_any_part(
    page: Page, server: Any, violations: Callable[[Chrome], list[str]], width: int, scheme: Any
) -> None:
    with emulated(page.browser, width, scheme):
        zoom = Zoom(page, server.url)
        for level in ("head", "block"):
            zoom.open(level, layer=1)
            assert violations(page.browser) == []
        for part in ("ln1", "add1", "mlp"):
            shape = "wide" if width > 500 else "tall"
            page.browser.execute_script(
                f"document.querySelector('.zoom-{shape} [data-part-name={part}]').dispatchEvent(new Event('click'))"
            )
            zoom.until_there()
            assert violations(page.browser) == []
            assert page.browser.execute_script("return document.documentElement.scrollWidth <= innerWidth")


def test_a_reader_of_chinese_reads_chinese(chinese: None, zoom: Zoom) -> None:
    zoom.open("head", layer=1, head=2)
    assert zoom.text(".zoom-title") == "第 1 层，注意力头 2"
    assert "查询" in zoom.text(".zoom-side")


def test_another_language_is_read_at_once(zoom: Zoom) -> None:
    zoom.open("head", layer=1, head=2, position=6, key=4)
    zoom.one("[data-language=zh]").click()
    zoom.page.until(lambda: zoom.all(".zoom-title") and zoom.text(".zoom-title") == "第 1 层，注意力头 2")
    zoom.until_there()
    assert zoom.pair == (6, 4)
    zoom.one("[data-language=en]").click()
    zoom.page.until(lambda: zoom.text(".zoom-title") == "Block 1, head 2")
    zoom.page.browser.execute_script("localStorage.clear()")


def test_a_block_that_could_not_be_had_is_told_and_asked_again(zoom: Zoom) -> None:
    zoom.open(layer=0)
    zoom.page.browser.execute_script("window.real = window.fetch; window.fetch = () => Promise.reject(new TypeError('gone'))")
    zoom.all(".zoom-where button")[1].click()
    zoom.page.until(lambda: zoom.all(".zoom-part-panel [role=alert]"))
    assert zoom.text(".zoom-part-panel [role=alert]") == "The service cannot be reached, or the connection broke."
    zoom.page.browser.execute_script("window.fetch = window.real")
    zoom.one(".zoom-part-panel button").click()
    zoom.page.until(lambda: zoom.all(".zoom-gallery"))
    assert not zoom.all(".zoom-part-panel [role=alert]")


def test_each_view_says_once_from_what_number_it_counts(zoom: Zoom) -> None:
    for level in ("block", "head"):
        zoom.open(level, layer=1)
        told = [note for note in zoom.all(".zoom-note") if "counted from 0" in note.text]
        assert len(told) == 1


# ---- the picture that is saved

# What the page does with it: the first SVG, with the styles as the page has them.
SAVED = """
const [done] = arguments;
const picture = document.querySelector(".zoom svg");
import("/page/xray/export.js").then(({ standalone }) => done(standalone(picture)), (error) => done(String(error)));
"""
# A picture as a viewer draws it, which knows nothing of the page: how many different colours its map has.
DRAWN = """
const [text, x, y, side, done] = arguments;
const picture = new Image();
picture.onerror = () => done("no picture");
picture.onload = () => {
  const canvas = Object.assign(document.createElement("canvas"), { width: picture.width, height: picture.height });
  const context = canvas.getContext("2d");
  context.drawImage(picture, 0, 0);
  const { data } = context.getImageData(x, y, side, side);
  const colours = new Set();
  for (let i = 0; i < data.length; i += 4) colours.add(data.slice(i, i + 3).join());
  done(colours.size);
};
picture.src = "data:image/svg+xml," + encodeURIComponent(text);
"""


def test_the_picture_of_a_head_is_its_whole_map_with_the_names_of_its_tokens(zoom: Zoom) -> None:
    zoom.open("head", layer=1, head=2, position=6, key=4)
    saved = zoom.page.browser.execute_async_script(SAVED)
    assert "Attention of block 1, head 2" in saved
    assert saved.count("<text") == 1 + 2 * len(zoom.inspect()["tokens"])  # the title, and the tokens along both axes
    assert "data:image/png;base64," in saved
    assert zoom.page.browser.execute_async_script(DRAWN, saved, 110, 140, 200) > 20
    zoom.one(".zoom-head[aria-checked=true]").send_keys(Keys.ARROW_RIGHT)
    another = zoom.page.browser.execute_async_script(SAVED)
    assert "Attention of block 1, head 3" in another
    assert another.split("base64,")[1][:400] != saved.split("base64,")[1][:400]


def test_the_picture_of_a_block_is_its_diagram(zoom: Zoom) -> None:
    zoom.open("head", layer=1, head=2)
    zoom.page.until(lambda: zoom.all(".zoom-picture"))
    zoom.one("[data-level=block]").click()
    zoom.page.until(lambda: not zoom.all(".zoom-deep"))
    saved = zoom.page.browser.execute_async_script(SAVED)
    assert "LayerNorm 1" in saved
    assert "data:image" not in saved
