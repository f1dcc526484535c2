"""What a request cost, over HTTP: on request alone, the same by every route, and adding up to what the counters count."""

import httpx
import pytest

from app.power import PowerMeter
from model.cost import Cost
from tests.test_power import Counter

FIELDS = ["flops", "bytes_moved", "compute_seconds", "cpu_seconds", "energy_joules"]
IDS = list(range(1, 21))


@pytest.fixture
def price(server, tiny_config):
    """FLOPs of a prompt's tokens behind those that are reused, and of the new ones."""
    cost = Cost(tiny_config, server.service.info.dtype)

    def of(num_prompt: int, num_new: int, num_reused: int = 0) -> int:
        positions = range(num_reused, num_prompt + num_new - 1)
        return cost.flops(len(positions), sum(p + 1 for p in positions), num_new)

    return of


def ids(first: int) -> list[int]:
    """A prompt that shares nothing with another test's."""
    return [first, *IDS[1:]]


@pytest.mark.row("generate.cost", "generate.cost_answer")
def test_generate_tells_the_cost_and_implies_details(client, price):
    body = {"inputs": ids(100), "parameters": {"max_new_tokens": 5, "cost": True, "ignore_eos": True}}
    details = client.post("/generate", json=body).json()["details"]
    assert list(details["cost"]) == FIELDS
    assert details["cost"]["flops"] == price(20, 5)
    assert details["cost"]["bytes_moved"] > 0
    assert details["cost"]["cpu_seconds"] > 0
    assert len(details["tokens"]) == 5


def test_the_same_request_has_the_same_flops_less_what_it_reuses(generate, price, server):
    told = [generate(ids(101), max_new_tokens=4, cost=True, ignore_eos=True)["details"]["cost"]["flops"] for _ in range(2)]
    assert told == [price(20, 4), price(20, 4, server.num_reusable(20))]


def test_nothing_is_told_unasked(generate, complete, stream, chunks):
    for cost in ({}, {"cost": False}, {"cost": None}):
        assert "cost" not in generate(max_new_tokens=2, **cost)["details"]
        assert "cost" not in stream(max_new_tokens=2, **cost)[-1]["details"]
    assert list(complete(max_tokens=2)["usage"]) == [
        "prompt_tokens",
        "completion_tokens",
        "total_tokens",
        "prompt_tokens_details",
    ]
    assert all("usage" not in chunk for chunk in chunks(max_tokens=2, include_cost=False)[:-1])


def test_all_else_of_an_answer_is_the_same(generate, complete):
    plain, with_cost = (generate(max_new_tokens=6, seed=3, temperature=1, **cost) for cost in ({}, {"cost": True}))
    del with_cost["details"]["cost"]
    assert with_cost == plain
    plain, with_cost = (complete(max_tokens=6, seed=3, **cost)["choices"] for cost in ({}, {"include_cost": True}))
    assert with_cost == plain


def test_a_stream_tells_it_in_its_last_event_alone(stream, price):
    events = stream(ids(102), max_new_tokens=5, cost=True, ignore_eos=True)
    assert [event["details"] for event in events[:-1]] == [None] * 4
    assert events[-1]["details"]["cost"]["flops"] == price(20, 5)


def test_a_stream_of_several_samples_tells_it_once_with_the_last_that_ends(stream, price):
    events = stream(ids(103), max_new_tokens=4, n=3, cost=True, ignore_eos=True, temperature=1)
    assert ["cost" in (event["details"] or {}) for event in events] == [False] * (len(events) - 1) + [True]
    # Two of three take over the prompt, and the first token that its row has drawn for them.
    assert events[-1]["details"]["cost"]["flops"] == price(20, 4) + 2 * (price(20, 4) - price(20, 1))


@pytest.mark.row("completions.include_cost", "completions.cost")
def test_completions_tell_it_of_all_prompts_and_samples_together(complete, price):
    usage = complete([ids(104), ids(105)], max_tokens=4, n=2, include_cost=True, ignore_eos=True)["usage"]
    assert list(usage["cost"]) == FIELDS
    assert usage["cost"]["flops"] == 2 * (2 * price(20, 4) - price(20, 1))


def test_a_stream_of_completions_tells_it_in_the_chunk_with_the_usage(chunks, price):
    events = chunks(ids(106), max_tokens=4, include_cost=True, ignore_eos=True)
    assert events[-2]["choices"] == []
    assert events[-2]["usage"]["cost"]["flops"] == price(20, 4)
    assert all("usage" not in event for event in events[:-2])


def test_a_prompt_that_is_only_scored_costs_its_rows(complete, server, tiny_config):
    usage = complete(ids(107), max_tokens=0, echo=True, logprobs=0, include_cost=True)["usage"]
    assert usage["cost"]["flops"] == Cost(tiny_config, server.service.info.dtype).flops(20, sum(range(1, 21)), 19)


def test_a_text_that_a_stop_string_ends_has_the_cost_of_what_came(generate, price, server):
    text = generate(ids(108), max_new_tokens=9, ignore_eos=True)["generated_text"]
    details = generate(ids(108), max_new_tokens=9, ignore_eos=True, stop=[text[2:4]], cost=True)["details"]
    assert details["finish_reason"] == "stop_sequence"
    assert details["cost"]["flops"] == price(20, details["generated_tokens"], server.num_reusable(20))


@pytest.mark.row("score.cost")
def test_scores_tell_the_cost_of_all_candidates(client):
    body = {"prompt": "The old man", "candidates": [" and", " sea"]}
    plain = client.post("/v1/score", json=body).json()["usage"]
    usage = client.post("/v1/score", json=body | {"include_cost": True}).json()["usage"]
    assert "cost" not in plain
    assert list(usage["cost"]) == FIELDS
    assert usage["cost"]["flops"] > 0


@pytest.mark.row("chat.cost")
def test_chats_tell_it_too(start_server, chatml_checkpoint, sse):
    server = start_server(model=str(chatml_checkpoint))
    body = {"messages": [{"role": "user", "content": "What news?"}], "max_tokens": 4, "include_cost": True, "ignore_eos": True}
    whole = httpx.post(server.url + "/v1/chat/completions", json=body, timeout=60).json()
    assert list(whole["usage"]["cost"]) == FIELDS
    events = sse(httpx.post(server.url + "/v1/chat/completions", json=body | {"stream": True}, timeout=60))
    assert list(events[-2]["usage"]["cost"]) == FIELDS


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/generate", {"inputs": "a", "parameters": {"cost": "yes"}}, 422),
        ("/v1/completions", {"prompt": "a", "include_cost": 1}, 400),
        ("/v1/score", {"prompt": "a", "candidates": ["b"], "include_cost": "true"}, 400),
    ],
)
def test_what_is_neither_true_nor_false_is_refused_by_name(client, path, body, status):
    answer = client.post(path, json=body)
    assert answer.status_code == status
    assert "cost" in answer.text


def test_the_bills_of_all_requests_add_up_to_what_is_counted(start_server):
    server = start_server(max_running=4)
    with httpx.Client(base_url=server.url, timeout=60) as client:
        costs = []
        for i in range(6):
            body = {"inputs": ids(110 + i), "parameters": {"max_new_tokens": 6, "n": 1 + i % 3, "cost": True, "temperature": 1}}
            costs.append(client.post("/generate", json=body).json()["details"]["cost"])
    assert server.metric("gpt2_flops_total") == sum(cost["flops"] for cost in costs)
    assert server.metric("gpt2_bytes_moved_total") == pytest.approx(sum(cost["bytes_moved"] for cost in costs), rel=1e-6)
    assert server.metric("gpt2_compute_seconds_total") == pytest.approx(
        sum(cost["compute_seconds"] for cost in costs), abs=1e-6 * len(costs)
    )


def test_the_flops_are_the_same_by_every_runner(server_of_each_kind, tiny_config):
    """CUDA's takes several steps in a call, others one by one."""
    body = {"inputs": ids(120), "parameters": {"max_new_tokens": 30, "cost": True, "ignore_eos": True}}
    answer = httpx.post(server_of_each_kind.url + "/generate", json=body, timeout=60).json()
    positions = range(20 + 30 - 1)
    expected = Cost(tiny_config, "float32").flops(len(positions), sum(p + 1 for p in positions), 30)
    assert answer["details"]["cost"]["flops"] == expected


def test_where_no_energy_can_be_read_neither_info_nor_metrics_tell_any(start_server, monkeypatch):
    monkeypatch.setattr("app.bootstrap.open_counter", lambda *_: None)
    server = start_server()
    assert httpx.get(server.url + "/info").json()["energy_source"] is None
    assert "gpt2_energy_joules" not in httpx.get(server.url + "/metrics").text
    body = {"inputs": "a", "parameters": {"cost": True}}
    assert httpx.post(server.url + "/generate", json=body, timeout=60).json()["details"]["cost"]["energy_joules"] is None


def test_where_it_can_be_read_all_three_do(start_server, monkeypatch):
    counter = Counter()
    monkeypatch.setattr("app.bootstrap.open_counter", lambda *_: counter)
    monkeypatch.setattr(PowerMeter, "start", lambda meter: counter.read(meter, 1e9, 5e9))  # 5 W
    monkeypatch.setattr("app.bootstrap.PowerMeter", lambda counter: PowerMeter(counter, lambda: counter.now))
    server = start_server()
    assert httpx.get(server.url + "/info").json()["energy_source"] == "rapl"
    assert server.metric("gpt2_energy_joules_total") == 5e9
    body = {"inputs": "a", "parameters": {"cost": True}}
    cost = httpx.post(server.url + "/generate", json=body, timeout=60).json()["details"]["cost"]
    assert cost["energy_joules"] == pytest.approx(5 * cost["compute_seconds"])
