"""The page at / and the example page, in a real browser against a real server."""

import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from selenium.webdriver import Chrome, ChromeOptions, ChromeService, Keys
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait

from model.batch import ForwardBatch, Launched, Runner

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
PATIENCE_SECONDS = 120  # no test measures time: this only ends a test that would hang
EXAMPLE = Path(__file__).parent.parent / "examples" / "web"

pytestmark = pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="Chromium is missing: apt-get install chromium chromium-driver")


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


class Page:
    """What a person can see and do on a page."""

    def __init__(self, browser: Chrome) -> None:
        self.browser = browser

    def open(self, url: str) -> None:
        self.browser.get(url)

    def text(self, id: str) -> str:  # noqa: A002  # HTML's word
        """To the letter, where Selenium's own `text` would trim it."""
        return str(self.browser.execute_script("return document.getElementById(arguments[0]).textContent", id))

    def shows(self, id: str) -> bool:  # noqa: A002
        return self.browser.find_element(By.ID, id).is_displayed()

    def set(self, **values: object) -> None:
        for name, value in values.items():
            script = "const e = document.getElementById(arguments[0]); e.value = arguments[1]; e.oninput?.();"
            self.browser.execute_script(script, name, str(value))

    def click(self, id: str) -> None:  # noqa: A002
        self.browser.find_element(By.ID, id).click()

    def press(self, *keys: str) -> None:
        self.browser.find_element(By.ID, "prompt").send_keys(*keys)

    def until(self, condition: Callable[[], object]) -> None:
        WebDriverWait(self.browser, PATIENCE_SECONDS, poll_frequency=0.02).until(lambda _: condition())

    def until_done(self) -> None:
        self.until(lambda: self.text("go") == "Generate")


@pytest.fixture(scope="module")
def browser() -> Iterator[Chrome]:
    options = ChromeOptions()
    options.binary_location = CHROMIUM
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        for flag in [*FLAGS, f"--user-data-dir={profile}"]:
            options.add_argument(flag)
        browser = Chrome(options=options, service=ChromeService(DRIVER))
        try:
            yield browser
        finally:
            browser.quit()


@pytest.fixture
def page(browser: Chrome) -> Iterator[Page]:
    browser.get_log("browser")  # reading empties it: a test shall see its own
    yield Page(browser)
    browser.get("about:blank")  # closes its connections, so that a server can stop


def answer(url: str, prompt: str, **parameters: object) -> str:
    """The text as it comes without a stream."""
    response = httpx.post(f"{url}/generate", json={"inputs": prompt, "parameters": parameters}, timeout=60)
    return str(response.raise_for_status().json()["generated_text"])


# ---- the page at /


def test_text_appears_while_it_is_generated_and_is_that_of_an_unstreamed_request(page: Page, gated_server: Any) -> None:
    server, gate = gated_server()
    page.open(server.url)
    page.set(prompt="The sea", length=30, temperature=0.8, top_p=0.95, seed=5)
    page.click("go")
    lengths = []
    for num_tokens in (10, 20):
        gate.let_through(10)
        page.until(lambda: page.text("status").startswith(f"{num_tokens} tokens"))  # noqa: B023  # called at once
        lengths.append(len(page.text("output")))
        assert page.text("go") == "Stop"
    gate.open()
    page.until_done()
    text = page.text("output")
    assert 0 < lengths[0] < lengths[1] < len(text)
    assert text == answer(server.url, "The sea", max_new_tokens=30, temperature=0.8, top_p=0.95, seed=5)
    assert page.text("status").startswith("30 tokens")
    assert "tokens/s" in page.text("status")
    assert "seed 5" in page.text("status")


def test_the_page_asks_for_a_key_where_the_service_does_and_keeps_it_as_long_as_its_tab(page: Page, start_server: Any) -> None:
    key = "a-key-for-the-page-1"
    server = start_server(api_keys=key)
    page.open(server.url)
    page.until(lambda: page.shows("key"))  # the facts about the model need one
    page.set(length=10)
    page.click("go")
    page.until(lambda: page.text("error") == "The service asks for an API key.")
    page.until_done()
    page.browser.find_element(By.ID, "key").send_keys("another-key-than-that", Keys.ENTER)
    page.until(lambda: page.text("error") == "The service does not know this API key.")
    page.until_done()
    page.browser.find_element(By.ID, "key").send_keys(f" {key} ", Keys.ENTER)  # over the wrong one, which is selected
    page.until(lambda: page.text("status").startswith("10 tokens"))
    page.until(lambda: "tiny-gpt2" in page.text("model"))
    assert not page.shows("error")
    assert 'authorization: Bearer $GPT2_API_KEY"' in page.text("curl")
    assert key not in page.text("curl")
    page.open(f"{server.url}/?")
    page.until(lambda: "tiny-gpt2" in page.text("model"))
    page.until_done()
    assert not page.shows("key")
    assert not page.shows("error")
    stored = page.browser.execute_script("return [localStorage.length, document.cookie]")
    assert stored == [0, ""]


def test_the_page_asks_for_no_key_where_the_service_does_not(page: Page, start_server: Any) -> None:
    page.open(start_server().url)
    page.until(lambda: page.text("model"))
    assert not page.shows("key")
    assert "authorization" not in page.text("curl")


@pytest.mark.parametrize("stop", [lambda page: page.click("go"), lambda page: page.press(Keys.ESCAPE)], ids=["button", "escape"])
def test_stop_keeps_the_text_and_frees_the_slot(page: Page, gated_server: Any, stop: Callable[[Page], None]) -> None:
    server, gate = gated_server()
    page.open(server.url)
    page.set(seed=5)
    page.click("go")
    gate.let_through(10)
    page.until(lambda: page.text("status").startswith("10 tokens"))
    assert server.metric("gpt2_slots_used") == 1
    text = page.text("output")
    stop(page)
    page.until_done()
    assert "stopped" in page.text("status")
    assert page.text("output") == text
    assert not page.shows("error")
    page.until(lambda: server.metric("gpt2_requests_total", route="/generate", outcome="aborted") == 1)
    gate.let_through(1)  # the step that was under way; the next one would wait at the gate for ever
    page.until(lambda: server.metric("gpt2_slots_used") == 0)
    assert not server.service.generator.client.num_unfinished


def test_chinese_goes_in_and_comes_out_character_by_character(page: Page, start_server: Any, words_checkpoint: Path) -> None:
    server = start_server(model=str(words_checkpoint))
    page.open(server.url)
    page.set(prompt="你好", length=20, seed=1)
    page.press(Keys.CONTROL, Keys.ENTER)
    page.until_done()
    text = page.text("output")
    assert text == answer(server.url, "你好", max_new_tokens=20, temperature=0.8, top_p=0.95, seed=1)
    assert sum("\u4e00" <= char <= "\u9fff" for char in text) > 6
    assert " " not in text.strip("abcdefghij ")


def test_continue_goes_on_from_the_text_so_far(page: Page, server: Any) -> None:
    page.open(server.url)
    page.set(prompt="The sea", length=10, seed=1)
    page.press(Keys.CONTROL, Keys.ENTER)
    page.until_done()
    so_far = page.text("text")
    assert so_far == "The sea" + page.text("output")
    page.click("continue")
    page.until(lambda: page.text("given") == so_far)
    page.until_done()
    assert page.text("output") == answer(server.url, so_far, max_new_tokens=10, temperature=0.8, top_p=0.95, seed=1)


def test_the_largest_seed_arrives_to_the_last_digit(page: Page, server: Any) -> None:
    page.open(server.url)
    page.set(length=10, seed=2**64 - 1)
    page.click("go")
    page.until_done()
    assert f"seed {2**64 - 1}" in page.text("status")


def test_a_drawn_seed_can_be_kept_and_gives_the_same_text_again(page: Page, server: Any) -> None:
    page.open(server.url)
    page.set(length=10)
    page.click("go")
    page.until_done()
    text = page.text("output")
    page.click("keep")
    page.click("go")
    page.until_done()
    assert page.text("output") == text


def test_a_refused_request_says_why_and_leaves_the_text_alone(page: Page, server: Any) -> None:
    page.open(server.url)
    page.set(length=10, seed=1)
    page.click("go")
    page.until_done()
    text = page.text("output")
    page.set(seed="x7")
    page.click("go")
    page.until(lambda: page.shows("error"))
    assert 'parameters.seed: "x7" is refused' in page.text("error")
    assert page.text("output") == text
    page.set(seed="1")
    page.click("go")
    page.until(lambda: not page.shows("error"))
    page.until_done()


def test_a_full_service_says_when_to_come_back(page: Page, gated_server: Any) -> None:
    server, gate = gated_server(max_running=1, max_waiting=0)
    occupant = threading.Thread(target=answer, args=(server.url, "The sea"))
    occupant.start()
    page.open(server.url)
    page.until(lambda: server.service.generator.client.num_unfinished == 1)
    page.click("go")
    page.until(lambda: page.shows("error"))
    assert page.text("error").startswith("The service is busy: ")
    assert page.text("error").endswith("Retry after 1 s.")
    gate.open()
    occupant.join()


def test_a_failure_in_the_middle_of_a_text_is_shown_beside_the_text(page: Page, gated_server: Any) -> None:
    server, gate = gated_server()
    page.open(server.url)
    page.set(seed=5)
    page.click("go")
    gate.let_through(10)
    page.until(lambda: page.text("status").startswith("10 tokens"))
    text = page.text("output")
    gate.failure = RuntimeError("the model tripped")
    gate.open()
    page.until(lambda: page.shows("error"))
    assert "the step failed: RuntimeError" in page.text("error")
    assert page.text("output") == text
    page.until_done()


def test_the_page_needs_nothing_from_anywhere_else(page: Page, server: Any) -> None:
    page.open(server.url)
    page.until(lambda: "tiny-gpt2" in page.text("model"))
    names = page.browser.execute_script("return performance.getEntriesByType('resource').map((entry) => entry.name)")
    assert names
    assert all(name.startswith((server.url, "data:")) for name in names)
    assert page.browser.get_log("browser") == []


def test_every_control_has_a_name_that_a_screen_reader_says(page: Page, server: Any) -> None:
    page.open(server.url)
    page.set(length=10, seed=1)
    page.click("go")
    page.until_done()
    page.browser.execute_script("document.getElementById('key-asked').hidden = false")
    controls = page.browser.find_elements(By.CSS_SELECTOR, "textarea, input, button")
    assert len(controls) == 11
    assert all(control.accessible_name for control in controls)


def test_the_page_fits_a_phone(page: Page, server: Any) -> None:
    size = {"width": 360, "height": 740, "deviceScaleFactor": 1, "mobile": True}
    page.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        page.open(server.url)
        page.set(prompt="unbroken" * 30, length=10, seed=1)
        page.click("go")
        page.until_done()
        assert page.browser.execute_script("return document.documentElement.scrollWidth") <= 360
    finally:
        page.browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


# ---- the documentation at /docs


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


# ---- the example page, from an origin of its own


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        pass


@contextmanager
def origin(directory: Path) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(QuietHandler, directory=directory)) as site:
        thread = threading.Thread(target=site.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{site.server_port}"
        finally:
            site.shutdown()
            thread.join()


@pytest.fixture
def example() -> Iterator[str]:
    with origin(EXAMPLE) as url:
        yield url


def test_the_example_streams_from_another_origin_that_the_service_names(page: Page, gated_server: Any, example: str) -> None:
    server, gate = gated_server(cors_origins=example)
    page.open(f"{example}/?server={server.url}")
    page.press(Keys.ENTER)
    gate.let_through(10)
    page.until(lambda: page.text("text"))
    gate.open()
    expected = answer(server.url, "The old man looked at the sea and", max_new_tokens=100, temperature=0.8, seed=1)
    assert expected.startswith(page.text("text"))
    page.until(lambda: page.text("text") == expected)
    assert page.text("error") == ""


def test_the_example_shows_the_services_own_error(page: Page, start_server: Any, example: str) -> None:
    server = start_server(cors_origins=example)
    page.open(f"{example}/?server={server.url}")
    page.set(prompt="the sea " * 2000)
    page.press(Keys.ENTER)
    page.until(lambda: page.text("error"))
    assert page.text("error").startswith("422: the prompt has")


def test_the_example_says_which_origin_the_service_would_have_to_name(page: Page, server: Any, example: str) -> None:
    page.open(f"{example}/?server={server.url}")
    page.press(Keys.ENTER)
    page.until(lambda: page.text("error"))
    assert page.text("error") == f"Cannot read {server.url}: does it run, and does its GPT2_CORS_ORIGINS name {example}?"
