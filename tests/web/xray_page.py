"""What a person sees and does in the X-ray tab."""

from typing import Any
from urllib.parse import urlencode

import httpx
from selenium.webdriver.common.by import By

from tests.web.browsing import Page

TEXT = "The old man looked at the sea"
# What changes while a person scrubs: no request, no node; told by what the browser itself reports.
WATCH = """
window.watched = { added: 0, requests: 0, changed: 0 };
new MutationObserver((records) => records.forEach((record) => {
  watched.added += record.addedNodes.length + record.removedNodes.length;
  watched.changed += 1;
})).observe(document.querySelector(".xray"), { childList: true, subtree: true, attributes: true, characterData: true });
const real = window.fetch;
window.fetch = (...given) => { watched.requests += 1; return real(...given); };
"""
# Two frames on, all that was to be drawn is drawn.
DRAWN = "requestAnimationFrame(() => requestAnimationFrame(() => arguments[0]()))"


class Xray:
    """The tab at an address, with what was answered there."""

    def __init__(self, page: Page, url: str) -> None:
        self.page, self.browser, self.url = page, page.browser, url

    def open(self, **params: object) -> "Xray":
        """Open the tab, and wait for its picture."""
        self.browser.get("about:blank")  # an address that differs by its fragment alone would not load anew
        self.page.open(f"{self.url}/#xray?{urlencode(params)}")
        self.until_looked()
        return self

    def until_looked(self) -> None:
        """The answer is there, with the attention that comes behind it, and nothing is under way."""
        busy = ".xray:is(.waiting, .stale), .compare [aria-busy=true]"
        self.page.until(lambda: self.count(".flow") == 1 and not self.count(busy) and self.reads())

    def reads(self) -> bool:
        return bool(self.script("return document.querySelector('.flow .reads')?.getAttribute('d')"))

    def script(self, script: str, *values: object) -> Any:
        return self.browser.execute_script(script, *values)

    def count(self, selector: str) -> int:
        return len(self.browser.find_elements(By.CSS_SELECTOR, selector))

    def texts(self, selector: str) -> list[str]:
        return list(self.script("return [...document.querySelectorAll(arguments[0])].map((node) => node.textContent)", selector))

    def click(self, selector: str) -> None:
        """Parts are laid out when they come into view, which moves those below: scroll until nothing moves."""
        for _ in range(2):
            self.script("document.querySelector(arguments[0]).scrollIntoView({ block: 'center', behavior: 'instant' })", selector)
            self.drawn()
        self.browser.find_element(By.CSS_SELECTOR, selector).click()

    def press(self, *keys: str) -> None:
        """On whatever has the focus."""
        self.browser.switch_to.active_element.send_keys(*keys)
        self.drawn()

    def drawn(self) -> None:
        self.browser.execute_async_script(DRAWN)

    def type(self, text: str) -> None:
        """A text in place of the one that is there."""
        self.page.set(**{"xray-text": text})

    def position(self) -> int:
        return int(self.script("return document.querySelector('.tokens [aria-selected=true]').dataset.position"))

    def layer(self) -> int:
        return int(self.script("return document.querySelector('.flow .block[tabindex=\"0\"]').dataset.layer"))

    def losses(self) -> list[str]:
        """Those of the columns that are compared."""
        return self.texts(".compare .loss strong")

    def focus_picture(self) -> None:
        self.script("document.querySelector('.flow .block[tabindex=\"0\"]').focus()")
        self.drawn()

    def error(self) -> str:
        shown = [node.text for node in self.browser.find_elements(By.CSS_SELECTOR, ".xray > .alert") if node.is_displayed()]
        return shown[0] if shown else ""


def inspected(url: str, text: str, **more: object) -> Any:
    """The service's answer without the page."""
    response = httpx.post(f"{url}/v1/inspect", json={"prompt": text, **more}, timeout=120)
    return response.raise_for_status().json()
