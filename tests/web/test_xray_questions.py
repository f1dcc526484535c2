"""What the X-ray tab asks and when, what it says meanwhile, and what becomes of the answer before; its place in the history."""

import json
from typing import Any

import pytest
from selenium.webdriver import Keys
from selenium.webdriver.common.by import By

from tests.web.browsing import Page
from tests.web.test_xray import SAVED
from tests.web.xray_page import TEXT, Xray, inspected

# Keeps what is asked, and holds answers back until `release()`.
HELD = """
window.asked = [];
window.held = true;
const real = window.fetch;
const opened = new Promise((resolve) => { window.release = () => { window.held = false; resolve(); }; });
window.fetch = async (url, init) => {
  if (!String(url).includes("v1/inspect")) return real(url, init);
  asked.push(JSON.parse(init.body));
  const ended = new Promise((_, reject) => init.signal.addEventListener("abort", () => reject(init.signal.reason)));
  if (held) await Promise.race([opened, ended]);
  return real(url, init);
};
"""


@pytest.fixture
def xray(page: Page, server: Any) -> Xray:
    return Xray(page, server.url)


# ---- what is asked


def test_the_numbers_come_before_the_continuations(xray: Xray) -> None:
    xray.open(text=TEXT)
    xray.script(HELD + "release();")
    xray.click(".common button:nth-child(4)")
    xray.page.until(lambda: len(xray.script("return asked")) == 2)
    xray.until_looked()
    numbers, rest = xray.script("return asked")
    assert (numbers["max_new_tokens"], rest["max_new_tokens"]) == (0, 20)
    assert rest["summaries"] == []
    assert rest["names"] == ["blocks.*.attn.hook_pattern"]
    answer = inspected(xray.url, TEXT, ablations=[{"kind": "mlp", "mode": "zero"}])
    assert xray.texts(".compare .text") == [answer[run]["continuation"]["text"] for run in ("run", "ablated")]


def test_new_numbers_stand_beside_the_old_text_until_the_new_one_is_there(xray: Xray) -> None:
    xray.open(text=TEXT)
    before = xray.texts(".compare .text")
    xray.script("""
    const real = window.fetch;
    const opened = new Promise((resolve) => { window.release = resolve; });
    window.fetch = async (url, init) => {
      if (String(url).includes("v1/inspect") && JSON.parse(init.body).max_new_tokens) await opened;
      return real(url, init);
    };
    """)
    xray.type("A small boat on the sea")
    loss = f"{inspected(xray.url, 'A small boat on the sea')['run']['loss']:.3f}"
    xray.page.until(lambda: xray.losses() == [loss])
    assert xray.texts(".compare .text") == before
    assert xray.count(".compare .text[aria-busy=true]") == 1
    xray.script("release()")
    xray.page.until(lambda: xray.count(".compare .text[aria-busy=false]") == 1)
    assert xray.texts(".compare .text") == [inspected(xray.url, "A small boat on the sea")["run"]["continuation"]["text"]]


def test_a_key_that_is_given_is_used_at_once(page: Page, start_server: Any) -> None:
    server = start_server(api_keys="open-sesame-open-sesame")
    xray = Xray(page, server.url)
    page.open(f"{server.url}/#xray?text=sea")
    page.until(lambda: xray.error() and page.shows("key"))
    page.set(key="open-sesame-open-sesame")
    page.press(Keys.ENTER, id="key")
    xray.until_looked()
    assert xray.error() == ""
    xray.script("sessionStorage.clear()")


def test_where_nothing_is_inspected_nothing_is_asked(page: Page, start_server: Any) -> None:
    server = start_server(inspect=False)
    page.open(f"{server.url}/#write")
    page.browser.execute_script(HELD)
    page.click("tab-xray")
    page.until(lambda: page.shows("inspect-off") and not page.shows("xray-text"))
    assert page.browser.execute_script("return asked") == []


# ---- what is said meanwhile


def status(xray: Xray) -> str:
    return "".join(xray.texts(".xray .status"))


def test_a_text_that_is_cleared_while_its_answer_is_awaited_ends_the_wait(xray: Xray) -> None:
    xray.open(text=TEXT)
    xray.script(HELD)
    xray.type("The sea")
    xray.page.until(lambda: xray.count(".xray.waiting") == 1)
    xray.type("")
    xray.page.until(lambda: "Type a text" in status(xray))
    assert xray.count(".xray.waiting") == 0
    xray.script("return new Promise((resolve) => setTimeout(resolve, 1600))")  # the later of the two timers
    assert "Type a text" in status(xray)


def test_only_the_first_question_is_said_to_load_the_weights(xray: Xray) -> None:
    xray.open(text=TEXT)
    xray.script(HELD)
    xray.type("The sea")
    xray.page.until(lambda: xray.count(".xray.waiting") == 1)
    xray.script("return new Promise((resolve) => setTimeout(resolve, 1600))")
    assert status(xray) == "Looking inside…"
    xray.script("release()")
    xray.until_looked()
    assert status(xray) == ""


def test_a_side_question_that_ends_leaves_the_wait_for_the_text(xray: Xray) -> None:
    xray.open(text=TEXT)
    xray.script("""
    const real = window.fetch;
    const opened = new Promise((resolve) => { window.release = resolve; });
    window.fetch = async (url, init) => {
      if (String(url).includes("v1/inspect") && JSON.parse(init.body).max_new_tokens) await opened;
      return real(url, init);
    };
    """)
    xray.type("The sea")
    xray.page.until(lambda: xray.count(".xray.waiting") == 1 and xray.count(".xray.stale") == 0)
    xray.click("#xray-order")
    xray.page.until(lambda: xray.count(".order svg") == 1)
    assert xray.count(".xray.waiting") == 1
    xray.script("release()")
    xray.until_looked()


# ---- what becomes of the answer before


@pytest.mark.parametrize("text", [" sea" * 1100, ""])
def test_numbers_of_another_text_are_dimmed_named_and_not_saved(xray: Xray, text: str) -> None:
    xray.open(text=TEXT)
    xray.type(text)
    xray.page.until(lambda: "still those" in "".join(xray.browser.find_element(By.CSS_SELECTOR, ".xray").text))
    assert xray.count(".xray.stale") == 1
    assert not xray.browser.find_element(By.ID, "xray-json").is_enabled()
    assert not xray.browser.find_element(By.ID, "xray-svg").is_enabled()
    xray.page.set(xray_layer=1)  # the picture still moves, within its own text
    xray.drawn()
    assert xray.layer() == 1
    assert xray.position() == xray.count(".tokens [role=option]") - 1
    xray.type(TEXT)
    xray.page.until(lambda: xray.count(".xray.stale") == 0)
    xray.until_looked()
    assert "still those" not in xray.browser.find_element(By.CSS_SELECTOR, ".xray").text
    assert xray.error() == ""


def test_a_block_of_an_answer_is_asked_for_with_the_switches_of_that_answer(xray: Xray) -> None:
    xray.open(text=TEXT)
    refused = json.dumps([{"kind": "head", "layer": 7, "head": 0, "mode": "zero"}])
    xray.script("location.hash = `#xray?${new URLSearchParams({ text: arguments[0], ablations: arguments[1] })}`", TEXT, refused)
    xray.page.until(lambda: "layer" in xray.error())
    xray.script(HELD + "release();")
    xray.focus_picture()
    xray.press(Keys.ENTER)
    xray.page.until(lambda: xray.count(".zoom-part-panel[aria-busy=false]") == 1)
    assert xray.script("return asked")[0]["ablations"] == []
    assert xray.count(".zoom-part-panel .alert") == 0


def test_an_answer_is_saved_with_its_continuation(xray: Xray) -> None:
    xray.open(text=TEXT)
    xray.script(SAVED)
    xray.click("#xray-json")
    answer = json.loads(xray.browser.execute_async_script("saved.text().then(arguments[0])"))
    assert answer["run"]["continuation"] == inspected(xray.url, TEXT)["run"]["continuation"]


# ---- after the last position nothing came


def test_after_the_last_position_the_explained_token_has_a_rank_and_none_came(xray: Xray) -> None:
    xray.open(text=TEXT)
    token = inspected(xray.url, TEXT)["run"]["next"][0]["text"].replace(" ", "·").replace("\n", "⏎")
    sentence = xray.page.text("xray-reading")
    assert f"the explained token {token} has rank" in sentence
    assert "true next" not in sentence
    assert not any("true next" in name for name in xray.texts(".flow .name"))
    last = f".lens td[data-position='{xray.position()}']"
    assert xray.count(f"{last}.hit") == 0
    assert all("explained token" in cell.get_attribute("title") for cell in xray.browser.find_elements(By.CSS_SELECTOR, last))
    xray.page.set(xray_position=2)
    xray.drawn()
    assert "true next token has rank" in xray.page.text("xray-reading")
    assert any("true next" in name for name in xray.texts(".flow .name"))


def test_the_page_says_from_where_it_counts(xray: Xray) -> None:
    xray.open(text=TEXT, position=0)
    assert "counted from 0" in xray.browser.find_element(By.CSS_SELECTOR, ".flow-part").text
    assert xray.texts(".flow .block .number") == ["0", "1"]
    assert xray.page.text("xray-reading").startswith("Block 0 at ")
    assert "(position 0)" in xray.page.text("xray-reading")
    assert xray.texts(".grid thead th")[1] == "0"
    assert xray.texts(".lens tbody th") == ["1", "0", "start"]


# ---- history and language


def test_back_leads_out_of_a_block_and_forward_into_it(xray: Xray) -> None:
    xray.open(text=TEXT)
    xray.focus_picture()
    xray.press(Keys.ENTER)
    xray.page.until(lambda: xray.count(".zoom-level .zoom") == 1)
    xray.browser.back()
    xray.page.until(lambda: xray.texts(".crumbs li") == ["The whole flow"])
    assert xray.browser.find_element(By.CSS_SELECTOR, ".flow").is_displayed()
    xray.browser.forward()
    xray.page.until(lambda: xray.texts(".crumbs li") == ["The whole flow", "Block 0"])


def test_the_language_of_a_link_is_shown_and_not_kept(xray: Xray) -> None:
    xray.open(text=TEXT, language="zh")
    assert "残差流" in "".join(xray.texts(".flow .name"))
    assert xray.script("return localStorage.getItem('language')") is None


def test_a_chosen_language_outlives_a_reload(xray: Xray) -> None:
    xray.open(text=TEXT)
    xray.click("[data-language=zh]")
    xray.page.until(lambda: "language=zh" in xray.script("return location.hash"))
    xray.browser.refresh()
    xray.until_looked()
    assert "残差流" in "".join(xray.texts(".flow .name"))
    xray.script("localStorage.clear()")
