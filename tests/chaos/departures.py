"""Goal 9: clients leave at any moment, and nothing more is computed for them. Goal 11: no answer comes after its deadline."""

import asyncio
import json
import random
import socket
import time
from contextlib import ExitStack

import httpx

from tests.chaos.goals import Figure, Scale, at_most, exactly, goal, percentile
from tests.chaos.service import FAKE_MODEL, PATIENCE_SECONDS, ServiceProcess, nothing_unaccounted, service, until

FREE_MS = 100.0
SLACK_MS = 20.0  # beyond a step
NUM_CLIENTS = 16


@goal(9, "Departures")
def departures(scale: Scale) -> list[Figure]:
    chance = random.Random(0)
    with service(max_running=4) as running:
        with running.connect() as connection:  # the first one to come waits for what is made once
            _send(connection, "/generate", 1, "warm")
            connection.recv(65536)
        milliseconds = [_depart(running, chance, number) for number in scale.each(range(scale.of(60, 2000)))]
        conserved = nothing_unaccounted(running)
    return [
        at_most(f"p99 until the slot of {len(milliseconds):,} who left was free", FREE_MS, percentile(milliseconds, 99), "ms"),
        exactly("prompt tokens computed for those who left the queue", 0, _prefilled_for_the_gone(scale.of(10, 100))),
        conserved,
    ]


def _depart(running: ServiceProcess, chance: random.Random, number: int) -> float:
    """Come with a request, stay for a moment, and leave; milliseconds until nothing of it is inside."""
    path = chance.choice(["/generate", "/generate_stream"])
    with running.connect() as connection:
        _send(connection, path, 900, f"{number} " + "word after word " * chance.randrange(60))
        time.sleep(chance.expovariate(1 / 0.02))
    return 1000 * until(lambda: not running.num_inside())


def _prefilled_for_the_gone(num_queued: int) -> int:
    """While all slots are taken, for as long as it takes, others come with long prompts, wait, and go."""
    slow = {"max_running": 4, "max_waiting": num_queued, "max_wait_seconds": 0, "fake_step_seconds": 0.1}
    with service(module=FAKE_MODEL, **slow) as running, ExitStack() as stack:
        for number in range(4):
            _send(stack.enter_context(running.connect()), "/generate_stream", 1000, f"{number}")
        until(lambda: running.metrics()["gpt2_slots_used"] == 4 and not running.metrics()["gpt2_requests_waiting"])
        until(lambda: running.metrics()["gpt2_prompt_tokens_total"] >= 4)
        before = running.metrics()["gpt2_prompt_tokens_total"]
        with ExitStack() as queued:
            for number in range(num_queued):
                _send(queued.enter_context(running.connect()), "/generate", 10, f"gone {number} " * 50)
            until(lambda: running.metrics()["gpt2_requests_waiting"] == num_queued)
        until(lambda: not running.metrics()["gpt2_requests_waiting"])
        stack.close()
        until(lambda: not running.num_inside())
        return round(running.metrics()["gpt2_prompt_tokens_total"] - before)


def _send(connection: socket.socket, path: str, num_new: int, prompt: str) -> None:
    body = json.dumps({"inputs": prompt, "parameters": {"max_new_tokens": num_new, "ignore_eos": True}}).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    connection.sendall(head.encode() + body)


@goal(11, "Deadlines")
def deadlines(scale: Scale) -> list[Figure]:
    num_requests = scale.of(100, 1000)
    with service(max_running=4) as running:
        answers = asyncio.run(_with_deadlines(running, num_requests))
        metrics, conserved = running.metrics(), nothing_unaccounted(running)
        steps = metrics["gpt2_step_seconds_sum"] / metrics["gpt2_step_seconds_count"]
    overshoots = [1000 * (seconds - limit) for limit, seconds, status, _ in answers if status == 504]
    others = [status for _, _, status, _ in answers if status not in (200, 429, 504)]
    late = [total for limit, _, status, total in answers if status == 200 and total > limit]
    return [
        at_most(
            f"p99 beyond the deadline of {len(overshoots)} that passed", 1000 * steps + SLACK_MS, percentile(overshoots, 99), "ms"
        ),
        exactly("complete answers after their deadline", 0, len(late)),
        exactly("answers of another kind", 0, len(others)),
        exactly("of those that expired, counted as such", len(overshoots), round(_expired(metrics))),
        conserved,
    ]


def _expired(metrics: dict[str, float]) -> float:
    return metrics['gpt2_requests_total{outcome="expired",route="/generate"}']


async def _with_deadlines(running: ServiceProcess, num_requests: int) -> list[tuple[float, float, int, float]]:
    """Of each request its deadline, when the answer came, with which status, and after what time by the service's own clock."""
    chance = random.Random(0)
    questions = iter([(0.005 * 100 ** chance.random(), chance.randrange(1, 600)) for _ in range(num_requests)])
    answers: list[tuple[float, float, int, float]] = []
    async with httpx.AsyncClient(base_url=running.url, timeout=PATIENCE_SECONDS) as client:

        async def ask() -> None:
            for limit, num_new in questions:
                parameters = {"max_new_tokens": num_new, "ignore_eos": True, "timeout_seconds": limit}
                started = time.perf_counter()
                answer = await client.post("/generate", json={"inputs": "a", "parameters": parameters})
                seconds = time.perf_counter() - started
                total = float(answer.headers.get("x-total-time", 0)) / 1000
                answers.append((limit, seconds, answer.status_code, total))

        await asyncio.gather(*(ask() for _ in range(NUM_CLIENTS)))
    return answers
