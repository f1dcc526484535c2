"""The service on a real Ray cluster of two replicas, in the order of an operator's day: served, killed, scaled down, updated."""

import itertools
import json
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.chaos.service import PATIENCE_SECONDS, until
from tests.deploy.ray_cluster import RayCluster, eventually, quiet, ray_cluster
from tests.tiny import make_tiny_checkpoint, small_vocabulary, tiny_sizes

with quiet():
    pytest.importorskip("ray.serve", reason="ray is missing: pip install '.[ray]'")
pytestmark = [pytest.mark.timeout(600), pytest.mark.filterwarnings("ignore")]  # of what Ray itself warns
KEY = "a-key-of-the-tests"
HEADERS = {"authorization": f"Bearer {KEY}"}
NUM_TOKENS = 300  # far more steps than requests come and go while the gate is closed
NUM_STREAMS = 16  # so many that both replicas have some, but for one time in 30,000
NATIVE, OPENAI = "/generate_stream", "/v1/completions"
NUMBERS = itertools.count()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_checkpoint(tmp_path_factory.mktemp("ray") / "first", tiny_sizes(), small_vocabulary())


@pytest.fixture(scope="module")
def cluster(checkpoint: Path) -> Iterator[RayCluster]:
    keys = checkpoint / "keys"
    keys.write_text(KEY)
    with quiet(), ray_cluster(GPT2_API_KEYS_FILE=str(keys)) as running:
        running.headers = HEADERS
        deploy(running, checkpoint, 2)
        running.await_whole(2)
        yield running


def deploy(cluster: RayCluster, checkpoint: Path, num_replicas: int) -> None:
    # A gate that is closed is no engine that hangs; and either replica has a slot for all that a test asks.
    settings = {"model": str(checkpoint), "stall_seconds": 2 * PATIENCE_SECONDS, "max_running": 64}
    cluster.deploy("tests.deploy.ray_models:gated", changes={"num_replicas": num_replicas}, settings=settings)


@pytest.fixture
def gate(checkpoint: Path) -> Iterator[Path]:
    """While there is no such file, texts get no further than the requests that come and go let them; a test leaves it open."""
    path = checkpoint / "gate"
    path.unlink(missing_ok=True)
    yield path
    path.touch()


@pytest.fixture
def client(cluster: RayCluster) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=cluster.url, headers=HEADERS, timeout=PATIENCE_SECONDS) as client:
        yield client


class Stream:
    """A request that is streamed in a thread: its first event has come when this is made, the last with `end`."""

    def __init__(self, url: str, prompt: str, path: str = NATIVE) -> None:
        native = {"inputs": prompt, "parameters": {"max_new_tokens": NUM_TOKENS}}
        openai = {"prompt": prompt, "max_tokens": NUM_TOKENS, "stream": True}
        self.path, self._url, self._body = path, url, openai if path.startswith("/v1") else native
        self._pool = ThreadPoolExecutor(1)
        self._has_begun = threading.Event()
        self.lines: Future[list[str]] = self._pool.submit(self._read)
        assert self._has_begun.wait(PATIENCE_SECONDS)

    def _read(self) -> list[str]:
        lines = []
        with httpx.stream("POST", f"{self._url}{self.path}", json=self._body, headers=HEADERS, timeout=PATIENCE_SECONDS) as answer:
            answer.raise_for_status()
            for line in answer.iter_lines():
                if line.startswith("data: "):
                    lines.append(line.removeprefix("data: "))
                    self._has_begun.set()
        return lines

    def end(self) -> list[str]:
        return self.lines.result(PATIENCE_SECONDS)


def streams(cluster: RayCluster, path: str = NATIVE) -> list[Stream]:
    """Of prompts that no replica has had."""
    return [Stream(cluster.url, f"{next(NUMBERS)} is a number", path) for _ in range(NUM_STREAMS)]


def is_whole(lines: list[str]) -> bool:
    return len(lines) == NUM_TOKENS and json.loads(lines[-1])["details"]["generated_tokens"] == NUM_TOKENS


def running(cluster: RayCluster) -> Counter[str]:
    """Requests under way, by replica."""
    return Counter({name: round(samples["gpt2_requests_running"]) for name, samples in cluster.metrics().items()})


def test_the_first_event_comes_before_the_last_is_computed(cluster: RayCluster, gate: Path) -> None:
    before = cluster.total("gpt2_generated_tokens_total")
    stream = Stream(cluster.url, "hello")
    assert cluster.total("gpt2_generated_tokens_total") < before + NUM_TOKENS
    gate.touch()
    assert is_whole(stream.end())


def test_errors_headers_and_request_ids_are_those_of_one_process(client: httpx.Client) -> None:
    refused = client.post("/generate", json={"inputs": "hello", "nonsense": 1}, headers={"x-request-id": "mine-1"})
    assert refused.status_code == 422
    assert refused.json()["error_type"] == "validation"
    assert refused.headers.get_list("x-request-id") == ["mine-1"]
    answer = client.post("/generate", json={"inputs": "hello", "parameters": {"max_new_tokens": 2, "seed": 3}})
    assert (answer.status_code, answer.headers["x-seed"]) == (200, "3")
    assert client.post("/generate", content=b" " * 1_100_000).status_code == 413
    assert client.head("/health/ready").status_code == 200
    assert client.get("/nowhere").json()["error_type"] == "not_found"


@pytest.mark.parametrize("path", ["/metrics", "/generate"])
def test_without_a_key_nobody_gets_in(cluster: RayCluster, path: str) -> None:
    method = "GET" if path == "/metrics" else "POST"
    assert httpx.request(method, cluster.url + path, timeout=PATIENCE_SECONDS).status_code == 401


def test_one_scrape_has_the_series_of_both_replicas(cluster: RayCluster, client: httpx.Client) -> None:
    before = cluster.total("gpt2_accepted_total")
    for i in range(NUM_STREAMS):
        assert client.post("/generate", json={"inputs": f"{i} is scraped", "parameters": {"max_new_tokens": 1}}).is_success
    metrics = cluster.metrics()
    assert len(metrics) == 2
    assert cluster.total("gpt2_accepted_total") == before + NUM_STREAMS
    assert all(samples["gpt2_accepted_total"] for samples in metrics.values()), "both have had some"


def test_prompts_that_begin_alike_share_a_replica_and_its_cache(client: httpx.Client) -> None:
    beginnings = [f"{i}. " + "All that follows is about the same thing. " * 5 for i in range(6)]
    cached = []
    for turn in range(3):
        for beginning in beginnings:
            body = {"prompt": f"{beginning} Question {turn}", "max_tokens": 1}
            usage = client.post(OPENAI, json=body).json()["usage"]
            cached.append(usage["prompt_tokens_details"]["cached_tokens"] / usage["prompt_tokens"])
    assert min(cached[len(beginnings) :]) > 0.9, "all but the first of each"


def test_a_client_that_leaves_frees_its_slot(cluster: RayCluster, gate: Path) -> None:
    before = cluster.total('gpt2_ended_total{how="aborted"}')
    body = {"inputs": "hello", "parameters": {"max_new_tokens": NUM_TOKENS}}
    with httpx.stream("POST", cluster.url + NATIVE, json=body, headers=HEADERS, timeout=PATIENCE_SECONDS) as answer:
        next(answer.iter_lines())
    eventually(lambda: cluster.total('gpt2_ended_total{how="aborted"}') == before + 1)
    gate.touch()
    eventually(lambda: not running(cluster).total())


def test_streams_of_a_replica_that_dies_end_with_an_error_event_and_all_else_is_served(
    cluster: RayCluster, client: httpx.Client, gate: Path
) -> None:
    under_way = streams(cluster, NATIVE) + streams(cluster, OPENAI)
    asked = {"parameters": {"max_new_tokens": 100}}
    with ThreadPoolExecutor(4) as pool:
        waiting = [pool.submit(client.post, "/generate", json=asked | {"inputs": f"{i} waits"}) for i in range(4)]
        eventually(lambda: running(cluster).total() == len(under_way) + 4)
        cluster.kill_one()
        gate.touch()
        answers = [client.post("/generate", json=asked | {"inputs": f"{i} is new"}) for i in range(8)]
        assert [answer.status_code for answer in (*answers, *(answer.result() for answer in waiting))] == [200] * 12
    ends = {(stream.path, _ending(stream.end(), stream.path)) for stream in under_way}
    assert ends == {(path, end) for path in (NATIVE, OPENAI) for end in ("whole", "told")}, "either replica had some of each"
    cluster.await_whole(2)


def _ending(lines: list[str], path: str) -> str:
    if path.startswith("/v1"):
        if lines[-1] != "[DONE]":
            return "cut"
        error: Any = json.loads(lines[-2]).get("error")
        return "told" if error and error["code"] == "generation" else "whole" if len(lines) == NUM_TOKENS + 1 else "cut"
    return "told" if json.loads(lines[-1]).get("error_type") == "generation" else "whole" if is_whole(lines) else "cut"


def test_a_replica_that_is_removed_finishes_its_streams(cluster: RayCluster, checkpoint: Path, gate: Path) -> None:
    under_way = streams(cluster)
    assert all(running(cluster).values()), "either replica has some"
    deploy(cluster, checkpoint, 1)
    eventually(lambda: "STOPPING" in cluster.status().deployments["Replica"].replica_states)
    late = Stream(cluster.url, "come while it drains")
    gate.touch()
    assert [is_whole(stream.end()) for stream in (*under_way, late)] == [True] * (NUM_STREAMS + 1)
    cluster.await_whole(1)


def test_an_update_to_another_checkpoint_fails_no_request(
    cluster: RayCluster, client: httpx.Client, tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = make_tiny_checkpoint(tmp_path_factory.mktemp("ray") / "second", tiny_sizes(), small_vocabulary())
    (other / "gate").touch()
    deploy(cluster, other, 1)
    models: list[str] = []

    def has_been_updated() -> bool:
        answer = client.post(OPENAI, json={"prompt": f"update {len(models)}", "max_tokens": 1})
        assert answer.status_code == 200
        models.append(answer.json()["model"])
        return models.count("second") == 3

    until(has_been_updated)
    assert set(models) <= {"first", "second"}
    cluster.await_whole(1)
