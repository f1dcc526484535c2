"""What a person sees and does inside of a block, and what the service itself says of it."""

import math
from typing import Any
from urllib.parse import urlencode

import httpx
import pytest
from selenium.webdriver import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

from tests.web.browsing import Page

TEXT = "the cat sat on the mat and the cat"
WINDOW = {"kind": "attention_window", "layer": 1, "head": 2, "size": 2}
Activations = dict[str, Any]


class Zoom:
    """What a reader can see and do inside of a block."""

    def __init__(self, page: Page, url: str) -> None:
        self.page, self.url = page, url

    def open(self, level: str = "block", text: str = TEXT, **state: object) -> None:
        self.page.open("about:blank")  # or another fragment would be no new page
        self.page.open(f"{self.url}/#xray?{urlencode({'text': text, 'level': level, **state})}")
        self.until_there()

    def until_there(self) -> None:
        self.page.until(lambda: self.all(".zoom-part-panel[aria-busy=false]"))

    def all(self, selector: str) -> list[WebElement]:
        return self.page.browser.find_elements(By.CSS_SELECTOR, selector)

    def one(self, selector: str) -> WebElement:
        return self.page.browser.find_element(By.CSS_SELECTOR, selector)

    def text(self, selector: str) -> str:
        return str(self.one(selector).get_attribute("textContent"))

    def part(self, name: str) -> None:
        """Look into another part of the block, by a click on the diagram."""
        ActionChains(self.page.browser).click(self.one(f".zoom-wide [data-part-name={name}]")).perform()
        self.until_there()

    def step(self, number: int) -> None:
        self.all(".zoom-step")[number - 1].click()

    @property
    def pair(self) -> tuple[int, int]:
        """Query and key, from 0."""
        script = "return [...document.querySelectorAll('.zoom-side select')].map((list) => list.selectedIndex)"
        query, key = self.page.browser.execute_script(script)
        return query, key

    def row(self) -> list[list[float]]:
        """The table of the query's row: for each key its product, its scaled product, its score and its weight."""
        script = """return [...document.querySelectorAll(".zoom-row tbody tr")].map(
          (row) => [...row.querySelectorAll("td:not(.zoom-bar)")].map((cell) => cell.textContent))"""
        return [[number(cell) for cell in cells] for cells in self.page.browser.execute_script(script)]

    def inspect(self, *names: str, **fields: object) -> dict[str, Any]:
        body = {"prompt": TEXT, "names": names, "summaries": [], "max_new_tokens": 0, **fields}
        return dict(httpx.post(f"{self.url}/v1/inspect", json=body, timeout=60).raise_for_status().json())

    def activations(self, *names: str, run: str = "run", **fields: object) -> Activations:
        return {name: value["data"] for name, value in self.inspect(*names, **fields)[run]["activations"].items()}


def number(text: str) -> float:
    return -math.inf if text == "−∞" else float(text.replace("−", "-"))


def shown(value: float | None) -> float:
    """As the page writes it: three digits, and what is masked."""
    return -math.inf if value is None else pytest.approx(value, abs=6e-4, rel=1e-6)  # type: ignore[return-value]


def norm(vector: list[float]) -> float:
    return math.sqrt(sum(x * x for x in vector))
