"""The example page, from an origin of its own."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver import Keys

from tests.web.browsing import Page, answer

EXAMPLE = Path(__file__).parents[2] / "examples" / "web"


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
