"""A real Chromium: how it is started, what a person does in it, what it emulates, and the barriers that axe finds."""

import base64
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import httpx
from selenium.webdriver import Chrome, ChromeOptions, ChromeService
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait

from model.batch import ForwardBatch, Launched, Runner

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--hide-scrollbars", "--lang=en-US", "--accept-lang=en-US",
]  # fmt: skip
PATIENCE_SECONDS = 120  # no test measures time: this only ends a test that would hang
AXE = Path(__file__).parent / "axe" / "axe.min.js"
Scheme = Literal["light", "dark"]


@contextmanager
def chromium(*flags: str) -> Iterator[Chrome]:
    """A browser with a profile of its own, which ends with the block."""
    options = ChromeOptions()
    options.binary_location = CHROMIUM or ""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        for flag in (*FLAGS, f"--user-data-dir={profile}", *flags):
            options.add_argument(flag)
        browser = Chrome(options=options, service=ChromeService(DRIVER))
        try:
            browser.set_script_timeout(PATIENCE_SECONDS)
            yield browser
        finally:
            browser.quit()


class Gate:
    """The real runner behind a gate that lets as many steps through as it is told."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._permits, self._opened = threading.Semaphore(0), threading.Event()
        self.failure: Exception | None = None  # what every later step raises

    def __getattr__(self, name: str) -> Any:  # whatever the runner has
        return getattr(self._runner, name)

    def launch(self, batch: ForwardBatch) -> Launched:
        if not self._opened.is_set():
            self._permits.acquire()
        if self.failure is not None:
            raise self.failure
        return self._runner.launch(batch)

    def let_through(self, num_steps: int) -> None:
        self._permits.release(num_steps)

    def open(self) -> None:
        self._opened.set()
        self._permits.release()


class Page:
    """What a person can see and do on a page."""

    def __init__(self, browser: Chrome) -> None:
        self.browser = browser

    def open(self, url: str) -> None:
        self.browser.get(url)

    def text(self, id: str) -> str:  # noqa: A002  # HTML's word
        """To the letter, where Selenium's own `text` would trim it; of what is not there, nothing."""
        return str(self.browser.execute_script("return document.getElementById(arguments[0])?.textContent ?? ''", id))

    def shows(self, id: str) -> bool:  # noqa: A002
        elements = self.browser.find_elements(By.ID, id)
        return bool(elements) and elements[0].is_displayed()

    def set(self, **values: object) -> None:
        """As typing does: a view hears of it. An underscore stands for a hyphen where no element has that id."""
        for name, value in values.items():
            script = """
            const [id, value] = arguments;
            const field = document.getElementById(id) ?? document.getElementById(id.replaceAll("_", "-"));
            field.value = value;
            for (const type of ["input", "change"]) field.dispatchEvent(new Event(type, { bubbles: true }));
            """
            self.browser.execute_script(script, name, str(value))

    def click(self, id: str) -> None:  # noqa: A002
        self.browser.find_element(By.ID, id).click()

    def press(self, *keys: str, id: str = "prompt") -> None:  # noqa: A002
        self.browser.find_element(By.ID, id).send_keys(*keys)

    def until(self, condition: Callable[[], object]) -> None:
        WebDriverWait(self.browser, PATIENCE_SECONDS, poll_frequency=0.02).until(lambda _: condition())

    def until_done(self) -> None:
        """The text under way is complete, or was stopped."""
        self.until(lambda: self.text("go") == "Generate")


def answer(url: str, prompt: str | list[int], **parameters: object) -> str:
    """The text as it comes without a stream."""
    response = httpx.post(f"{url}/generate", json={"inputs": prompt, "parameters": parameters}, timeout=60)
    return str(response.raise_for_status().json()["generated_text"])


@contextmanager
def emulated(browser: Chrome, width: int = 1280, scheme: Scheme = "light", height: int = 800) -> Iterator[None]:
    """A screen of this width, a phone's up to 500 pixels, in a light or a dark theme, without movement."""
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width <= 500}
    features = [{"name": "prefers-color-scheme", "value": scheme}, {"name": "prefers-reduced-motion", "value": "reduce"}]
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    try:
        yield
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def screenshot(browser: Chrome, path: Path, width: int, scheme: Scheme) -> Path:
    """The whole page as it stands, on a screen of this width and theme, as high as the page: what is out of sight is not drawn."""
    with emulated(browser, width, scheme):
        height = browser.execute_script("return document.documentElement.scrollHeight")
    with emulated(browser, width, scheme, height):
        browser.execute_async_script("requestAnimationFrame(() => requestAnimationFrame(() => arguments[0]()))")  # laid out anew
        grown = browser.execute_script("return document.documentElement.scrollHeight")
    with emulated(browser, width, scheme, max(height, grown)):
        browser.execute_async_script("requestAnimationFrame(() => requestAnimationFrame(() => arguments[0]()))")
        taken = browser.execute_cdp_cmd("Page.captureScreenshot", {"format": "png"})
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(base64.b64decode(taken["data"]))
    return path


def speak(browser: Chrome, *languages: str) -> None:
    """What the browser says of its reader's languages from the next page on, the dearest first; without any, its own."""
    agent = browser.execute_script("return navigator.userAgent")
    browser.execute_cdp_cmd(
        "Network.setUserAgentOverride", {"userAgent": agent, "acceptLanguage": ",".join(languages or ("en-US",))}
    )


def barriers(browser: Chrome) -> list[str]:
    """What axe finds on the page as it stands, by all its rules, best practices among them: the rule and the element."""
    if not browser.execute_script("return Boolean(window.axe)"):
        browser.execute_script(AXE.read_text())
    script = """
    const done = arguments[0];
    axe.run(document, { resultTypes: ["violations", "passes"], preload: false }).then(done, (error) => done(String(error)));
    """
    result = browser.execute_async_script(script)
    assert isinstance(result, dict), result
    assert len(result["passes"]) > 5, "axe looked at the page"
    return [
        f"{violation['id']}: {node['html'][:200]} ({node['failureSummary']})"
        for violation in result["violations"]
        for node in violation["nodes"]
    ]
