"""Goal 26: a live Prometheus on services that each have a trouble of their own, staged for real. Every alert is to fire in time."""

import json
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Lock
from typing import Any

import httpx
import yaml

from tests.chaos.faulty_model import FAIL, HANG, KILL
from tests.chaos.goals import Figure, Scale, at_most, exactly, goal
from tests.chaos.prometheus import FOLDER, Prometheus, has_number, prometheus, seconds_of
from tests.chaos.service import PATIENCE_SECONDS, service, until
from tests.ports import free_port

FAULTY_MODEL = "tests.chaos.faulty_model"
DASHBOARD = FOLDER.parent / "grafana" / "dashboards" / "gpt2.json"
QUICK_SPEED = 20.0  # by which durations are divided in CI: five minutes are a quarter of one
LATE_SECONDS = 15.0  # more than its `for` that an alert may take
LOOK_SECONDS = 0.2
SLOW_STEP_SECONDS = 0.35
KEY = "a-key-of-32-characters-or-so-it-is"
WARM = {"inputs": "a", "parameters": {"max_new_tokens": 4}}


@dataclass(slots=True)
class Staged:
    """What is told to whom: troubles say when they began, who looks says when an alert fired first."""

    prometheus: Prometheus
    speed: float
    is_over: Event = field(default_factory=Event)
    began: dict[tuple[str, str], float] = field(default_factory=dict)  # by alert and instance
    fired: dict[tuple[str, str], float] = field(default_factory=dict)
    _lock: Lock = field(default_factory=Lock)

    def begin(self, instance: str, *alerts: str) -> None:
        """Now; that it has fired before, as of a service that was not there yet, is not to count."""
        with self._lock:
            for alert in alerts:
                self.began[alert, instance] = time.monotonic()
                self.fired.pop((alert, instance), None)

    def look(self) -> None:
        with self._lock:
            for alert in self.prometheus.firing():
                self.fired.setdefault(alert, time.monotonic())

    def repeat(self, act: Callable[[httpx.Client], object], url: str, pause: float, key: str = "none") -> None:
        """Again and again until it is over."""
        with httpx.Client(base_url=url, timeout=PATIENCE_SECONDS, headers={"authorization": f"Bearer {key}"}) as client:
            while not self.is_over.wait(pause):
                act(client)


Trouble = Callable[[Staged], None]


@goal(26, "Watched by Prometheus")
def watching(scale: Scale) -> list[Figure]:
    """In its long form with the durations as they are delivered, in CI with all of them divided."""
    if not shutil.which("prometheus"):
        return [Figure("alerts that fired", "all", "Prometheus is missing", holds=False, by_clock=True)]
    speed = 1.0 if scale.is_long else QUICK_SPEED
    waits = waits_of(speed)
    with staging(speed) as (staged, troubles):
        wait_for_alerts(staged, troubles, waits, scale)
        watch = staged.prometheus
        without = [query for query in panel_queries(watch.scrape_seconds) if not has_number(watch.query(query))]
        no_trouble = [name for name, instance in staged.fired if instance == "fine"]
    late = {alert: staged.fired[alert] - began - waits[alert[0]] for alert, began in staged.began.items() if alert in staged.fired}
    slowest = max(late, key=lambda alert: late[alert])
    return [
        exactly("complaints of promtool", 0, _num_complaints()),
        exactly("alerts that fired, each in a trouble of its own", len(waits), len({name for name, _ in late})),
        at_most(f"the slowest after its `for` ({slowest[0]})", LATE_SECONDS, late[slowest], "s"),
        exactly(f"of {len(panel_queries(1.0))} expressions of the dashboard without data", 0, len(without)),
        exactly("alerts of the service without a trouble", 0, len(no_trouble), by_clock=True),
    ]


@contextmanager
def staging(speed: float) -> Iterator[tuple[Staged, list[Future[None]]]]:
    """All troubles at once beside one Prometheus; they end with the block, and one that could not be staged is raised then."""
    with prometheus(speed) as watch, ThreadPoolExecutor(len(TROUBLES)) as pool:
        staged = Staged(watch, speed)
        troubles = [pool.submit(trouble, staged) for trouble in TROUBLES]
        try:
            yield staged, troubles
        finally:
            staged.is_over.set()
        for trouble in troubles:
            trouble.result()


def wait_for_alerts(staged: Staged, troubles: list[Future[None]], waits: dict[str, float], scale: Scale) -> None:
    """Until each of them has fired where its trouble is; a trouble that could not be staged is raised at once."""
    deadline = time.monotonic() + max(waits.values()) + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        for trouble in wait(troubles, 0, return_when=FIRST_EXCEPTION).done:
            trouble.result()
        staged.look()
        fired = {name for name, _ in staged.fired.keys() & staged.began.keys()}
        scale.tell(f"{len(fired)} of {len(waits)} alerts")
        if fired >= waits.keys():
            return
        time.sleep(LOOK_SECONDS)


def _num_complaints() -> int:
    """What promtool says of the rules and of their tests, beyond that they are right."""
    checks = (("check", "config", "prometheus.yml"), ("check", "rules", "rules.yml"), ("test", "rules", "rules.test.yml"))
    results = [subprocess.run(["promtool", *check], cwd=FOLDER, capture_output=True, text=True, check=False) for check in checks]
    return sum(result.returncode != 0 or "lint" in result.stdout + result.stderr for result in results)


def waits_of(speed: float) -> dict[str, float]:
    """Each alert's `for` in seconds."""
    return {rule["alert"]: seconds_of(rule.get("for", "0s")) / speed for rule in alerts_of(FOLDER / "rules.yml")}


def alerts_of(file: Path) -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(file.read_text())["groups"] for rule in group["rules"] if "alert" in rule]


def panel_queries(scrape_seconds: float) -> list[str]:
    """Of the dashboard's panels; with four scrapes as the interval, as Grafana has it."""
    panels = json.loads(DASHBOARD.read_text())["panels"]
    queries = [target["expr"] for panel in panels for target in panel.get("targets", [])]
    interval = f"{4 * scrape_seconds * 1000:.0f}ms"
    return [re.sub(r"\$__rate_interval", interval, query) for query in queries]


# Troubles: each is a service of its own, and ends with it.


def _no_trouble(staged: Staged) -> None:
    """The real service on the tiny checkpoint, with a bit of everything to do."""
    body = {"inputs": "The old man looked at the sea. " * 8, "parameters": {"max_new_tokens": 16, "ignore_eos": True}}
    with service() as running:
        staged.prometheus.scrape("fine", running.address)
        staged.repeat(lambda client: client.post("/generate_stream", json=body), running.url, 0.1)


def _is_nowhere(staged: Staged) -> None:
    """A Prometheus of its own that finds nobody."""
    with prometheus(staged.speed) as watch:
        staged.begin("nowhere", "Gpt2Absent")
        until(lambda: staged.is_over.is_set() or ("Gpt2Absent", "") in watch.firing(), LOOK_SECONDS)
        if not staged.is_over.is_set():
            staged.fired["Gpt2Absent", "nowhere"] = time.monotonic()


def _ends(staged: Staged) -> None:
    """Killed and started anew until that is told, then killed for good."""
    port = free_port()
    for number in range(100):
        with service(port=port) as running:
            staged.prometheus.scrape("killed", running.address)
            if number == 2:
                staged.begin("killed", "Gpt2Restarts")
            if number >= 2 and staged.is_over.wait(2 * staged.prometheus.scrape_seconds):
                return
        if ("Gpt2Restarts", "killed") in staged.fired:
            break
    staged.begin("killed", "Gpt2Down")
    staged.is_over.wait()


def _hangs(staged: Staged) -> None:
    """A step that does not return; its process ends by itself when the stall limit has passed."""
    request = httpx.Request("POST", "http://service/generate", json={**WARM, "inputs": HANG})
    head = "".join(f"{name}: {value}\r\n" for name, value in request.headers.items())
    with service(module=FAULTY_MODEL) as running, running.connect() as connection:
        staged.prometheus.scrape("hanging", running.address)
        staged.begin("hanging", "Gpt2EngineStalled")
        connection.sendall(f"POST /generate HTTP/1.1\r\n{head}\r\n".encode() + request.content)
        staged.is_over.wait()


def _breaks(staged: Staged) -> None:
    """The engine is killed once; then every other request fails its step."""

    def fail(client: httpx.Client) -> None:
        client.post("/generate", json={**WARM, "inputs": FAIL})
        client.post("/generate", json=WARM)

    with service(module=FAULTY_MODEL) as running:
        staged.prometheus.scrape("broken", running.address)
        staged.begin("broken", "Gpt2EngineCrashes")
        httpx.post(f"{running.url}/generate", json={**WARM, "inputs": KILL}, timeout=PATIENCE_SECONDS)
        staged.begin("broken", "Gpt2StepsFail", "Gpt2RequestsFail", "Gpt2ErrorBudgetBurns")
        staged.repeat(fail, running.url, 0.2)


def _is_crowded(staged: Staged) -> None:
    """One slot, slow steps, four places in the queue, ten clients that want them, and one who tries keys."""
    settings = {"max_running": 1, "max_waiting": 4, "max_wait_seconds": 0, "api_keys": KEY, "metrics_need_key": False}
    with service(module=FAULTY_MODEL, fake_step_seconds=SLOW_STEP_SECONDS, **settings) as running, ThreadPoolExecutor(11) as pool:
        staged.prometheus.scrape("crowded", running.address)
        staged.begin("crowded", "Gpt2Overloaded", "Gpt2SlowFirstToken", "Gpt2SlowTokens", "Gpt2Rejects")
        texts = "abcdefghij"  # equal ones would share a first token
        clients = [pool.submit(staged.repeat, _asking(text), running.url, 0.3, KEY) for text in texts]
        clients.append(pool.submit(staged.repeat, _asking("k"), running.url, 0.05, "a-wrong-key"))
    for client in clients:
        client.result()


def _is_late(staged: Staged) -> None:
    """Every request has a deadline that passes before its first token."""
    body = {**WARM, "parameters": {"max_new_tokens": 3, "timeout_seconds": 0.03}}
    with service(module=FAULTY_MODEL, fake_step_seconds=SLOW_STEP_SECONDS) as running:
        staged.prometheus.scrape("late", running.address)
        staged.begin("late", "Gpt2Expires")
        staged.repeat(lambda client: client.post("/generate", json=body), running.url, 0.1)


def _asking(text: str) -> Callable[[httpx.Client], object]:
    body = {"inputs": text, "parameters": {"max_new_tokens": 3}}
    return lambda client: client.post("/generate", json=body)


TROUBLES: tuple[Trouble, ...] = (_no_trouble, _is_nowhere, _ends, _hangs, _breaks, _is_crowded, _is_late)
