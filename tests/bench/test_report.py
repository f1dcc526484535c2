"""What is made of a measurement: percentiles, the table, the document, the picture, and the prompts that were sent."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.bench.dialects import Arrival
from app.bench.exchange import Endpoint, RequestFailed
from app.bench.load import Answer, Measurement
from app.bench.plot import plot_measurement
from app.bench.prompts import COMMON_WORDS, Range, draw_lengths, fetch_vocabulary, make_prompts
from app.bench.report import Plan, document, percentile, spread, table
from tests.bench.raw import json_answer
from tests.engine.event_loop import in_event_loop

NUMBERS = st.lists(st.floats(0, 1e6, allow_nan=False), min_size=1, max_size=50)


@settings(deadline=None)
@given(NUMBERS, st.floats(0, 100))
def test_a_percentile_is_numpys(values, percent):
    assert percentile(sorted(values), percent) == pytest.approx(float(np.percentile(values, percent)), rel=1e-9, abs=1e-9)


@settings(deadline=None)
@given(NUMBERS)
def test_percentiles_rise_from_the_least_value_to_the_largest(seconds):
    found = spread(seconds)
    assert [*found] == ["mean", "p50", "p90", "p99", "min", "max"]
    order = [found[name] for name in ("min", "p50", "p90", "p99", "max")]
    assert order == sorted(order)
    assert found["mean"] == pytest.approx(1000 * math.fsum(seconds) / len(seconds), abs=1e-3, rel=1e-9)


def plan(num_requests, **fields):
    values = {
        "url": "http://host",
        "dialect": "generate",
        "model": "gpt2",
        "pace": "2 requests at once",
        "lengths": "prompts of 4 tokens, answers of 3",
        "num_prompt": [4] * num_requests,
        "num_new": [3] * num_requests,
        "is_exact": True,
        "seed": 0,
    }
    return Plan(**values | fields)


def measured():
    """Two whole answers, one refused twice over, one that an interruption cut short; four seconds in all."""
    whole = [
        Answer(0, 0.0, 2.0, [Arrival(1.0, 1), Arrival(1.5, 2)], num_prompt=5, is_counted=True),
        Answer(1, 1.0, 2.0, [Arrival(1.2, 1), Arrival(1.4, 1)], num_prompt=6, is_counted=True),
    ]
    failed = [Answer(i, 2.0, 2.1, failure=RequestFailed("HTTP 429", f"busy {i}")) for i in (2, 3)]
    return Measurement([*whole, *failed, Answer(4, 3.0, None, [Arrival(3.5, 1)])], 4.0, is_interrupted=True)


def test_the_document_has_what_was_measured():
    found = document(plan(5), measured())
    assert found["requests"] == {"planned": 5, "whole": 2, "failed": 2}
    assert found["errors"] == [{"kind": "HTTP 429", "number": 2, "message": "busy 2"}]
    assert (found["prompt_tokens"], found["prompt_tokens_per_second"]) == (11, 2.75)
    assert (found["generated_tokens"], found["generated_tokens_per_second"]) == (6, 1.5)
    assert (found["requests_per_second"], found["seconds"], found["interrupted"]) == (0.5, 4.0, True)
    assert found["time_to_first_token_ms"] | {"mean": 600} == {
        "mean": 600,
        "p50": 600,
        "p90": 920,
        "p99": 992,
        "min": 200,
        "max": 1000,
    }
    assert found["inter_token_ms"]["mean"] == pytest.approx((250 + 250 + 200) / 3, abs=1e-3)
    assert found["request_ms"]["max"] == 2000
    assert found["notes"] == [
        "1 of 2 answers are shorter than asked: the model ended them, or its context did",
        "interrupted: 1 answers were under way; of them the tokens a second alone count",
    ]
    assert json.loads(json.dumps(found)) == found


def test_the_table_says_it_in_words():
    lines = table(document(plan(5), measured())).splitlines()
    assert lines[0] == "http://host, dialect generate, model gpt2"
    assert "requests        2 whole, 2 failed, of 5" in lines
    assert "  HTTP 429      2: busy 2" in lines
    assert "first token          600.00     600.00     920.00     992.00   1,000.00" in lines


def test_of_nothing_there_is_a_report_too():
    failed = Measurement([Answer(0, 0.0, 1.0, failure=RequestFailed("cut off", "early"))], 1.0)
    found = document(plan(1), failed)
    assert found["request_ms"] is None
    assert table(found).count("  -") == 3 * 5


def test_tokens_that_nobody_counted_are_told():
    answer = Answer(0, 0.0, 1.0, [Arrival(0.5, 1)] * 3)
    found = document(plan(1, is_exact=False), Measurement([answer], 1.0))
    assert found["prompt_tokens"] == 4
    assert [note.partition(":")[0] for note in found["notes"]] == ["the server told no usage", "prompt tokens are counted by words"]


@pytest.mark.parametrize("measurement", [measured(), Measurement([], 0.0, is_interrupted=True)], ids=["some", "none"])
def test_the_picture_is_a_png(measurement, tmp_path):
    plot_measurement(measurement, tmp_path / "a.png", "a title")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


@in_event_loop
async def test_prompts_have_so_many_tokens_by_the_servers_own_count(server):
    endpoint = Endpoint(server.url)
    vocabulary = await fetch_vocabulary(endpoint)
    assert vocabulary.is_exact
    lengths = [1, 2, 17, 100, 100]
    prompts = make_prompts(vocabulary, lengths, seed=1)
    assert [len(await endpoint.fetch("POST", "/tokenize", {"inputs": prompt})) for prompt in prompts] == lengths
    assert prompts[3] != prompts[4]
    assert prompts == make_prompts(vocabulary, lengths, seed=1) != make_prompts(vocabulary, lengths, seed=2)


@in_event_loop
async def test_a_shared_prefix_comes_before_each_prompt(server):
    vocabulary = await fetch_vocabulary(Endpoint(server.url))
    first, second = (server.service.generator.tokenizer.encode(p) for p in make_prompts(vocabulary, [8, 8], 0, num_shared=10))
    assert (len(first), first[:10]) == (18, second[:10])
    assert first[10:] != second[10:]


@in_event_loop
async def test_tokens_that_the_server_adds_are_part_of_a_prompts_length(raw_server):
    vocabulary = await fetch_vocabulary(Endpoint(raw_server(*tokenized(num_added=1)).url))
    assert (vocabulary.is_exact, vocabulary.num_added) == (True, 1)
    assert [len(prompt.split()) for prompt in make_prompts(vocabulary, [10], 0)] == [9]


def tokenized(num_added):
    """Answers of a /tokenize to which every word is a token, and which puts some before each text."""
    words = list(dict.fromkeys(COMMON_WORDS.split()))
    spans, start = [{"start": 0, "stop": 0}] * num_added, 0
    for word in words:
        spans.append({"start": start, "stop": start + 1 + len(word)})
        start += 1 + len(word)
    return [json_answer("200 OK", json.dumps(spans))]


@pytest.mark.parametrize("answer", ['{"error": "not found"}', '{"tokens": [1, 2]}', "[]", "no JSON"])
@in_event_loop
async def test_without_a_tokenizer_that_tells_offsets_a_word_is_a_token(answer, raw_server):
    vocabulary = await fetch_vocabulary(Endpoint(raw_server(json_answer("200 OK", answer)).url))
    assert not vocabulary.is_exact
    assert [len(prompt.split()) for prompt in make_prompts(vocabulary, [3, 5], 0)] == [3, 5]


def test_lengths_are_drawn_from_the_whole_range():
    assert set(draw_lengths(Range(3, 6), 200, seed=0)) == {3, 4, 5, 6}
    assert set(draw_lengths(Range(3, 3), 9, seed=0)) == {3}
