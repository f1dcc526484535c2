"""A browser, pages in it, and servers that stand still until they are told."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from selenium.webdriver import Chrome

from tests.web.browsing import CHROMIUM, DRIVER, Gate, Page, barriers, chromium, emulated, speak
from tests.web.zoom_page import Zoom


@pytest.fixture(scope="module")
def browser() -> Iterator[Chrome]:
    if not (CHROMIUM and DRIVER):
        pytest.skip("Chromium is missing: apt-get install chromium chromium-driver")
    with chromium() as browser:
        yield browser


@pytest.fixture
def page(browser: Chrome) -> Iterator[Page]:
    browser.get_log("browser")  # reading empties it: a test shall see its own
    yield Page(browser)
    browser.execute_script("try { sessionStorage.clear() } catch {}")  # the next test is another reader
    browser.get("about:blank")  # closes its connections, so that a server can stop


@pytest.fixture
def zoom(page: Page, server: Any) -> Iterator[Zoom]:
    with emulated(page.browser, 1280):
        yield Zoom(page, server.url)


@pytest.fixture
def chinese(browser: Chrome) -> Iterator[None]:
    """The browser of a reader of Chinese."""
    speak(browser, "zh-CN", "zh", "en")
    yield
    speak(browser)


@pytest.fixture
def violations() -> Callable[[Chrome], list[str]]:
    """The barriers on the page as it stands: none, it is hoped."""
    return barriers


@pytest.fixture
def gated_server(start_server: Callable[..., Any]) -> Iterator[Callable[..., tuple[Any, Gate]]]:
    """Start a server that stands still until the gate that comes with it lets steps through."""
    gates: list[Gate] = []

    def start(**settings: object) -> tuple[Any, Gate]:
        server = start_server(runner=lambda runner: gates.append(Gate(runner)) or gates[-1], **settings)
        return server, gates[-1]

    yield start
    for gate in gates:
        gate.open()  # or the server could not stop
