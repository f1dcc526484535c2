"""The simulation of replicas under load: it agrees with queueing theory where that has an answer, and loses no request."""

import random
import re
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.capacity_service import Service
from benchmarks.capacity_simulation import Autoscaler, Limits, Load, Request, ServiceTimes, first_token_seconds, simulate
from benchmarks.capacity_table import peak_rate, replicas_for, tables

PAGE = Path(__file__).parent.parent / "docs" / "scale.md"
MILLISECOND_STEPS = ServiceTimes(rows=(1,), seconds=(0.001,), prompt_token_seconds=0.0)
ONE_SLOT = Limits(max_running=1, max_waiting=10**9)
BATCHED = ServiceTimes(rows=(1, 8, 32), seconds=(0.004, 0.006, 0.016), prompt_token_seconds=0.0003)


class Geometric(Load):
    """Answers of a geometric number of tokens, 50 on average: exponential service times, nearly."""

    def requests(self, seed):
        draw = random.Random(seed + 1)
        for request in super().requests(seed):
            lengths = iter(lambda: draw.random() < 1 / 50, True)
            yield replace(request, num_output=1 + sum(1 for _ in lengths))


def waits(course):
    """Before the first step of each request: a step later is its first token."""
    return [request.first_token - request.arrival - 0.001 for request in course.requests]


@pytest.mark.parametrize("load", [0.5, 0.8])
def test_one_slot_and_equal_answers_wait_as_pollaczek_and_khinchine_say(load):
    service = 0.05
    course = simulate(Load(((0, load / service),), seconds=1500, prompt=(1, 1), output=(50, 50)), MILLISECOND_STEPS, ONE_SLOT)
    found = sum(waits(course)) / len(course.requests)
    assert found == pytest.approx(load * service / (2 * (1 - load)), rel=0.1)


def test_one_slot_and_answers_of_random_length_wait_as_in_m_m_1():
    service, load = 0.05, 0.5
    course = simulate(Geometric(((0, load / service),), seconds=2000, prompt=(1, 1)), MILLISECOND_STEPS, ONE_SLOT)
    found = sum(waits(course)) / len(course.requests)
    assert found == pytest.approx(load * service / (1 - load), rel=0.1)


def test_whoever_comes_ends_once_or_is_refused():
    limits = Limits(max_waiting=4, max_queued_tokens=6000, max_wait_seconds=1.0, tokens_per_second=2500)
    scaler = Autoscaler(min_replicas=1, start_seconds=5)
    load = Load(((0, 5), (20, 60), (60, 2)), seconds=600, prompt=(16, 300), output=(1, 200))
    course = simulate(load, BATCHED, limits, 1, scaler)
    served = [request for request in course.requests if request.end is not None]
    refused = [request for request in course.requests if request.is_refused]
    assert len(course.requests) == len(served) + len(refused)
    assert served
    assert refused
    assert all(r.arrival < r.first_token <= r.end for r in served)
    assert all(r.first_token is None and r.end is None for r in refused)


def test_the_same_seed_gives_the_same_course_and_another_another():
    load = Load(((0, 20),), seconds=60, output=(1, 200))

    def course(seed):
        return [(r.arrival, r.first_token, r.end) for r in simulate(load, BATCHED, Limits(), 2, seed=seed).requests]

    assert course(1) == course(1)
    assert course(1) != course(2)


def test_requests_inside_are_arrivals_times_their_stay():
    # Little's law, which no policy escapes: the integral of the number inside is the sum of all stays.
    course = simulate(Load(((0, 8),), seconds=300), BATCHED, Limits(), 1)
    changes = sorted([(r.arrival, 1) for r in course.requests] + [(r.end, -1) for r in course.requests])
    area, inside, before = 0.0, 0, 0.0
    for time, change in changes:
        area, inside, before = area + inside * (time - before), inside + change, time
    assert inside == 0
    assert area == pytest.approx(sum(r.end - r.arrival for r in course.requests))
    assert area / 300 == pytest.approx(8 * sum(r.end - r.arrival for r in course.requests) / len(course.requests), rel=0.1)


def test_a_step_takes_what_was_measured_in_between_linearly_and_prompts_more():
    assert BATCHED.step_seconds(8, 0) == 0.006
    assert BATCHED.step_seconds(20, 0) == pytest.approx(0.011)
    assert BATCHED.step_seconds(8, 100) == pytest.approx(0.036)
    assert BATCHED.step_seconds(0, 1) == 0.004, "no step is shorter than one row's"


def test_beyond_its_capacity_a_replica_serves_at_its_capacity():
    capacity = BATCHED.requests_per_second(32, 128, 128)
    course = simulate(Load(((0, 3 * capacity),), seconds=200), BATCHED, Limits(max_waiting=64), 1)
    ended = [request for request in course.requests if request.end is not None and 50 < request.end < 200]
    assert len(ended) / 150 == pytest.approx(capacity, rel=0.05)


def test_a_bound_on_the_wait_keeps_it():
    capacity = BATCHED.requests_per_second(32, 128, 128)
    limits = Limits(max_wait_seconds=2.0, tokens_per_second=256 * capacity)
    patient = simulate(Load(((0, 2 * capacity),), seconds=120), BATCHED, Limits())
    course = simulate(Load(((0, 2 * capacity),), seconds=120), BATCHED, limits)
    assert first_token_seconds(course.requests)[-1] < 4
    assert first_token_seconds(patient.requests)[-1] > 30


def test_the_autoscaler_brings_as_many_as_the_load_needs_and_takes_them_away_again():
    capacity = BATCHED.requests_per_second(32, 128, 128)
    load = Load(((0, 0.5 * capacity), (60, 4 * capacity), (600, 0.5 * capacity)), seconds=1800)
    course = simulate(load, BATCHED, Limits(), 2, Autoscaler(start_seconds=20))
    most = max(number for _, number in course.replicas)
    assert 5 <= most <= 10
    assert [number for _, number in course.replicas][-1] == 2
    late = [request for request in course.requests if 300 < request.arrival < 600]
    assert first_token_seconds(late)[len(late) // 2] < 1


def test_no_new_replica_serves_before_it_was_scraped_decided_and_started():
    scaler = Autoscaler(start_seconds=40)
    course = simulate(Load(((0, 100),), seconds=200), BATCHED, Limits(), 2, scaler)
    first = next(time for time, number in course.replicas if number > 2)
    assert first >= scaler.decision_seconds + scaler.start_seconds
    assert course.replicas[0] == (0.0, 2)


def test_a_decision_doubles_at_most_and_leaves_what_is_nearly_right():
    scaler = Autoscaler()
    assert scaler.wanted(4, 4 * 5120 * 1.05, 0) == 4
    assert scaler.wanted(4, 4 * 5120 * 1.2, 0) == 5
    assert scaler.wanted(2, 0, 1000) == scaler.max_replicas
    assert scaler.wanted(4, 0, 0) == scaler.min_replicas


def test_a_request_knows_its_work():
    assert Request(0.0, 100, 28).work == 128


def test_the_real_service_serves_the_same_requests_with_the_steps_that_it_is_told():
    load = Load(((0, 10),), seconds=3, prompt=(8, 40), output=(2, 20))
    with Service(10.0, BATCHED) as service:
        real = service.serve(load, seed=3)
    asked = list(load.requests(seed=3))
    assert [(r.num_prompt, r.num_output) for r in real] == [(r.num_prompt, r.num_output) for r in asked]
    assert all(r.arrival < r.first_token <= r.end and not r.is_refused for r in real)
    least = [BATCHED.step_seconds(1, 0) * r.num_output for r in real]
    assert all(r.end - r.arrival >= seconds for r, seconds in zip(real, least, strict=True)), "no step is shorter than told"


@pytest.mark.parametrize("name", ["sizes", "told", "own", "step"])
def test_the_pages_tables_are_what_was_measured(name):
    [block] = re.findall(rf"(?s)<!-- {name}: [^\n]*-->\n(.*?)\n?<!-- /{name} -->", PAGE.read_text())
    assert block == tables()[name]


def test_replicas_follow_from_users_as_the_page_shows():
    assert peak_rate(100_000) == pytest.approx(34.7, abs=0.05)
    assert replicas_for(peak_rate(100_000), 9.41) == (6, 1)
    assert replicas_for(peak_rate(1), 9.41) == (1, 1), "one may stop"
