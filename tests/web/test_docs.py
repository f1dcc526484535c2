"""The documentation at /docs, in a real browser."""

from typing import Any

import httpx
import pytest
from selenium.webdriver.common.by import By

from tests.web.browsing import Page


@pytest.mark.row("route.docs")
def test_the_documentation_shows_every_route_and_fetches_nothing_from_elsewhere(page: Page, server: Any) -> None:
    page.open(f"{server.url}/docs")
    shown = "return document.querySelectorAll('.opblock').length"
    operations = sum(map(len, httpx.get(f"{server.url}/openapi.json").json()["paths"].values()))
    page.until(lambda: page.browser.execute_script(shown) == operations)
    page.browser.find_element(By.CSS_SELECTOR, "#operations-native-generate_generate_post .opblock-summary").click()
    page.until(lambda: "max_new_tokens" in page.browser.find_element(By.CSS_SELECTOR, ".opblock-body").text)
    names = page.browser.execute_script("return performance.getEntriesByType('resource').map((entry) => entry.name)")
    assert {name.rpartition("/")[2] for name in names} >= {"swagger-ui-bundle.js", "swagger-ui.css", "openapi.json"}
    assert all(name.startswith((server.url, "data:")) for name in names)
    assert page.browser.get_log("browser") == []


def test_a_request_can_be_tried_in_the_documentation(page: Page, server: Any) -> None:
    page.open(f"{server.url}/docs")
    block = "#operations-tokenizer-tokenize_tokenize_post"
    page.until(lambda: page.browser.find_elements(By.CSS_SELECTOR, f"{block} .opblock-summary"))
    for button in (".opblock-summary-control", ".try-out__btn", ".execute"):
        page.until(lambda: page.browser.find_elements(By.CSS_SELECTOR, f"{block} {button}"))  # noqa: B023  # called at once
        page.browser.execute_script("document.querySelector(arguments[0]).click()", f"{block} {button}")
    page.until(lambda: page.browser.find_elements(By.CSS_SELECTOR, f"{block} .live-responses-table"))
    assert '"stop": 5' in page.browser.find_element(By.CSS_SELECTOR, f"{block} .live-responses-table").text
    assert page.browser.get_log("browser") == []
