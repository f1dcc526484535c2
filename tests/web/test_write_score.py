"""How surprising a text is, on the page."""

import math
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from selenium.webdriver import Chrome, Keys
from selenium.webdriver.common.by import By

from tests.web.browsing import Page, emulated
from tests.web.writing import opened

TEXT = "The old man looked at the sea 🙂 and\n\nsaid nothing."


def score(page: Page, text: str) -> None:
    page.set(score_text=text)
    page.click("score-go")
    page.until(lambda: page.text("scored") == text)
    page.until(lambda: page.text("score-go") == "Score")


def facts(page: Page) -> dict[str, float]:
    pairs = page.browser.find_elements(By.CSS_SELECTOR, "#sums > div")
    return {pair.find_element(By.TAG_NAME, "dt").text: float(pair.find_element(By.TAG_NAME, "dd").text) for pair in pairs}


def prefill(url: str, text: str) -> list[dict[str, Any]]:
    """The log-probabilities by the other dialect."""
    parameters = {"max_new_tokens": 1, "decoder_input_details": True}
    response = httpx.post(f"{url}/generate", json={"inputs": text, "parameters": parameters}, timeout=60)
    return list(response.raise_for_status().json()["details"]["prefill"])


def test_a_text_has_its_bits_its_bits_a_byte_and_its_perplexity(page: Page, server: Any) -> None:
    opened(page, f"{server.url}")
    page.click("choose-score")
    score(page, TEXT)
    tokens = prefill(server.url, TEXT)
    bits = -sum(token["logprob"] for token in tokens[1:]) / math.log(2)
    num_bytes = len(TEXT.encode()) - len(tokens[0]["text"].encode())
    assert facts(page) == {
        "Tokens scored": len(tokens) - 1,
        "Bits in all": pytest.approx(bits, abs=0.051),
        "Bits per byte": pytest.approx(bits / num_bytes, abs=0.00051),
        "Perplexity": pytest.approx(2 ** (bits / (len(tokens) - 1)), rel=1e-3),
    }
    shown = page.browser.find_elements(By.CSS_SELECTOR, "#scored .token")
    assert len(shown) == len([token for token in tokens if token["text"]]), "the bytes of a character are one"


def test_each_token_of_a_text_shows_what_the_model_expected(page: Page, server: Any) -> None:
    opened(page, f"{server.url}")
    page.click("choose-score")
    score(page, TEXT)
    panel = page.browser.find_element(By.CSS_SELECTOR, "#view-score .alternatives")
    shown = page.browser.find_elements(By.CSS_SELECTOR, "#scored .token")
    shown[0].click()
    page.until(lambda: panel.is_displayed())
    assert "nothing before it" in panel.text
    shown[0].send_keys(Keys.ARROW_RIGHT)
    page.until(lambda: len(panel.find_elements(By.CSS_SELECTOR, ".alternative")) == 5)
    assert not panel.find_elements(By.TAG_NAME, "button"), "there is nothing to choose"
    shares = [row.text.split()[-2] for row in panel.find_elements(By.CSS_SELECTOR, ".alternative")]
    assert shares == sorted(shares, key=float, reverse=True)


def test_a_text_longer_than_the_context_is_scored_in_windows(page: Page, start_server: Any) -> None:
    server = start_server()
    text = " ".join(f"number {i}" for i in range(500))
    spans = httpx.post(f"{server.url}/tokenize", json={"inputs": text}).json()
    assert len(spans) > server.service.info.max_total_tokens + 200
    opened(page, server.url)
    page.click("choose-score")
    score(page, text)
    assert facts(page)["Tokens scored"] == len(spans) - 1
    first = prefill(server.url, "".join(span["text"] for span in spans[:900]))
    assert [token["id"] for token in first[:890]] == [span["id"] for span in spans[:890]]


def test_a_refused_text_says_why(page: Page, start_server: Any) -> None:
    server = start_server(api_keys="a-key-for-scores")
    page.open(f"{server.url}/#write?view=score")
    page.until(lambda: page.shows("score-text"))
    page.set(score_text="The sea")
    page.click("score-go")
    page.until(lambda: page.shows("score-error"))
    assert page.text("score-error") == "The service asks for an API key."


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_scores_have_no_barriers_and_fit_their_screen(
    page: Page, server: Any, violations: Callable[[Chrome], list[str]], width: int, scheme: Any
) -> None:
    with emulated(page.browser, width, scheme):
        opened(page, f"{server.url}")
        page.click("choose-score")
        score(page, TEXT)
        page.browser.execute_script("document.querySelectorAll('#scored .token')[3].focus()")
        assert violations(page.browser) == []
        assert page.browser.execute_script("return document.documentElement.scrollWidth") <= width
        assert page.browser.get_log("browser") == []
