"""A Prometheus of one's own on loopback, with this project's rules and targets that come and go. Knows no particular alert."""

import json
import math
import re
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Any

import httpx
import yaml

from tests.chaos.service import PATIENCE_SECONDS, until
from tests.ports import free_port

FOLDER = Path(__file__).parents[2] / "deploy" / "prometheus"
UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


class Prometheus:
    """Scrapes whoever was named to it, under that name as `instance`."""

    def __init__(self, url: str, targets: Path, scrape_seconds: float) -> None:
        self.url, self._file, self.scrape_seconds = url, targets, scrape_seconds
        self._targets: dict[str, str] = {}
        self._lock = Lock()

    def scrape(self, instance: str, address: tuple[str, int]) -> None:
        """Take a service in, and return once its series are there."""
        asked_at = time.time()
        with self._lock:
            self._targets[instance] = f"{address[0]}:{address[1]}"
            groups = [{"targets": [target], "labels": {"instance": name}} for name, target in self._targets.items()]
            beside = self._file.with_suffix(".new")
            beside.write_text(json.dumps(groups))
            beside.replace(self._file)
        until(lambda: self._was_scraped_since(instance, asked_at), 0.1)

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The samples of an instant: each has `metric`, its labels, and `value`, a pair of time and text."""
        return self._ask("query", query=expression)

    def query_range(self, expression: str, start: float, end: float) -> list[dict[str, Any]]:
        """Lines of samples, one a scrape: each has `metric`, its labels, and `values`, pairs of time and text."""
        return self._ask("query_range", query=expression, start=start, end=end, step=self.scrape_seconds)

    def _ask(self, route: str, **parameters: str | float) -> list[dict[str, Any]]:
        answer = httpx.get(f"{self.url}/api/v1/{route}", params=parameters, timeout=PATIENCE_SECONDS).json()
        assert answer["status"] == "success", f"{parameters}: {answer}"
        result: list[dict[str, Any]] = answer["data"]["result"]
        return result

    def firing(self) -> set[tuple[str, str]]:
        """Name and instance of each alert that fires; of one that names no instance that is empty."""
        alerts = httpx.get(f"{self.url}/api/v1/alerts", timeout=PATIENCE_SECONDS).json()["data"]["alerts"]
        labels = [alert["labels"] for alert in alerts if alert["state"] == "firing"]
        return {(names["alertname"], names.get("instance", "")) for names in labels}

    def _was_scraped_since(self, instance: str, moment: float) -> bool:
        return any(float(sample["value"][1]) > moment for sample in self.query(f'timestamp(gpt2_ready{{instance="{instance}"}})'))


@contextmanager
def prometheus(speed: float = 1.0) -> Iterator[Prometheus]:
    """One with the rules of deploy/prometheus, whose durations and intervals are divided by `speed`."""
    with tempfile.TemporaryDirectory() as name:
        folder, port = Path(name), free_port()
        config = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
        seconds = max(seconds_of(config["global"]["scrape_interval"]) / speed, 1.0)
        config["global"] = dict.fromkeys(("scrape_interval", "evaluation_interval"), f"{seconds * 1000:.0f}ms")
        [job] = config["scrape_configs"]
        del job["static_configs"]
        job["file_sd_configs"] = [{"files": ["targets.json"], "refresh_interval": "1s"}]
        (folder / "targets.json").write_text("[]")
        (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
        (folder / "rules.yml").write_text(yaml.safe_dump(faster(yaml.safe_load((FOLDER / "rules.yml").read_text()), speed)))
        with _process(folder, port):
            yield Prometheus(f"http://127.0.0.1:{port}", folder / "targets.json", seconds)


def faster(rules: dict[str, Any], speed: float) -> dict[str, Any]:
    """The same rules with each `for` and each range divided by `speed`; numbers that an expression compares with stay."""

    def divided(duration: str) -> str:
        return f"{max(seconds_of(duration) * 1000 / speed, 1):.0f}ms"

    def of(rule: dict[str, Any]) -> dict[str, Any]:
        expression = re.sub(r"\[(\w+)\]", lambda found: f"[{divided(found[1])}]", rule["expr"])
        return {**rule, "expr": expression, **({"for": divided(rule["for"])} if "for" in rule else {})}

    return {"groups": [{**group, "rules": [of(rule) for rule in group["rules"]]} for group in rules["groups"]]}


def seconds_of(duration: str) -> float:
    """Of a duration as Prometheus writes it: 5m, or 1h30m."""
    parts = re.findall(r"(\d+)(ms|s|m|h)", duration)
    assert "".join(map("".join, parts)) == duration, f"{duration} is no duration"
    return sum(int(number) * UNITS[unit] for number, unit in parts)


def has_number(samples: list[dict[str, Any]]) -> bool:
    """Whether there is data, and not only the quotient of nothing by nothing."""
    return any(not math.isnan(float(sample["value"][1])) for sample in samples)


@contextmanager
def _process(folder: Path, port: int) -> Iterator[None]:
    options = ("--config.file=prometheus.yml", "--storage.tsdb.path=data", f"--web.listen-address=127.0.0.1:{port}")
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(["prometheus", *options, "--log.level=warn"], cwd=folder, stdout=log, stderr=log)
    try:
        until(lambda: process.poll() is not None or _is_ready(port), 0.05)
        assert process.poll() is None, (folder / "log").read_text()
        yield
    finally:
        process.kill()
        process.wait()


def _is_ready(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/-/ready", timeout=PATIENCE_SECONDS).status_code == 200
    except httpx.HTTPError:
        return False
