"""What Prometheus is told: every request under its route and outcome, exact counts of tokens, gauges that come back to 0."""

import asyncio
import shutil
import subprocess
import time

import httpx
import pytest
from prometheus_client import CollectorRegistry, Histogram, generate_latest

from app.loop_lag import LOOK_SECONDS, LoopLag
from app.metrics import TokenHistogram

OUTCOMES = ("completed", "invalid", "rejected", "aborted", "expired", "failed")
ROUTES = ("/generate", "/generate_stream", "/", "/v1/completions", "/v1/score")


def outcomes(server, route):
    return {o: int(n) for o in OUTCOMES if (n := server.metric("gpt2_requests_total", route=route, outcome=o))}


def is_idle(server):
    return not any(server.metric(f"gpt2_{name}") for name in ("requests_running", "requests_waiting", "slots_used"))


def test_requests_are_counted_by_route_and_outcome(stepped_server, call, in_background, eventually):
    server, runner = stepped_server(max_running=1, max_waiting=1)
    one = {"inputs": "a", "prompt": None, "parameters": {"max_new_tokens": 2}}
    running = in_background(server, "/generate", one)
    eventually(lambda: runner.arrived)
    leaver = call(server, "/v1/completions", {"prompt": "a"})
    eventually(lambda: server.service.generator.client.num_unfinished == 2)
    assert httpx.post(server.url + "/generate", json=one).status_code == 429
    leaver.leave()
    eventually(lambda: server.service.generator.client.num_unfinished == 1)
    runner.open()
    assert running.response.status_code == 200
    runner.failures.append(RuntimeError("broken"))
    assert httpx.post(server.url + "/generate", json=one).status_code == 500
    for route in ROUTES:
        body = {"prompt": "a", "max_tokens": 2, "candidates": ["b"]} if route.startswith("/v1") else one
        assert httpx.post(server.url + route, json=body).status_code == 200
        assert httpx.post(server.url + route, content=b"{").status_code in (400, 422)
        assert httpx.post(server.url + route, content=b" " * 2_000_000).status_code == 413
    eventually(lambda: outcomes(server, "/v1/completions") == {"completed": 1, "invalid": 2, "aborted": 1})
    assert outcomes(server, "/generate") == {"completed": 2, "invalid": 2, "rejected": 1, "failed": 1}
    assert outcomes(server, "/v1/score") == {"completed": 1, "invalid": 2}
    assert outcomes(server, "/generate_stream") == outcomes(server, "/") == {"completed": 1, "invalid": 2}
    eventually(lambda: is_idle(server))


def test_a_stream_that_fails_half_way_is_not_completed(stepped_server, eventually):
    server, runner = stepped_server()
    openai = {"prompt": "a", "stream": True, "ignore_eos": True}
    for route, body in (("/generate_stream", {"inputs": "a"}), ("/v1/completions", openai)):
        runner.let_through(2)
        with httpx.stream("POST", server.url + route, json=body, timeout=60) as response:
            runner.failures.append(RuntimeError("broken"))
            runner.let_through(1)
            response.read()
        eventually(lambda route=route: outcomes(server, route) == {"failed": 1})
    assert server.metric("gpt2_steps_repeated_total") == 2
    assert server.metric("gpt2_engine_crashes_total") == 0


def test_other_routes_are_not_requests_for_text(start_server):
    server = start_server()
    for path in ("/", "/info", "/metrics", "/health", "/nowhere", "/v1/models"):
        httpx.get(server.url + path)
    httpx.post(server.url + "/tokenize", json={"inputs": "a"})
    httpx.post(server.url + "/nowhere", json={})
    samples = [sample for metric in server.service.metrics.registry.collect() for sample in metric.samples]
    assert sum(sample.value for sample in samples if sample.name == "gpt2_requests_total") == 0


def test_tokens_are_counted_exactly(start_server):
    server = start_server()
    prompt = "one two three " * 50
    num_prompt = len(httpx.post(server.url + "/tokenize", json={"inputs": prompt}).json())
    num_reusable = server.num_reusable(num_prompt)
    num_chunks = -(-num_prompt // (256 if server.cuts_freely else 128))
    for _ in range(3):
        httpx.post(server.url + "/generate", json={"inputs": prompt, "parameters": {"max_new_tokens": 7, "ignore_eos": True}})
    assert server.metric("gpt2_generated_tokens_total") == 3 * 7
    assert server.metric("gpt2_prefix_cache_hit_tokens_total") == 2 * num_reusable > 0
    assert server.metric("gpt2_prompt_tokens_total") == 3 * num_prompt - 2 * num_reusable
    assert server.metric("gpt2_prefill_chunks_total") == num_chunks + 2
    assert server.metric("gpt2_time_to_first_token_seconds_count") == server.metric("gpt2_request_seconds_count") == 3
    assert server.metric("gpt2_inter_token_seconds_count") == 3 * 6
    assert server.metric("gpt2_queue_seconds_count") == 3
    assert server.metric("gpt2_batch_size_sum") == server.metric("gpt2_step_seconds_count") == num_chunks + 2 + 3 * 6


def test_tokens_that_could_not_be_computed_are_not_counted(stepped_server):
    server, runner = stepped_server()
    runner.open()
    (runner.poisoned_token,) = (token.id for token in server.service.generator.tokenizer.spans("!"))
    assert httpx.post(server.url + "/generate", json={"inputs": "!"}).status_code == 500
    assert server.metric("gpt2_generated_tokens_total") == 0


def test_gauges_show_what_is_in_flight(stepped_server, in_background, eventually):
    server, runner = stepped_server(max_running=2)
    requests = [in_background(server, "/generate", {"inputs": "a", "parameters": {"max_new_tokens": 5}}) for _ in range(5)]
    eventually(lambda: server.service.generator.client.num_unfinished == 5)
    runner.let_through(2)
    eventually(lambda: server.metric("gpt2_requests_waiting") == 3)
    eventually(lambda: server.metric("gpt2_requests_running") == server.metric("gpt2_slots_used") == 2)  # set after the waiting
    assert server.metric("gpt2_slots") == 2
    runner.open()
    assert all(request.response.status_code == 200 for request in requests)
    eventually(lambda: is_idle(server))


def test_samples_wait_against_their_own_limit_though_few_requests_do(stepped_server, in_background, eventually):
    server, runner = stepped_server(max_running=2, max_waiting=7)
    assert server.metric("gpt2_samples_waiting") == 0
    body = {"prompt": "a", "n": 3, "max_tokens": 5}
    requests = [in_background(server, "/v1/completions", body) for _ in range(3)]
    eventually(lambda: server.metric("gpt2_samples_waiting") == server.metric("gpt2_samples_waiting_limit") == 7)
    runner.let_through(2)
    eventually(lambda: server.metric("gpt2_requests_waiting") == 2)
    assert httpx.post(server.url + "/v1/completions", json=body).status_code == 429
    runner.open()
    assert all(request.response.status_code == 200 for request in requests)
    eventually(lambda: server.metric("gpt2_samples_waiting") == 0)


def test_the_age_of_the_engines_heartbeat_grows_while_a_step_does_not_end(stepped_server, in_background, eventually):
    server, runner = stepped_server()
    request = in_background(server, "/generate", {"inputs": "a"})
    eventually(lambda: runner.arrived)
    eventually(lambda: server.metric("gpt2_engine_heartbeat_age_seconds") > 1.5)  # idle it beats once a second
    runner.open()
    assert request.response.status_code == 200
    eventually(lambda: server.metric("gpt2_engine_heartbeat_age_seconds") < 0.5)


@pytest.mark.row("route.metrics")
@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool (Debian's package prometheus) is not installed")
def test_promtool_finds_nothing_to_complain_about(client):
    client.post("/generate", json={"inputs": "a"})
    response = client.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=")
    checked = subprocess.run(["promtool", "check", "metrics"], input=response.content, capture_output=True, timeout=60, check=False)
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, b"", b"")


def test_what_is_served_is_described(client, server):
    text = client.get("/metrics").text
    info = server.service.info
    kind = f'arithmetic="{info.arithmetic}",device="cpu",dtype="{info.dtype}",kernels="{info.kernels}"'
    assert f'gpt2_model_info{{{kind},model="tiny-gpt2"}} 1.0' in text
    assert "gpt2_build_info{" in text


def test_no_text_of_a_request_appears_in_the_metrics_or_the_log(client, capfd, caplog):
    canary = "canary-sings"
    client.post("/generate", json={"inputs": canary, "parameters": {"return_full_text": True, "stop": [canary]}})
    client.post("/generate", json={"inputs": canary, canary: canary, "parameters": {canary: 1}})
    client.post("/v1/completions", json={"prompt": canary, "user": canary, "model": canary})
    client.post("/tokenize", json={"inputs": canary})
    assert canary not in client.get("/metrics").text
    assert canary not in "".join(capfd.readouterr()) + caplog.text


def test_many_observations_at_once_are_told_as_the_library_tells_them_one_by_one():
    one_by_one, at_once = CollectorRegistry(), CollectorRegistry()
    theirs = Histogram("spans", "Spans.", registry=one_by_one, buckets=(0.5, 1, 2.5))
    ours = TokenHistogram("spans", "Spans.", (0.5, 1, 2.5), at_once)
    for amount, count in ((0.25, 3), (0.5, 1), (1.0, 2), (2.0, 0), (7.0, 2)):
        ours.observe(amount, count)
        for _ in range(count):
            theirs.observe(amount)
    text = [line for line in generate_latest(one_by_one).decode().splitlines() if "_created" not in line]
    assert generate_latest(at_once).decode().splitlines() == text


def test_open_connections_are_told_beside_their_limit(start_server, eventually):
    server = start_server(max_connections=50)
    assert server.metric("gpt2_connections_limit") == 50
    assert server.metric("gpt2_connections") == 0
    with httpx.Client(base_url=server.url) as one, httpx.Client(base_url=server.url) as another:
        one.get("/health/live")
        another.get("/health/live")
        assert server.metric("gpt2_connections") == 2
    eventually(lambda: server.metric("gpt2_connections") == 0)


def test_the_bounds_of_the_queue_are_those_of_the_settings(start_server):
    server = start_server(max_waiting=7, max_queued_tokens=20_000)
    assert server.metric("gpt2_samples_waiting_limit") == 7
    assert server.metric("gpt2_queued_tokens_limit") == 20_000


def test_whether_it_is_ready_is_told_as_the_probe_tells_it(start_server):
    server = start_server()
    assert (httpx.get(f"{server.url}/health/ready").status_code, server.metric("gpt2_ready")) == (200, 1)
    server.service.generator.client._door.close()
    assert (httpx.get(f"{server.url}/health/ready").status_code, server.metric("gpt2_ready")) == (503, 0)


def test_the_process_tells_its_cpu_memory_and_files(client):
    text = client.get("/metrics").text
    for name in ("cpu_seconds_total", "resident_memory_bytes", "start_time_seconds", "open_fds", "max_fds"):
        assert f"\nprocess_{name} " in text


def test_how_late_the_event_loop_is_is_looked_at_for_as_long_as_it_runs(start_server, eventually):
    server = start_server()
    eventually(lambda: server.metric("gpt2_event_loop_lag_seconds_count") >= 2)


def test_who_keeps_the_event_loop_busy_is_seen_in_its_lag():
    async def keep_busy():
        lateness = asyncio.get_running_loop().create_future()
        lag = LoopLag(lateness.set_result)
        lag.start()
        time.sleep(3 * LOOK_SECONDS)  # noqa: ASYNC251  # which is what nobody should do
        await lateness
        lag.stop()
        return lateness.result()

    assert asyncio.run(keep_busy()) >= 1.9 * LOOK_SECONDS
