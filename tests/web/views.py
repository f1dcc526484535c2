"""Every view of the page by its name, and how a person comes to it: for screenshots, and for what is to be said of all views."""

from collections.abc import Callable

from selenium.webdriver import Keys
from selenium.webdriver.common.by import By

from tests.web import writing
from tests.web.browsing import Page
from tests.web.xray_page import Xray

TEXT = "The old man looked at the sea and"
View = Callable[[Page, str], None]


def written(page: Page, url: str) -> None:
    writing.opened(page, url)
    writing.write(page, prompt=TEXT, length=60, seed=7)


def samples(page: Page, url: str) -> None:
    writing.opened(page, url)
    writing.write(page, prompt=TEXT, length=40, seed=7, n=3)


def alternatives(page: Page, url: str) -> None:
    written(page, url)
    page.browser.find_elements(By.CSS_SELECTOR, "#output .token")[6].click()
    page.until(lambda: _all(page, ".alternatives:not([hidden])"))


def settings(page: Page, url: str) -> None:
    written(page, url)
    for name in ("more", "request"):
        page.browser.execute_script("document.getElementById(arguments[0]).open = true", name)


def error(page: Page, url: str) -> None:
    writing.opened(page, url)
    page.set(seed="x7")
    page.click("go")
    page.until(lambda: page.shows("error"))


def scored(page: Page, url: str) -> None:
    writing.opened(page, url)
    page.click("choose-score")
    page.set(**{"score-text": "It was the best of times, it was the worst of times, it was the age of wisdom."})
    page.click("score-go")
    page.until(lambda: _all(page, "#scored .token"))


def chat(page: Page, url: str) -> None:
    writing.opened(page, url)
    page.until(lambda: page.shows("choose-chat"))
    page.click("choose-chat")
    page.set(seed=3, length=40)
    page.press("Who are you?", Keys.CONTROL, Keys.ENTER, id="message")
    page.until(lambda: _all(page, "#talk .assistant") and page.shows("again"))


def flow(page: Page, url: str) -> None:
    Xray(page, url).open(text=TEXT)


def switched(page: Page, url: str) -> None:
    Xray(page, url).open(text=TEXT, ablations='[{"kind":"no_residual","branch":"mlp","layer":1}]', run="ablated")


def block(page: Page, url: str) -> None:
    _zoomed(page, url, level="block", layer=1)


def head(page: Page, url: str) -> None:
    _zoomed(page, url, level="head", layer=1, head=1, query=5, key=3)


def layer_norm(page: Page, url: str) -> None:
    block(page, url)
    page.browser.execute_script(
        "document.querySelector('[data-part-name=ln1]').dispatchEvent(new MouseEvent('click', { bubbles: true }))"
    )
    page.until(lambda: _all(page, ".zoom-part-panel[aria-busy=false]"))


VIEWS: dict[str, View] = {
    "write": written, "samples": samples, "alternatives": alternatives, "settings": settings, "error": error, "score": scored,
    "chat": chat, "flow": flow, "switches": switched, "block": block, "layer_norm": layer_norm, "head": head,
}  # fmt: skip


def _zoomed(page: Page, url: str, **params: object) -> None:
    page.open("about:blank")
    Xray(page, url).page.open(f"{url}/#xray?" + "&".join(f"{name}={value}" for name, value in params.items()))
    page.until(lambda: _all(page, ".zoom-part-panel[aria-busy=false]"))


def _all(page: Page, selector: str) -> int:
    return len(page.browser.find_elements(By.CSS_SELECTOR, selector))
