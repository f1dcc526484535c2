"""What was written stays in the browser, and nowhere else."""

import json
from typing import Any

from selenium.webdriver.common.by import By

from tests.web.browsing import Page
from tests.web.writing import num_saved, opened, saved, write


def listed(page: Page) -> list[str]:
    page.browser.execute_script("document.querySelector('#view-text .history').open = true")
    page.until(lambda: page.browser.execute_script("return document.querySelectorAll('.entries li').length") == num_saved(page))
    return [row.text for row in page.browser.find_elements(By.CSS_SELECTOR, ".entries .take .title")]


def test_a_text_comes_back_with_its_prompt_its_settings_and_its_tokens(page: Page, server: Any) -> None:
    opened(page, server.url)
    write(page, prompt="The sea", length=20, seed=3, n=2, **{"field-top_k": 40})
    first = page.text("samples")
    write(page, prompt="Another", length=10, seed=4, n=1, **{"field-top_k": 0})
    assert [title.split()[0] for title in listed(page)] == ["Another", "The"]
    page.open(f"{server.url}/?later")
    page.until(lambda: page.text("model"))
    listed(page)
    page.browser.find_elements(By.CSS_SELECTOR, ".entries .take")[1].click()
    page.until(lambda: page.shows("samples"))
    texts = page.browser.execute_script("return [...document.querySelectorAll('#samples .text')].map((e) => e.textContent)")
    assert all(text in first for text in texts)
    values = page.browser.execute_script(
        "return ['prompt', 'length', 'seed', 'n', 'field-top_k'].map((id) => document.getElementById(id).value)"
    )
    assert values == ["The sea", "20", "3", "2", "40"]
    page.browser.find_element(By.CSS_SELECTOR, "#samples .token").click()
    page.until(lambda: page.browser.find_element(By.CSS_SELECTOR, "#result .alternatives").is_displayed())
    assert page.browser.find_elements(By.CSS_SELECTOR, "#result .alternatives button")


def test_entries_are_deleted_one_by_one_and_all_together(page: Page, server: Any) -> None:
    opened(page, server.url)
    for prompt in ("One", "Two", "Three"):
        write(page, prompt=prompt, length=10)
    assert [title.split()[0][:3] for title in listed(page)] == ["Thr", "Two", "One"]
    page.browser.find_elements(By.CSS_SELECTOR, ".entries .delete")[1].click()
    assert [title.split()[0][:3] for title in listed(page)] == ["Thr", "One"]
    page.browser.find_element(By.CSS_SELECTOR, "#view-text .delete-all").click()
    assert listed(page) == []
    assert page.browser.execute_script("return localStorage.getItem('history')") is None


def test_the_oldest_entries_make_room(page: Page, server: Any) -> None:
    opened(page, server.url)
    write(page, prompt="The sea", length=10)
    old = saved(page)
    page.browser.execute_script(
        """
        const [entry] = JSON.parse(localStorage.getItem("history"));
        const many = Array.from({ length: 60 }, (_, id) => ({ ...entry, id, prompt: `${id} ` + "x".repeat(60_000) }));
        localStorage.setItem("history", JSON.stringify(many));
        """
    )
    write(page, prompt="The last", length=10)
    entries = json.loads(page.browser.execute_script("return localStorage.getItem('history')"))
    assert entries[0]["prompt"] == "The last"
    assert [entry["id"] for entry in entries[1:]] == list(range(len(entries) - 1)), "the oldest went"
    assert len(json.dumps(entries)) <= 2_100_000
    assert 20 < len(entries) < 60
    assert old["prompt"] == "The sea"


def test_what_is_no_history_counts_as_none(page: Page, server: Any) -> None:
    opened(page, server.url)
    page.browser.execute_script("localStorage.setItem('history', '{broken')")
    page.open(f"{server.url}/?broken")
    page.until(lambda: page.text("model"))
    page.browser.execute_script("document.querySelector('#view-text .history').open = true")
    assert page.browser.get_log("browser") == []
