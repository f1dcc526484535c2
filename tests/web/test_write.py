"""Writing on the page, in a real browser against a real server."""

import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver import Chrome, Keys
from selenium.webdriver.common.by import By

from tests.web.browsing import Page, answer, emulated
from tests.web.writing import SAMPLING, opened, saved, write


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
        assert page.browser.find_element(By.ID, "text").get_attribute("aria-busy") == "true", "announced when it is complete"
    gate.open()
    page.until_done()
    text = page.text("output")
    assert 0 < lengths[0] < lengths[1] < len(text)
    assert text == answer(server.url, "The sea", max_new_tokens=30, seed=5, **SAMPLING)
    assert page.text("status").startswith("30 tokens")
    assert "tokens/s" in page.text("status")
    assert "seed 5" in page.text("status")
    assert page.browser.find_element(By.ID, "text").get_attribute("aria-busy") == "false"


def test_the_page_asks_for_a_key_where_the_service_does_and_keeps_it_as_long_as_its_tab(page: Page, start_server: Any) -> None:
    key = "a-key-for-the-page-1"
    server = start_server(api_keys=key)
    page.open(server.url)
    page.until(lambda: page.shows("key"))  # the facts about the model need one
    assert not page.shows("live"), "metrics need a key too"
    page.set(length=10)
    page.click("go")
    page.until(lambda: page.text("error") == "The service asks for an API key.")
    page.until_done()
    page.press("another-key-than-that", Keys.ENTER, id="key")
    page.click("go")
    page.until(lambda: page.text("error") == "The service does not know this API key.")
    page.until_done()
    page.browser.find_element(By.ID, "key").clear()
    page.press(f" {key} ", Keys.ENTER, id="key")
    page.until(lambda: "tiny-gpt2" in page.text("model"))
    page.until(lambda: page.shows("live"))
    page.click("go")
    page.until(lambda: page.text("status").startswith("10 tokens"))
    page.until_done()
    assert not page.shows("error")
    stored = page.browser.execute_script("return [JSON.stringify(localStorage), document.cookie]")
    assert key not in stored[0]
    assert stored[1] == ""


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
    assert "seed 5" in page.text("status")
    assert page.text("output").startswith(text)  # and what began a character, if it ended so
    assert not page.shows("error")
    page.until(lambda: server.metric("gpt2_requests_total", route="/generate", outcome="aborted") == 1)
    gate.let_through(1)  # the step that was under way; the next one would wait at the gate for ever
    page.until(lambda: server.metric("gpt2_slots_used") == 0)
    assert not server.service.generator.client.num_unfinished


def test_chinese_goes_in_and_comes_out_character_by_character(page: Page, start_server: Any, words_checkpoint: Path) -> None:
    server = start_server(model=str(words_checkpoint))
    opened(page, server.url)
    write(page, prompt="你好", length=20, seed=1)
    text = page.text("output")
    assert text == answer(server.url, "你好", max_new_tokens=20, seed=1, **SAMPLING)
    assert sum("\u4e00" <= char <= "\u9fff" for char in text) > 6
    assert " " not in text.strip("abcdefghij ")


def test_continue_goes_on_behind_the_tokens_so_far_without_reading_them_again(page: Page, server: Any) -> None:
    opened(page, server.url)
    write(page, prompt="The sea", length=20, seed=1)
    (before,) = saved(page)["samples"]
    reused = server.metric("gpt2_prefix_cache_hit_tokens_total")
    page.click("continue")
    page.until(lambda: len(saved(page)["samples"][0]["ids"]) == 40)
    page.until_done()
    (after,) = saved(page)["samples"]
    assert after["ids"][:20] == before["ids"]
    assert page.text("given") == "The sea"
    prompt = [*server.service.generator.tokenizer.encode("The sea"), *before["ids"]]
    rest = answer(server.url, prompt, max_new_tokens=20, seed=1, **SAMPLING)
    assert page.text("output").endswith(rest)
    assert server.metric("gpt2_prefix_cache_hit_tokens_total") > reused


def test_a_text_becomes_the_prompt(page: Page, server: Any) -> None:
    opened(page, server.url)
    write(page, prompt="The sea", length=10, seed=1)
    page.click("use")
    value = page.browser.execute_script("return document.getElementById('prompt').value")
    assert value == page.text("text") == "The sea" + page.text("output")


def test_a_text_can_be_looked_into(page: Page, server: Any) -> None:
    opened(page, server.url)
    write(page, prompt="The sea", length=10, seed=1)
    text = page.text("text")
    page.browser.execute_script("arguments[0].click()", page.browser.find_element(By.ID, "inside"))
    page.until(lambda: page.browser.execute_script("return new URLSearchParams(location.hash.split('?')[1]).get('text')") == text)
    assert page.browser.find_element(By.ID, "panel-xray").is_displayed()


def test_the_model_writes_from_nothing_and_goes_on_from_that(page: Page, server: Any) -> None:
    opened(page, server.url)
    write(page, prompt="", length=10, seed=1)
    assert page.text("output") == answer(server.url, "", max_new_tokens=10, seed=1, **SAMPLING)
    page.click("continue")
    page.until(lambda: len(saved(page)["samples"][0]["ids"]) == 20)
    assert not page.shows("error")


def test_the_largest_seed_arrives_to_the_last_digit(page: Page, server: Any) -> None:
    opened(page, server.url)
    write(page, length=10, seed=2**64 - 1)
    assert f"seed {2**64 - 1}" in page.text("status")


def test_a_drawn_seed_can_be_kept_and_gives_the_same_text_again(page: Page, server: Any) -> None:
    opened(page, server.url)
    write(page, length=10)
    text = page.text("output")
    page.click("keep")
    write(page)
    assert page.text("output") == text


def test_a_refused_request_says_why_and_leaves_the_text_alone(page: Page, server: Any) -> None:
    opened(page, server.url)
    write(page, length=10, seed=1)
    text = page.text("output")
    page.set(seed="x7")
    page.click("go")
    page.until(lambda: page.shows("error"))
    assert 'parameters.seed: "x7" is refused' in page.text("error")
    assert page.text("output") == text
    write(page, seed="1")
    assert not page.shows("error")


def test_a_full_service_is_asked_again_and_then_says_when_to_come_back(page: Page, gated_server: Any) -> None:
    server, gate = gated_server(max_running=1, max_waiting=0)
    occupant = threading.Thread(target=answer, args=(server.url, "The sea"))
    occupant.start()
    opened(page, server.url)
    page.until(lambda: server.service.generator.client.num_unfinished == 1)
    page.click("go")
    page.until(lambda: "trying again in" in page.browser.find_element(By.CSS_SELECTOR, "#form .note").text)
    page.until(lambda: page.shows("error"))
    assert page.text("error").startswith("The service is busy: ")
    assert re.search(r"Retry after \d+ s\.$", page.text("error"))
    assert page.browser.find_element(By.CSS_SELECTOR, "#form .note").text == ""
    gate.open()
    occupant.join()
    write(page, length=10)
    assert not page.shows("error")


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
    page.until_done()
    assert page.text("output").startswith(text)


# ---- the fields that are folded away


def test_only_what_was_changed_is_sent_and_reset_undoes_it(page: Page, server: Any) -> None:
    opened(page, server.url)
    write(page, length=10, temperature=1, top_p=1)
    sent = page.browser.execute_script("return window.sent.at(-1)")
    assert sent["parameters"] == {"max_new_tokens": 10, "temperature": 1, "top_n_tokens": 5}
    page.click("more")
    fields = {"stop": "zzz\nq\\n", "logit_bias": "262: -5\n11: 2.5", "stop_token_ids": "3, 4", "top_k": 9, "min_p": 0.01}
    page.set(**{f"field-{name}": value for name, value in fields.items()})
    page.click("field-ignore_eos")
    write(page)
    sent = page.browser.execute_script("return window.sent.at(-1)")
    expected = {"stop": ["zzz", "q\n"], "logit_bias": {"262": -5, "11": 2.5}, "stop_token_ids": [3, 4], "top_k": 9, "min_p": 0.01}
    assert sent["parameters"] == {"max_new_tokens": 10, "temperature": 1, "top_n_tokens": 5, "ignore_eos": True, **expected}
    assert not page.shows("error")
    page.click("reset")
    write(page)
    sent = page.browser.execute_script("return window.sent.at(-1)")
    assert sent["parameters"] == {"max_new_tokens": 150, "top_n_tokens": 5, **SAMPLING}


def test_a_field_out_of_range_is_refused_by_its_name(page: Page, server: Any) -> None:
    opened(page, server.url)
    page.set(**{"field-logit_bias": "262: many"})
    page.click("go")
    page.until(lambda: page.shows("error"))
    assert "parameters.logit_bias" in page.text("error")


# ---- for everybody


def test_every_control_has_a_name_that_a_screen_reader_says(page: Page, server: Any) -> None:
    opened(page, server.url)
    write(page, length=10, seed=1)
    for id in ("more", "request"):  # noqa: A001  # HTML's word
        page.browser.execute_script("document.getElementById(arguments[0]).open = true", id)
    every = page.browser.find_elements(By.CSS_SELECTOR, "#panel-write :is(textarea, input, button, summary)")
    controls = [control for control in every if control.is_displayed()]
    assert len(controls) > 30
    assert [control.get_attribute("outerHTML") for control in controls if not control.accessible_name] == []
    assert page.browser.find_element(By.ID, "length").accessible_name == "Length"


def test_the_page_fits_a_phone(page: Page, server: Any) -> None:
    with emulated(page.browser, 360):
        opened(page, server.url)
        write(page, prompt="unbroken" * 30, length=10, seed=1)
        assert page.browser.execute_script("return document.documentElement.scrollWidth") <= 360


def test_a_reader_of_chinese_writes_in_chinese(page: Page, server: Any, chinese: None) -> None:
    opened(page, server.url)
    assert page.text("go") == "生成"
    page.set(length=10, seed=1)
    page.click("go")
    page.until(lambda: "种子 1" in page.text("status"))
    assert page.text("continue") == "继续写"


def test_a_change_of_language_keeps_the_text(page: Page, start_server: Any) -> None:
    opened(page, start_server().url)
    write(page, length=10, seed=1)
    text = page.text("text")
    page.browser.find_element(By.CSS_SELECTOR, '[data-language="zh"]').click()
    assert page.text("go") == "生成"
    assert page.text("text") == text
    page.browser.find_element(By.CSS_SELECTOR, '[data-language="en"]').click()
    assert page.text("go") == "Generate"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_writing_has_no_barriers_and_fits_its_screen(
    page: Page, server: Any, violations: Callable[[Chrome], list[str]], width: int, scheme: Any
) -> None:
    with emulated(page.browser, width, scheme):
        opened(page, server.url)
        write(page, length=40, seed=1)
        for element in page.browser.find_elements(By.CSS_SELECTOR, "#view-text details"):
            page.browser.execute_script("arguments[0].open = true", element)
        page.browser.execute_script("document.querySelectorAll('#output .token')[5].focus()")
        assert page.browser.find_element(By.CSS_SELECTOR, "#result .alternatives").is_displayed()
        assert violations(page.browser) == []
        write(page, n=3)
        assert violations(page.browser) == []
        assert page.browser.execute_script("return document.documentElement.scrollWidth") <= width
        assert page.browser.get_log("browser") == []
