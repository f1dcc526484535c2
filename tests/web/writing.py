"""What tests of the Write tab do again and again."""

import json
from typing import Any

from tests.web.browsing import Page

SAMPLING = {"temperature": 0.8, "top_p": 0.95}  # what the page asks for at first
RECORD = """
window.sent = [];
window.bodies = []; // to the last digit
const real = window.fetch;
window.fetch = (url, init) => {
  if (String(url).endsWith("/generate")) {
    window.sent.push(JSON.parse(init.body));
    window.bodies.push(init.body);
  }
  return real(url, init);
};
"""


def opened(page: Page, url: str) -> None:
    """The tab in a browser that remembers nothing, its requests recorded."""
    page.open(url)
    page.browser.execute_script("localStorage.clear(); sessionStorage.clear()")
    page.open(f"{url}/?anew")
    page.until(lambda: page.text("model"))
    page.browser.execute_script(RECORD)


def num_saved(page: Page) -> int:
    return len(json.loads(page.browser.execute_script("return localStorage.getItem('history')") or "[]"))


def write(page: Page, **fields: object) -> None:
    """Set fields, generate, and wait until the text is complete."""
    page.set(**fields)
    num = page.browser.execute_script("return window.sent.length")
    page.click("go")
    page.until(lambda: page.browser.execute_script("return window.sent.length") > num)
    page.until(lambda: page.browser.execute_script("return document.querySelector('.writing').className") == "writing idle")


def saved(page: Page) -> dict[str, Any]:
    """The newest entry of the history, with each sample's token ids by name."""
    entry = json.loads(page.browser.execute_script("return localStorage.getItem('history')"))[0]
    for sample in entry["samples"]:
        sample["ids"] = [token[0] for token in sample["tokens"]]
    return dict(entry)
