"""The wall clock is told to clients and operators; nothing waits or is measured by it, since it may be set at any moment."""

import time

import pytest

DAY = 86_400


@pytest.mark.parametrize("jump", [DAY, -DAY], ids=["forward", "back"])
def test_a_clock_that_is_set_meanwhile_changes_no_deadline_and_no_measure(
    stepped_server, in_background, eventually, monkeypatch, jump
):
    server, runner = stepped_server(max_running=1)
    body = {"inputs": "a", "parameters": {"max_new_tokens": 3, "timeout_seconds": 600}}
    asked = in_background(server, "/generate", body)
    queued = in_background(server, "/generate", body)
    eventually(lambda: runner.arrived and server.service.generator.client.num_unfinished == 2)
    told = time.time
    monkeypatch.setattr("time.time", lambda: told() + jump)
    runner.open()
    assert [request.response.status_code for request in (asked, queued)] == [200, 200]
    for name in ("queue", "time_to_first_token", "inter_token", "request", "step"):
        assert 0 <= server.metric(f"gpt2_{name}_seconds_sum") < 600, name
    assert 0 <= server.metric("gpt2_engine_heartbeat_age_seconds") < 600


def test_a_deadline_passes_although_the_clock_is_set_back(stepped_server, in_background, eventually, monkeypatch):
    server, runner = stepped_server()
    asked = in_background(server, "/generate", {"inputs": "a", "parameters": {"max_new_tokens": 3, "timeout_seconds": 1}})
    eventually(lambda: runner.arrived)
    told = time.time
    monkeypatch.setattr("time.time", lambda: told() - DAY)
    assert asked.response.status_code == 504
