"""What surrounds the page's views: languages, tabs, the address, the model's facts, the API key."""

from collections.abc import Callable
from typing import Any

import httpx
import pytest
from selenium.webdriver import Chrome, Keys
from selenium.webdriver.common.by import By

from tests.web.browsing import Page, emulated


def opened(page: Page, url: str) -> None:
    page.open(url)
    page.until(lambda: page.text("model"))


def shown_tab(page: Page) -> str:
    (chosen,) = page.browser.find_elements(By.CSS_SELECTOR, '[role="tab"][aria-selected="true"]')
    (panel,) = [panel for panel in page.browser.find_elements(By.CSS_SELECTOR, '[role="tabpanel"]') if panel.is_displayed()]
    assert panel.get_attribute("id") == chosen.get_attribute("aria-controls")
    assert panel.get_attribute("aria-labelledby") == chosen.get_attribute("id")
    assert chosen.get_attribute("tabindex") == "0"
    return str(chosen.get_attribute("id")).removeprefix("tab-")


def fragment(page: Page) -> str:
    return str(page.browser.execute_script("return location.hash"))


def language(page: Page) -> str:
    return str(page.browser.execute_script("return document.documentElement.lang"))


# ---- the model and the key


def test_the_page_says_which_model_it_writes_with(page: Page, server: Any) -> None:
    opened(page, server.url)
    assert page.text("model").startswith("tiny-gpt2 · 0.")
    assert page.text("model").endswith(" on cpu")
    assert not page.shows("key"), "a service without keys asks for none"


def test_the_page_asks_for_a_key_and_this_tab_alone_keeps_it(page: Page, start_server: Any) -> None:
    key = "a-key-for-the-page-1"
    server = start_server(api_keys=key)
    page.open(server.url)
    page.until(lambda: page.shows("key"))  # the facts about the model need one
    assert page.text("model") == ""
    page.press("another-key-than-that", Keys.ENTER, id="key")
    page.until(lambda: page.browser.execute_script("return sessionStorage.getItem('key')") == "another-key-than-that")
    assert page.shows("key")
    page.click("tab-write")  # the focus is elsewhere, and comes back with the refusal
    page.browser.execute_script("document.getElementById('key-asked').requestSubmit()")
    page.until(lambda: page.browser.switch_to.active_element.get_attribute("id") == "key")
    page.press(f" {key} ", Keys.ENTER, id="key")  # over the wrong one, which is selected
    page.until(lambda: "tiny-gpt2" in page.text("model"))
    assert not page.shows("key")
    opened(page, f"{server.url}/?")
    assert not page.shows("key")
    assert page.browser.execute_script("return [localStorage.length, document.cookie]") == [0, ""]


@pytest.mark.parametrize("is_on", [True, False])
def test_the_x_ray_says_how_it_is_turned_on_where_it_is_off(page: Page, start_server: Any, is_on: bool) -> None:
    opened(page, f"{start_server(inspect=is_on).url}/#xray")
    page.until(lambda: shown_tab(page) == "xray")
    assert page.shows("inspect-off") is not is_on
    assert "GPT2_INSPECT=on" in page.text("inspect-off")


# ---- tabs


def test_a_tab_is_chosen_by_mouse_by_arrows_by_the_address_and_by_back(page: Page, server: Any) -> None:
    opened(page, server.url)
    assert shown_tab(page) == "write"
    page.click("tab-xray")
    assert shown_tab(page) == "xray"
    assert fragment(page).startswith("#xray")
    for key, tab in ((Keys.ARROW_RIGHT, "write"), (Keys.ARROW_LEFT, "xray"), (Keys.HOME, "write"), (Keys.END, "xray")):
        page.browser.switch_to.active_element.send_keys(key)
        assert shown_tab(page) == tab
        assert page.browser.switch_to.active_element.get_attribute("id") == f"tab-{tab}"
    page.browser.execute_script("location.hash = '#write'")
    page.until(lambda: shown_tab(page) == "write")
    page.browser.back()
    page.until(lambda: shown_tab(page) == "xray")
    opened(page, f"{server.url}/?#xray?text=The")
    assert shown_tab(page) == "xray"
    opened(page, f"{server.url}/?again#no-such-tab")
    assert shown_tab(page) == "write"


def test_the_skip_link_is_first_and_leads_to_the_content(page: Page, server: Any) -> None:
    opened(page, server.url)
    page.browser.execute_script("document.activeElement.blur()")
    page.browser.find_element(By.ID, "skip").send_keys(Keys.ENTER)
    assert page.browser.switch_to.active_element.get_attribute("id") == "content"
    assert shown_tab(page) == "write"
    first = "return document.querySelector('a, button, input, textarea, select, [tabindex]').id"
    assert page.browser.execute_script(first) == "skip"


# ---- languages


def test_english_is_the_language_of_a_browser_that_speaks_neither(page: Page, server: Any) -> None:
    opened(page, server.url)
    assert language(page) == "en"
    assert page.text("tab-write") == "Write"


def test_the_page_speaks_chinese_to_whoever_reads_that(page: Page, server: Any, chinese: None) -> None:
    opened(page, server.url)
    assert language(page) == "zh-Hans"
    assert page.text("tab-write") == "写作"
    millions = httpx.get(f"{server.url}/info").json()["num_parameters"] / 1e6
    assert f"{float(f'{100 * millions:.3g}'):g} 万参数" in page.text("model")


@pytest.mark.parametrize(
    ("number", "english", "chinese_words"),
    [(29_700_000, "29.7 M", "2970 万"), (124_439_808, "124 M", "1.24 亿"), (1_557_611_200, "1.56 B", "15.6 亿")],
)
def test_each_language_counts_in_its_own_powers(
    page: Page, start_server: Any, number: int, english: str, chinese_words: str
) -> None:
    opened(page, start_server().url)
    script = """const [number, done] = arguments;
      import("/page/i18n.js").then((i18n) => {
        done(["en", "zh"].map((language) => (i18n.setLanguage(language), i18n.count(number))));
      }, (error) => done(String(error)));"""
    assert page.browser.execute_async_script(script, number) == [english, chinese_words]


def test_a_chosen_language_changes_the_page_at_once_and_is_kept(page: Page, start_server: Any) -> None:
    server = start_server()
    opened(page, server.url)
    page.browser.find_element(By.CSS_SELECTOR, '[data-language="zh"]').click()
    page.until(lambda: "参数" in page.text("model"))
    assert language(page) == "zh-Hans"
    assert page.text("tab-xray") == "透视"
    opened(page, f"{server.url}/?")
    assert language(page) == "zh-Hans"
    pressed = page.browser.find_element(By.CSS_SELECTOR, '.languages [aria-pressed="true"]')
    assert pressed.text == "中文"
    page.browser.find_element(By.CSS_SELECTOR, '[data-language="en"]').click()
    assert page.text("tab-xray") == "X-ray"


# ---- nothing from elsewhere, and no barriers


def test_the_page_needs_nothing_from_anywhere_else(page: Page, server: Any) -> None:
    opened(page, server.url)
    names = page.browser.execute_script("return performance.getEntriesByType('resource').map((entry) => entry.name)")
    assert {name.rpartition("/")[2] for name in names} >= {"main.js", "theme.css", "client.js", "info"}
    assert all(name.startswith((server.url, "data:")) for name in names)
    assert page.browser.get_log("browser") == []


def test_what_is_written_into_the_page_neither_runs_nor_looks_different(page: Page, server: Any) -> None:
    opened(page, server.url)
    page.browser.execute_script(
        """
        document.body.insertAdjacentHTML("beforeend", '<i id="made" style="color: red" onclick="window.ran = 1">x</i>');
        document.body.append(Object.assign(document.createElement("script"), { textContent: "window.ran = 2" }));
        document.getElementById("made").click();
        """
    )
    assert page.browser.execute_script("return window.ran") is None
    assert page.browser.execute_script("return document.getElementById('made').style.color") == ""
    refused = [line["message"] for line in page.browser.get_log("browser")]
    assert len(refused) >= 3
    assert all("Content Security Policy" in message for message in refused)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_the_shell_has_no_barriers_and_fits_its_screen(
    page: Page, server: Any, violations: Callable[[Chrome], list[str]], width: int, scheme: Any
) -> None:
    with emulated(page.browser, width, scheme):
        opened(page, server.url)
        page.browser.execute_script("document.getElementById('key-asked').hidden = false")
        assert violations(page.browser) == []
        assert page.browser.execute_script("return document.documentElement.scrollWidth") <= width
