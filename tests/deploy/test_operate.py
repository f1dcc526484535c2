"""docs/operate.md is true: its metrics are those that a service tells, its settings are taken, its log fields are there."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from app.settings import Settings
from tests.chaos.service import PATIENCE_SECONDS, ServiceProcess, service
from tests.chaos.watching import DASHBOARD

PAGE = (Path(__file__).parents[2] / "docs/operate.md").read_text()
UNITS = ("seconds", "bytes", "tokens")
WHERE_READ = "gpt2_energy_joules"  # where energy can be read alone, so that it is told below the table


@pytest.fixture(scope="module")
def running() -> Iterator[ServiceProcess]:
    with service() as running:
        yield running


def section(title: str) -> str:
    [text] = re.findall(rf"^## {title}\n(.*?)(?=^## |\Z)", PAGE, flags=re.MULTILINE | re.DOTALL)
    assert isinstance(text, str)
    return text


def metrics_table(exposition: str) -> str:
    """One row a metric, in the order of the exposition; the library's `_created` twins are left out."""
    rows = ["| metric | type | labels | unit | meaning |", "|---|---|---|---|---|"]
    families = [
        family
        for family in text_string_to_metric_families(exposition)
        if not family.name.endswith("_created") and family.name != WHERE_READ
    ]
    return "\n".join(rows + [_row(family) for family in families]) + "\n"


def _row(family: Metric) -> str:
    name = f"{family.name}_total" if family.type == "counter" else family.name
    labels = dict.fromkeys(label for sample in family.samples for label in sample.labels if label != "le")
    unit = next((unit for unit in UNITS if f"_{unit}" in name), "")
    shown = ", ".join(f"`{label}`" for label in labels)
    return f"| `{name}` | {family.type} | {shown} | {unit} | {family.documentation} |"


def test_the_metrics_are_those_of_a_running_service(running: ServiceProcess) -> None:
    """Both ways: a metric that is not in the table is missing there, a row without its metric is too much."""
    [table] = re.findall(r"<!-- metrics: .*? -->\n(.*?)<!-- /metrics -->", PAGE, flags=re.DOTALL)
    told = metrics_table(httpx.get(f"{running.url}/metrics", timeout=PATIENCE_SECONDS).text)
    assert table == told, f"it is to be:\n{told}"
    assert f"`{WHERE_READ}_total`" in PAGE


def test_the_values_of_labels_are_those_of_a_running_service(running: ServiceProcess) -> None:
    families = [*text_string_to_metric_families(httpx.get(f"{running.url}/metrics", timeout=PATIENCE_SECONDS).text)]
    told = {
        label: {sample.labels[label] for family in families for sample in family.samples if label in sample.labels}
        for label in ("route", "outcome", "reason", "how")
    }
    rows = re.findall(r"^\| `(\w+)` \| (`.*`) \|", section("Metrics").partition("<!-- metrics")[0], flags=re.MULTILINE)
    assert {label: set(re.findall(r"`([^`]+)`", values)) for label, values in rows} == told


def test_the_settings_that_are_advised_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    advised = re.findall(r"`GPT2_(\w+)=([^`\s]+)`", PAGE)
    assert len(advised) > 10
    for name, value in advised:
        assert name.lower() in Settings.model_fields
        monkeypatch.setenv(f"GPT2_{name}", value)
        Settings(_env_file=None)
        monkeypatch.delenv(f"GPT2_{name}")
    assert {name.lower() for name in re.findall(r"\bGPT2_([A-Z_]+)\b", PAGE)} <= Settings.model_fields.keys()


def test_the_fields_of_a_log_line_are_those_of_a_running_service() -> None:
    key, trace = "a-key-of-32-characters-or-so-it-is", f"00-{'a' * 32}-{'b' * 16}-01"
    with service(api_keys=f"alice:{key}") as running:
        headers = {"authorization": f"Bearer {key}", "traceparent": trace}
        httpx.post(f"{running.url}/generate", json={"inputs": "a"}, headers=headers, timeout=PATIENCE_SECONDS)
        running.end()
        [line] = [line for line in map(json.loads, running.log.splitlines()) if line["event"] == "request"]
    assert set(re.findall(r"^\| `(\w+)` \|", section("Logs"), flags=re.MULTILINE)) == line.keys()


def test_what_the_log_is_quoted_with_is_what_the_service_says() -> None:
    sources = "".join(path.read_text() for path in (Path(__file__).parents[2] / "app").rglob("*.py"))
    quoted = re.findall(r'"([^"\n]+)"', section("Logs") + section("Runbook") + section("What else the log may say"))
    panels = {panel["title"] for panel in json.loads(DASHBOARD.read_text())["panels"]}
    assert len(quoted) > 10
    assert [text for text in quoted if text not in sources and text not in panels] == []


def test_every_link_inside_the_page_leads_to_a_heading() -> None:
    headings = re.findall(r"^#+ (.+)$", PAGE, flags=re.MULTILINE)
    anchors = {re.sub(r"[^\w-]", "", heading.lower().replace(" ", "-")) for heading in headings}
    assert set(re.findall(r"\]\(#([^)]+)\)", PAGE)) <= anchors
