"""client.js in Chromium, on the page of the service that it came from; tests/web/node has what needs no browser."""

import threading
from typing import Any

import pytest

from tests.web.browsing import Page, answer

# What a page does with it; `seen` is what has come so far.
START = """
const [body, options] = arguments;
window.seen = { text: "", events: 0, waits: [], error: null, done: false };
window.leave = new AbortController();
import("/client.js").then(async ({ GPT2 }) => {
  const onRetry = ({ seconds }) => seen.waits.push(seconds);
  try {
    for await (const event of new GPT2(options).generate(body, { signal: leave.signal, onRetry })) {
      seen.text += event.token.text;
      seen.events += 1;
      if (seen.events === options.leaveAfter) break;
    }
  } catch (error) {
    seen.error = [error.name, error.message, error.status ?? null];
  }
  seen.done = true;
});
"""


def start(page: Page, server: Any, parameters: dict[str, object], **options: object) -> None:
    page.open(server.url)
    page.browser.execute_script(START, {"inputs": "The sea", "parameters": parameters}, options)


def seen(page: Page, name: str) -> Any:
    return page.browser.execute_script("return seen[arguments[0]]", name)


def until_done(page: Page) -> None:
    page.until(lambda: seen(page, "done"))


def test_tokens_come_while_the_text_is_generated(page: Page, gated_server: Any) -> None:
    server, gate = gated_server()
    parameters = {"max_new_tokens": 30, "temperature": 0.8, "seed": 5}
    start(page, server, parameters)
    for num_tokens in (10, 20):
        gate.let_through(10)
        page.until(lambda: seen(page, "events") == num_tokens)  # noqa: B023  # called at once
    gate.open()
    until_done(page)
    assert seen(page, "text") == answer(server.url, "The sea", **parameters)
    assert seen(page, "error") is None


@pytest.mark.parametrize("way", ["signal", "loop"])
def test_who_leaves_frees_the_slot(page: Page, gated_server: Any, way: str) -> None:
    server, gate = gated_server()
    start(page, server, {"max_new_tokens": 500}, leaveAfter=10 if way == "loop" else 0)
    gate.let_through(10)
    page.until(lambda: seen(page, "events") == 10)
    if way == "signal":
        page.browser.execute_script("leave.abort()")
    until_done(page)
    assert (seen(page, "error") or [None])[0] == {"signal": "AbortError", "loop": None}[way]
    page.until(lambda: server.metric("gpt2_requests_total", route="/generate", outcome="aborted") == 1)
    gate.let_through(1)  # the step that was under way
    page.until(lambda: server.metric("gpt2_slots_used") == 0)


def test_a_full_service_is_asked_again_until_there_is_room(page: Page, gated_server: Any) -> None:
    server, gate = gated_server(max_running=1, max_waiting=0)
    occupant = threading.Thread(target=answer, args=(server.url, "The sea"))
    occupant.start()
    page.until(lambda: server.service.generator.client.num_unfinished == 1)
    start(page, server, {"max_new_tokens": 5}, retries=1000)
    page.until(lambda: len(seen(page, "waits")) >= 2)
    gate.open()
    occupant.join()
    until_done(page)
    assert seen(page, "error") is None
    assert seen(page, "events") == 5
    assert min(seen(page, "waits")) >= 1


def test_a_failure_in_the_middle_of_a_text_and_a_refusal_are_the_services_errors(page: Page, gated_server: Any) -> None:
    server, gate = gated_server()
    start(page, server, {"max_new_tokens": 500})
    gate.let_through(10)
    page.until(lambda: seen(page, "events") == 10)
    gate.failure = RuntimeError("the model tripped")
    gate.open()
    until_done(page)
    name, message, status = seen(page, "error")
    assert (name, status) == ("ServiceError", 200)
    assert "the step failed: RuntimeError" in message
    start(page, server, {"top_p": 2})
    until_done(page)
    assert seen(page, "error")[0] == "ServiceError"
    assert seen(page, "error")[2] == 422


def test_a_service_that_is_gone_is_a_lost_connection(page: Page, server: Any) -> None:
    start(page, server, {}, baseUrl="http://127.0.0.1:9")  # which nobody listens on; the policy forbids it besides
    until_done(page)
    assert seen(page, "error")[0] == "ConnectionLost"
