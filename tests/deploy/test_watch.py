"""What watches the service: Prometheus' rules and Grafana's dashboard, as far as they can be checked without faults.

Goal 26 (tests/chaos/watching.py) fires every alert and asks for every panel's data on a live Prometheus.
"""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from app.metrics import Metrics
from tests.chaos.prometheus import FOLDER, faster, seconds_of
from tests.chaos.watching import DASHBOARD, alerts_of, panel_queries

ROOT = Path(__file__).parents[2]
RUNBOOK = "docs/operate.md"
RULES = yaml.safe_load((FOLDER / "rules.yml").read_text())
ALERTS = alerts_of(FOLDER / "rules.yml")
NAMES = [alert["alert"] for alert in ALERTS]
PANELS = json.loads(DASHBOARD.read_text())["panels"]
needs_promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is missing: apt-get install prometheus")


def promtool(*arguments: str | Path) -> None:
    """Run it; it must find nothing to say against what it is given."""
    result = subprocess.run(["promtool", *arguments], cwd=FOLDER, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "lint" not in result.stdout + result.stderr


def rules() -> list[dict[str, Any]]:
    return [rule for group in RULES["groups"] for rule in group["rules"]]


# ---- rules


@needs_promtool
def test_promtool_accepts_the_configuration_and_its_rules() -> None:
    promtool("check", "config", "prometheus.yml")
    promtool("check", "rules", "rules.yml")


@needs_promtool
def test_each_alert_fires_in_its_trouble_and_in_no_other() -> None:
    promtool("test", "rules", "rules.test.yml")


def test_no_alert_is_without_a_test_in_which_it_fires() -> None:
    tests = yaml.safe_load((FOLDER / "rules.test.yml").read_text())["tests"]
    fired = {case["alertname"] for test in tests for case in test["alert_rule_test"] if case.get("exp_alerts")}
    assert fired == set(NAMES)


@pytest.mark.parametrize("alert", ALERTS, ids=NAMES)
def test_an_alert_says_what_is_wrong_what_to_do_and_where_to_read_on(alert: dict[str, Any]) -> None:
    said = alert["annotations"]
    assert said.keys() == {"summary", "description", "runbook_url"}
    assert alert["labels"]["severity"] in ("critical", "warning")
    page, _, anchor = said["runbook_url"].partition("#")
    headings = re.findall(r"^#+ (.+)$", (ROOT / page).read_text(), flags=re.MULTILINE)
    assert (page, anchor) == (RUNBOOK, alert["alert"].lower())
    assert alert["alert"] in headings


def test_the_runbook_has_no_alert_that_is_not_there() -> None:
    assert re.findall(r"^### (Gpt2\w+)$", (ROOT / RUNBOOK).read_text(), flags=re.MULTILINE) == NAMES


def test_the_pages_command_makes_an_address_that_a_pager_can_open(tmp_path: Path) -> None:
    [command] = re.findall(r"^sed -i '(.*)' deploy/", (ROOT / RUNBOOK).read_text(), flags=re.MULTILINE)
    result = subprocess.run(["sed", command, FOLDER / "rules.yml"], capture_output=True, text=True, check=True)
    (tmp_path / "rules.yml").write_text(result.stdout)
    whole = [alert["annotations"]["runbook_url"] for alert in alerts_of(tmp_path / "rules.yml")]
    assert whole == [f"https://wiki.example/gpt2/{alert['annotations']['runbook_url']}" for alert in ALERTS]


def test_faster_rules_are_the_same_rules_with_shorter_times() -> None:
    rule = {"alert": "A", "expr": "rate(a[5m]) > 10 and rate(b[1h]) > 0.5", "for": "1m", "labels": {"of": "5m"}}
    [group] = faster({"groups": [{"name": "g", "rules": [rule, {"record": "r", "expr": "a"}]}]}, 60)["groups"]
    assert group["rules"][0] == {**rule, "expr": "rate(a[5000ms]) > 10 and rate(b[60000ms]) > 0.5", "for": "1000ms"}
    assert group["rules"][1] == {"record": "r", "expr": "a"}
    assert seconds_of("1h30m") == 5400


# ---- dashboard


@needs_promtool
def test_promtool_accepts_each_query_of_the_dashboard(tmp_path: Path) -> None:
    queries = [{"record": f"panel_{number}", "expr": query} for number, query in enumerate(panel_queries(5.0))]
    file = tmp_path / "dashboard.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": queries}]}))
    promtool("check", "rules", file)


def test_dashboard_and_alerts_ask_only_for_metrics_that_the_service_has() -> None:
    source = (ROOT / "app/metrics.py").read_text()
    there = {sample.name for metric in Metrics().registry.collect() for sample in metric.samples}
    there |= set(re.findall(r'"(gpt2_\w+)"', source)) | {rule["record"] for rule in rules() if "record" in rule}
    queries = panel_queries(5.0) + [rule["expr"] for rule in rules()]
    asked = {name for query in queries for name in re.findall(r"\b(?:instance:)?(?:gpt2|process)_[\w:]+", query)}
    assert asked, "no query found"
    assert {name for name in asked if name not in there and re.sub(r"_(bucket|sum|count)$", "", name) not in there} == set()


def test_the_dashboard_says_what_to_do_for_each_alert() -> None:
    [panel] = [panel for panel in PANELS if panel["type"] == "text"]
    rows = [[cell.strip() for cell in row.strip("|").split("|")] for row in panel["options"]["content"].splitlines()[2:]]
    said = [(alert["alert"], alert["annotations"]["description"], f"`{alert['annotations']['runbook_url']}`") for alert in ALERTS]
    assert [tuple(row) for row in rows] == said


def test_a_panel_draws_the_line_that_an_alert_fires_above() -> None:
    """The numbers of alerts on what is recorded, of which a panel shows the same series."""
    lines = {
        (name, step["value"])
        for panel in PANELS
        for step in panel.get("fieldConfig", {}).get("defaults", {}).get("thresholds", {}).get("steps", [])
        for target in panel["targets"]
        for name in re.findall(r"instance:[\w:]+", target["expr"])
    }
    above = {pair for alert in ALERTS for pair in re.findall(r"(instance:[\w:]+) > ([\d.]+)", alert["expr"])}
    assert len(above) >= 7
    budget = 0.001  # the panel of burn rates shows errors as so many budgets
    assert [pair for pair in above if not {(pair[0], float(pair[1])), (pair[0], round(float(pair[1]) / budget, 6))} & lines] == []


def test_no_panel_covers_another_and_each_has_a_number_of_its_own() -> None:
    cells: set[tuple[int, int]] = set()
    for panel in PANELS:
        x, y, w, h = (panel["gridPos"][key] for key in "xywh")
        own = {(column, row) for column in range(x, x + w) for row in range(y, y + h)}
        assert x + w <= 24, panel["title"]
        assert not own & cells, panel["title"]
        cells |= own
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)


def test_grafanas_own_types_know_every_field_of_the_dashboard() -> None:
    """Read and written again by Grafana's library for dashboards, which drops what it does not know."""
    reason = "not installed: make install-dev"
    types = pytest.importorskip("grafana_foundation_sdk.models.dashboard", reason=reason)
    encoder = pytest.importorskip("grafana_foundation_sdk.cog.encoder", reason=reason)
    pytest.importorskip("grafana_foundation_sdk.cog.plugins", reason=reason).register_default_plugins()
    dashboard = json.loads(DASHBOARD.read_text())
    known = json.loads(json.dumps(types.Dashboard.from_json(dashboard), cls=encoder.JSONEncoder))
    assert list(unlike(dashboard, known)) == []
    dashboard["panels"][0]["options"]["colourMode"] = "none"
    known = json.loads(json.dumps(types.Dashboard.from_json(dashboard), cls=encoder.JSONEncoder))
    assert list(unlike(dashboard, known)) == [".panels.0.options.colourMode"], "or it would keep whatever it is given"


def unlike(given: Any, known: Any, path: str = "") -> list[str]:
    """Where the second value lacks something of the first, or has something else."""
    if isinstance(given, dict) and isinstance(known, dict):
        return [found for key in given for found in unlike(given[key], known.get(key), f"{path}.{key}")]
    if isinstance(given, list) and isinstance(known, list) and len(given) == len(known):
        return [found for i, pair in enumerate(zip(given, known, strict=True)) for found in unlike(*pair, f"{path}.{i}")]
    return [] if given == known else [path]
