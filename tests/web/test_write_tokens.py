"""Tokens on the page: how likely each was, what might have come in its place, and what comes then."""

import json
import math
from typing import Any

import httpx
import pytest
from selenium.webdriver import ActionChains, Keys
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

from tests.web.browsing import Page, answer, emulated
from tests.web.writing import SAMPLING, opened, saved, write

LEAST = [0.5, 0.2, 0.05, 0.01, 0.001]


def tokens(page: Page) -> list[WebElement]:
    return page.browser.find_elements(By.CSS_SELECTOR, "#output .token")


def panel(page: Page) -> WebElement:
    return page.browser.find_element(By.CSS_SELECTOR, "#result .alternatives")


def rows(page: Page) -> list[str]:
    return [row.text for row in panel(page).find_elements(By.CSS_SELECTOR, "button")]


def focused(page: Page) -> str:
    return str(page.browser.execute_script("return document.activeElement.textContent"))


def until_written(page: Page, num_requests: int) -> None:
    page.until(lambda: page.browser.execute_script("return window.sent.length") == num_requests)
    page.until(lambda: page.browser.execute_script("return document.querySelector('.writing').className") == "writing idle")


def shown_text(server: Any, ids: list[int]) -> str:
    """What these ids say, read at once: the oracle of a text that came in pieces."""
    response = httpx.post(f"{server.url}/detokenize", json={"ids": ids, "skip_special_tokens": True})
    return str(response.raise_for_status().json()["text"])


def test_each_token_is_shaded_by_its_probability_and_that_can_be_turned_off(page: Page, server: Any) -> None:
    opened(page, server.url)
    write(page, prompt="The sea", length=40, seed=3)
    (sample,) = saved(page)["samples"]
    logprobs = iter(token[2] for token in sample["tokens"])
    levels = []
    for element in page.browser.execute_script("return [...document.querySelectorAll('#output .token')].map((e) => e.className)"):
        levels.append(int(element.split("level-")[1][0]))
    alone = [token for token in sample["tokens"] if token[1]]
    assert len(alone) > 10
    if len(alone) == len(sample["tokens"]) == len(levels):
        expected = [sum(math.exp(logprob) < least for least in LEAST) for logprob in logprobs]
        assert levels == expected
    assert len(set(levels)) > 1
    ground = "return getComputedStyle(document.querySelector('#output .level-4, #output .level-5')).backgroundColor"
    shaded = page.browser.execute_script(ground)
    page.browser.find_element(By.CSS_SELECTOR, "#result .shades input").click()
    assert page.browser.execute_script(ground) != shaded
    page.open(f"{server.url}/?later")
    page.until(lambda: page.text("model"))
    assert not page.browser.find_element(By.CSS_SELECTOR, "#result .shades input").is_selected(), "the browser keeps the choice"


def test_pointing_at_a_token_shows_what_might_have_come(page: Page, server: Any) -> None:
    opened(page, server.url)
    write(page, prompt="The sea", length=20, seed=3)
    assert not panel(page).is_displayed()
    ActionChains(page.browser).move_to_element(tokens(page)[4]).perform()
    page.until(lambda: panel(page).is_displayed())
    assert len(rows(page)) == 5
    assert all("%" in row for row in rows(page))
    first = rows(page)
    ActionChains(page.browser).move_to_element(panel(page).find_element(By.CSS_SELECTOR, "button")).perform()
    assert rows(page) == first, "the panel stays while the pointer is in it"
    ActionChains(page.browser).move_to_element(page.browser.find_element(By.TAG_NAME, "h1")).perform()
    page.until(lambda: not panel(page).is_displayed())


@pytest.mark.parametrize("seed", range(4))
def test_choosing_another_token_keeps_what_stands_before_and_goes_on_from_there(page: Page, server: Any, seed: int) -> None:
    opened(page, server.url)
    write(page, prompt="The <|endoftext|>sea", length=30, seed=seed)
    (before,) = saved(page)["samples"]
    num_kept = 12
    while not before["tokens"][num_kept][1] or not before["tokens"][num_kept - 1][1]:  # a token that stands alone
        num_kept += 1
    place = sum(bool(token[1]) for token in before["tokens"][:num_kept])
    other = next(top for top in before["tokens"][num_kept][5] if top[0] != before["tokens"][num_kept][0])
    reused = server.metric("gpt2_prefix_cache_hit_tokens_total")
    tokens(page)[place].click()
    page.until(lambda: panel(page).is_displayed())
    number = [top[0] for top in before["tokens"][num_kept][5]].index(other[0])
    panel(page).find_elements(By.CSS_SELECTOR, "button")[number].click()
    until_written(page, 2)
    (after,) = saved(page)["samples"]
    kept = [*before["ids"][:num_kept], other[0]]
    assert after["ids"][: num_kept + 1] == kept
    prompt = [*server.service.generator.tokenizer.encode("The <|endoftext|>sea"), *kept]
    sent = page.browser.execute_script("return window.sent.at(-1)")
    assert sent["inputs"] == prompt
    assert page.text("output") == shown_text(server, after["ids"])
    assert page.text("given") == "The <|endoftext|>sea"
    assert server.metric("gpt2_prefix_cache_hit_tokens_total") > reused, "what stands before is not computed again"
    assert page.browser.find_element(By.CSS_SELECTOR, "#output .chosen")


def test_going_on_from_within_a_character_shows_the_characters_that_come_of_it(page: Page, server: Any) -> None:
    """The service reads generated bytes by themselves; behind the first byte of a character they would be none."""
    sea = [*server.service.generator.tokenizer.encode("🙂")]
    assert len(sea) == 4, "a byte a token"
    opened(page, server.url)
    write(page, prompt="The sea", length=10, seed=1)
    entry = json.loads(page.browser.execute_script("return localStorage.getItem('history')"))
    entry[0]["samples"][0]["tokens"][5][5][0] = [sea[0], "\ufffd", -1.0, 0]  # as if the model had thought of it
    page.browser.execute_script("localStorage.setItem('history', arguments[0])", json.dumps(entry))
    page.browser.execute_script("document.querySelector('#view-text .history').open = true")
    page.until(lambda: page.browser.find_elements(By.CSS_SELECTOR, ".entries .take"))
    page.browser.find_element(By.CSS_SELECTOR, ".entries .take").click()
    page.until(lambda: tokens(page))
    place = page.browser.execute_script(
        "return [...document.querySelectorAll('#output .token')].findIndex((e) => { e.click(); "
        "return document.querySelector('#result .alternatives').textContent.includes(`(token ${arguments[0]})`) })",
        sea[0],
    )
    assert place > 0
    assert f"part of a character (token {sea[0]})" in rows(page)[0]
    page.set(**{"field-logit_bias": f"{sea[1]}: 100", "length": 10})
    panel(page).find_elements(By.CSS_SELECTOR, "button")[0].click()
    until_written(page, 2)
    (after,) = saved(page)["samples"]
    start = after["ids"].index(sea[0])
    assert after["ids"][start + 1] == sea[1]
    assert page.text("output") == shown_text(server, after["ids"])
    page.click("continue")
    until_written(page, 3)
    assert page.text("output") == shown_text(server, saved(page)["samples"][0]["ids"])


def test_a_text_that_a_stop_string_ended_goes_on_behind_it(page: Page, server: Any) -> None:
    whole = answer(server.url, "The sea", max_new_tokens=40, seed=3, **SAMPLING)
    stop = next(char for char in whole[8:] if char.isascii() and char.isalnum() and char not in whole[:8])
    opened(page, server.url)
    write(page, prompt="The sea", length=40, seed=3, **{"field-stop": stop})
    assert "a stop string came" in page.text("status")
    assert page.text("output") == whole[: whole.index(stop)]
    page.set(**{"field-stop": ""})
    page.click("continue")
    until_written(page, 2)
    assert page.text("output") == shown_text(server, saved(page)["samples"][0]["ids"])
    assert page.text("output").startswith(whole[: whole.index(stop) + 1])


def test_a_text_that_the_model_ended_shows_that_and_goes_on_before_it(page: Page, server: Any) -> None:
    opened(page, server.url)
    write(page, prompt="The sea", length=30, seed=3, **{"field-logit_bias": "499: 9"})
    assert "the model ended its text" in page.text("status")
    assert page.browser.execute_script("return document.querySelector('#output .token:last-child').dataset.mark") == "end"
    (before,) = saved(page)["samples"]
    assert before["ids"][-1] == 499
    assert page.text("output") == shown_text(server, before["ids"])
    page.set(**{"field-logit_bias": ""})
    page.click("continue")
    until_written(page, 2)
    (after,) = saved(page)["samples"]
    assert after["ids"][: len(before["ids"])] != before["ids"]
    assert after["ids"][: len(before["ids"]) - 1] == before["ids"][:-1]


def test_arrows_go_from_token_to_token_and_into_the_alternatives(page: Page, server: Any) -> None:
    opened(page, server.url)
    write(page, prompt="The sea", length=20, seed=3)
    texts = [element.get_property("textContent") for element in tokens(page)]
    assert page.browser.execute_script("return document.querySelectorAll('#output [tabindex=\"0\"]').length") == 1
    page.browser.execute_script("document.querySelector('#output [tabindex=\"0\"]').focus()")

    def press(*keys: str) -> None:
        page.browser.switch_to.active_element.send_keys(*keys)

    assert focused(page) == texts[0]
    press(Keys.ARROW_RIGHT)
    press(Keys.ARROW_RIGHT)
    assert focused(page) == texts[2]
    assert "%" in page.browser.switch_to.active_element.accessible_name
    press(Keys.END)
    assert focused(page) == texts[-1]
    press(Keys.ARROW_LEFT)
    assert focused(page) == texts[-2]
    press(Keys.HOME)
    assert page.browser.execute_script("return document.querySelectorAll('#output [tabindex=\"0\"]').length") == 1
    press(Keys.ARROW_RIGHT, Keys.ENTER)
    assert page.browser.execute_script("return document.activeElement.className") == "alternative"
    second = rows(page)[1]
    press(Keys.ARROW_DOWN)
    assert page.browser.switch_to.active_element.text == second
    press(Keys.ESCAPE)
    assert focused(page) == texts[1]
    press(Keys.ARROW_DOWN)
    press(Keys.ENTER)
    until_written(page, 2)
    assert page.text("output").startswith(texts[0])


def test_a_tap_shows_the_alternatives_and_a_tap_elsewhere_closes_them(page: Page, server: Any) -> None:
    with emulated(page.browser, 390):
        page.browser.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": True})
        try:
            opened(page, server.url)
            write(page, prompt="The sea", length=20, seed=3)
            tap(page, tokens(page)[3])
            page.until(lambda: panel(page).is_displayed())
            assert all(button.size["height"] >= 44 for button in panel(page).find_elements(By.CSS_SELECTOR, "button"))
            box = panel(page).rect
            assert box["x"] >= 0
            assert box["x"] + box["width"] <= 390
            tap(page, page.browser.find_element(By.ID, "status"))
            page.until(lambda: not panel(page).is_displayed())
        finally:
            page.browser.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": False})


def tap(page: Page, element: WebElement) -> None:
    page.browser.execute_script("arguments[0].scrollIntoView({ block: 'center' })", element)
    box = page.browser.execute_script(
        "const b = arguments[0].getBoundingClientRect(); return [b.x + b.width / 2, b.y + b.height / 2]", element
    )
    points = [{"x": box[0], "y": box[1]}]
    page.browser.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": "touchStart", "touchPoints": points})
    page.browser.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})


# ---- several samples


def test_samples_stand_side_by_side_and_each_is_its_own_seeds(page: Page, server: Any) -> None:
    opened(page, server.url)
    write(page, prompt="The sea", length=20, seed=7, n=3)
    cards = page.browser.find_elements(By.CSS_SELECTOR, "#samples .sample")
    shown = [card.find_element(By.CSS_SELECTOR, ".text").get_property("textContent") for card in cards]
    assert shown == [answer(server.url, "The sea", max_new_tokens=20, seed=7 + i, **SAMPLING) for i in range(3)]
    assert [f"seed {7 + i}" in card.text for i, card in enumerate(cards)] == [True] * 3
    with emulated(page.browser, 1280):
        assert len({card.rect["y"] for card in cards}) == 1
    cards[1].find_element(By.CSS_SELECTOR, ".pick").click()
    assert page.text("output") == shown[1]
    assert page.text("given") == "The sea"
    page.click("continue")
    until_written(page, 2)
    assert page.text("output").startswith(shown[1].rstrip("\ufffd"))
    assert len(saved(page)["samples"]) == 1


def test_another_token_in_one_sample_leaves_the_others_alone(page: Page, server: Any) -> None:
    opened(page, server.url)
    write(page, prompt="The sea", length=20, seed=7, n=2)
    first, second = [[token[0] for token in sample["tokens"]] for sample in saved(page)["samples"]]
    cards = page.browser.find_elements(By.CSS_SELECTOR, "#samples .sample")
    cards[1].find_elements(By.CSS_SELECTOR, ".token")[0].click()
    page.until(lambda: panel(page).is_displayed())
    panel(page).find_elements(By.CSS_SELECTOR, "button:not([aria-current])")[0].click()
    until_written(page, 2)
    samples = saved(page)["samples"]
    assert samples[0]["ids"] == first
    assert samples[1]["ids"][0] != second[0]
    assert len(samples[1]["ids"]) == 21
    assert "n" not in page.browser.execute_script("return window.sent.at(-1)")["parameters"]
