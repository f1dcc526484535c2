"""What stands in the Write tab's fields outlives a reload, and its links lead where something is."""

from typing import Any

import pytest

from tests.web.browsing import Page
from tests.web.writing import opened


def field(page: Page, name: str) -> str:
    return str(page.browser.execute_script("return document.getElementById(arguments[0]).value", name))


def test_a_reload_keeps_the_prompt_and_the_settings(page: Page, server: Any) -> None:
    opened(page, server.url)
    example = field(page, "prompt")
    page.set(prompt="Hello there", length=40, seed=11, **{"field-top_k": 7})
    page.browser.refresh()
    page.until(lambda: page.text("model"))
    assert [field(page, name) for name in ("prompt", "length", "seed", "field-top_k")] == ["Hello there", "40", "11", "7"]
    page.click("more")
    page.click("reset")
    page.browser.refresh()
    page.until(lambda: page.text("model"))
    assert [field(page, name) for name in ("prompt", "seed", "field-top_k")] == ["Hello there", "", "0"]
    assert example != "Hello there"
    assert page.browser.execute_script("return localStorage.length") == 0


@pytest.mark.parametrize("left", ["{broken", "null", '{"prompt": 3}', '{"prompt": "x"}'])
def test_a_draft_that_is_none_leaves_the_example(page: Page, server: Any, left: str) -> None:
    opened(page, server.url)
    example = field(page, "prompt")
    page.browser.execute_script("sessionStorage.setItem('draft', arguments[0])", left)
    page.browser.refresh()
    page.until(lambda: page.text("model"))
    assert field(page, "prompt") == example


@pytest.mark.parametrize("is_on", [True, False])
def test_a_text_can_be_looked_into_where_inspection_is_on(page: Page, start_server: Any, is_on: bool) -> None:
    opened(page, start_server(inspect=is_on).url)
    page.set(prompt="The sea", length=10)
    page.click("go")
    page.until(lambda: page.text("status").startswith("10 tokens"))
    page.until_done()
    page.until(lambda: page.shows("copy") or page.shows("continue"))
    assert page.shows("inside") is is_on
