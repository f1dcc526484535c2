"""What the service does right now, on the page, from its metrics."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from selenium.webdriver import Chrome

from tests.web.browsing import Page, answer

METRICS = r"""# HELP plain A gauge.
# TYPE plain gauge
plain 3
labelled{a="x",b="with \"quotes\", a \\ and\na line, } {"} 1.5e3 1700000000000
labelled{a="y"} +Inf
odd_bucket{le="0.1"} 2
odd_bucket{le="+Inf"} 5
odd_bucket{le="0.5"} 4

this is no series
"""


def module(browser: Chrome, name: str, expression: str, *values: object) -> Any:
    """What an expression over a module `m` of the page gives."""
    script = (
        f"const [name, values, done] = arguments; import(name).then((m) => done({expression}), (error) => done(String(error)));"
    )
    return browser.execute_async_script(script, f"/page/write/{name}", values)


@pytest.fixture
def evaluate(page: Page, server: Any) -> Callable[..., Any]:
    page.open(server.url)
    return lambda expression, *values: module(page.browser, "prometheus.js", expression, *values)


def test_prometheus_text_is_read_with_its_labels_escapes_and_infinities(evaluate: Callable[..., Any]) -> None:
    series = json.loads(evaluate("JSON.stringify(m.parse(values[0]), (_, v) => (v === Infinity ? 'inf' : v))", METRICS))
    assert series[0] == {"name": "plain", "labels": {}, "value": 3}
    assert series[1] == {"name": "labelled", "labels": {"a": "x", "b": 'with "quotes", a \\ and\na line, } {'}, "value": 1500}
    assert series[2] == {"name": "labelled", "labels": {"a": "y"}, "value": "inf"}
    assert len(series) == 6


def test_a_quantile_lies_evenly_within_its_bucket(evaluate: Callable[..., Any]) -> None:
    half = evaluate("m.quantile(m.buckets(m.parse(values[0]), 'odd'), 0.5)", METRICS)
    assert half == pytest.approx(0.1 + 0.4 * (2.5 - 2) / 2)
    assert evaluate("m.quantile(m.buckets(m.parse(values[0]), 'odd'), 0.99)", METRICS) == 0.5, "the last bound that is one"
    assert evaluate("m.quantile(m.buckets(m.parse(values[0]), 'none'), 0.5)", METRICS) is None


def test_every_metric_of_the_service_is_read(evaluate: Callable[..., Any], client: Any) -> None:
    text = client.get("/metrics").text
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert evaluate("m.parse(values[0]).length", text) == len(lines) > 100


def test_the_panel_shows_what_runs_and_how_fast(page: Page, gated_server: Any) -> None:
    server, gate = gated_server()
    page.open(server.url)
    page.until(lambda: page.shows("live"))
    assert page.text("live-running") == "0"
    page.set(length=40)
    page.click("go")
    gate.let_through(5)
    page.until(lambda: page.text("live-running") == "1")
    gate.open()
    page.until_done()
    page.until(lambda: page.text("live-running") == "0")
    page.until(lambda: page.text("live-first").endswith("ms"))


def test_the_service_is_asked_only_while_the_tab_is_looked_at(page: Page, server: Any) -> None:
    page.open(server.url)
    page.until(lambda: page.shows("live"))
    count = "return performance.getEntriesByType('resource').filter((entry) => entry.name.endsWith('/metrics')).length"
    before = page.browser.execute_script(count)
    page.until(lambda: page.browser.execute_script(count) > before + 1)
    page.click("tab-xray")
    before = page.browser.execute_script(count)
    page.browser.execute_async_script("setTimeout(arguments[0], 4000)")  # two and more times what passes between two of them
    assert page.browser.execute_script(count) <= before + 1, "one may have been under way"
    page.click("tab-write")
    page.until(lambda: page.browser.execute_script(count) > before + 2)


def test_there_is_no_panel_where_metrics_need_a_key_that_is_not_there(page: Page, start_server: Any) -> None:
    closed = start_server(api_keys="a-key-for-metrics")
    page.open(closed.url)
    page.until(lambda: page.shows("key"))
    page.until(lambda: [line for line in page.browser.get_log("browser") if "/metrics" in line["message"]])
    assert not page.shows("live")
    open_to_all = start_server(api_keys="a-key-for-metrics", metrics_need_key=False)
    page.open(open_to_all.url)
    page.until(lambda: page.shows("live"))
    assert page.shows("key")
    with pytest.raises(Exception, match="401"):
        answer(open_to_all.url, "The sea")
