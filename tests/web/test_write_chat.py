"""Talking to a checkpoint that has a chat template, on the page."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from selenium.webdriver import Chrome, Keys
from selenium.webdriver.common.by import By

from app.settings import Settings
from tests.conftest import running_server
from tests.web.browsing import Page, emulated


@pytest.fixture(scope="module")
def chatty(chatml_checkpoint: Path) -> Iterator[Any]:
    with running_server(Settings(model=str(chatml_checkpoint), port=0, device="cpu", max_running=8, _env_file=None)) as running:
        yield running


def opened(page: Page, url: str) -> None:
    page.open(url)
    page.browser.execute_script("localStorage.clear()")
    page.open(f"{url}/?anew#write?view=chat")
    page.until(lambda: page.text("model"))
    page.until(lambda: page.shows("message"))


def talk(page: Page) -> list[str]:
    script = "return [...document.querySelectorAll('#talk .text')].map((text) => text.textContent)"
    return list(page.browser.execute_script(script))


def say(page: Page, text: str) -> None:
    num = len(talk(page))
    page.press(text, Keys.ENTER, id="message")
    page.until(lambda: len(talk(page)) == num + 2)
    page.until(lambda: page.text("chat-go") == "Send")


def reply(url: str, *contents: str, **fields: object) -> str:
    messages = [{"role": ("user", "assistant")[i % 2], "content": content} for i, content in enumerate(contents)]
    body = {"messages": messages, "temperature": 0.8, "top_p": 0.95, **fields}
    response = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=60)
    return str(response.raise_for_status().json()["choices"][0]["message"]["content"])


def test_a_talk_goes_on_with_all_that_was_said(page: Page, chatty: Any) -> None:
    opened(page, chatty.url)
    page.set(length=20, seed=3)
    say(page, "Hello")
    first = reply(chatty.url, "Hello", max_tokens=20, seed=3)
    assert talk(page) == ["Hello", first]
    say(page, "The sea?")
    assert talk(page)[2:] == ["The sea?", reply(chatty.url, "Hello", first, "The sea?", max_tokens=20, seed=3)]
    page.set(seed=4)
    page.click("again")
    expected = reply(chatty.url, "Hello", first, "The sea?", max_tokens=20, seed=4)
    page.until(lambda: talk(page)[2:] == ["The sea?", expected])
    page.until(lambda: page.shows("anew"))
    page.click("anew")
    page.until(lambda: talk(page) == [])


def test_a_talk_is_kept_and_comes_back(page: Page, chatty: Any) -> None:
    opened(page, chatty.url)
    page.set(length=10)
    say(page, "Hello")
    said = talk(page)
    entries = json.loads(page.browser.execute_script("return localStorage.getItem('history')"))
    assert [entry["kind"] for entry in entries] == ["chat"]
    page.open(f"{chatty.url}/?later#write?view=chat")
    page.until(lambda: page.shows("message"))
    page.browser.execute_script("document.querySelector('#view-chat .history').open = true")
    page.until(lambda: page.browser.find_elements(By.CSS_SELECTOR, "#view-chat .take"))
    page.browser.find_element(By.CSS_SELECTOR, "#view-chat .take").click()
    page.until(lambda: talk(page) == said)
    page.browser.find_element(By.CSS_SELECTOR, "#view-chat .delete-all").click()
    assert page.browser.execute_script("return localStorage.getItem('history')") is None


def test_a_refused_message_stands_where_it_was_written(page: Page, chatty: Any) -> None:
    opened(page, chatty.url)
    page.set(seed="x7")
    page.press("Hello", Keys.ENTER, id="message")
    page.until(lambda: page.shows("chat-error"))
    assert "seed" in page.text("chat-error")
    page.until(lambda: page.text("chat-go") == "Send")
    assert talk(page) == []
    assert page.browser.execute_script("return document.getElementById('message').value") == "Hello"


def test_stop_keeps_what_was_said(page: Page, gated_server: Any, chatml_checkpoint: Path) -> None:
    server, gate = gated_server(model=str(chatml_checkpoint))
    opened(page, server.url)
    page.press("Hello", Keys.ENTER, id="message")
    gate.let_through(10)
    page.until(lambda: len(talk(page)) == 2 and talk(page)[1])
    page.press(Keys.ESCAPE, id="message")
    page.until(lambda: page.text("chat-go") == "Send")
    assert talk(page)[1]
    assert not page.shows("chat-error")


def test_there_is_no_chat_where_the_checkpoint_has_no_template(page: Page, server: Any) -> None:
    page.open(f"{server.url}/#write?view=chat")
    page.until(lambda: page.text("model"))
    page.until(lambda: page.shows("prompt"))
    assert not page.shows("choose-chat")
    assert not page.shows("message")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_a_talk_has_no_barriers_and_fits_its_screen(
    page: Page, chatty: Any, violations: Callable[[Chrome], list[str]], width: int, scheme: Any
) -> None:
    with emulated(page.browser, width, scheme):
        opened(page, chatty.url)
        page.set(length=10)
        say(page, "Hello")
        assert violations(page.browser) == []
        assert page.browser.execute_script("return document.documentElement.scrollWidth") <= width
        assert page.browser.get_log("browser") == []
