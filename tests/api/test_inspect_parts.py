"""The lane and what stands before it, where only a child that is none shows the order of things: beginnings, ends, departures."""

import asyncio
import errno
import subprocess
import threading
from types import SimpleNamespace

import httpx
import orjson
import pytest

from app.errors import InspectionFailed
from app.inspection import child as children
from app.inspection.lane import Lane
from app.metrics import Metrics
from app.schemas.inspection import KINDS

PATH = "/v1/inspect"
BODY = {"prompt": "The old man", "max_new_tokens": 2}
PATIENCE_SECONDS = 60  # ends a test that would hang


class Child:
    """Answers at once, or when it is let; keeps what it is told."""

    def __init__(self):
        self.asked, self.abandoned, self.held, self.is_alive, self.is_closed = [], [], [], True, False
        self.others_generate = False
        self.may_answer = threading.Event()
        self.may_answer.set()

    def wait_until_ready(self, seconds):
        if not self.is_alive:
            raise InspectionFailed("it was killed")

    def ask(self, number, message):
        self.asked.append(number)
        assert self.may_answer.wait(PATIENCE_SECONDS)
        if not self.is_alive:
            raise InspectionFailed("it was killed")
        return message

    def abandon(self, number):
        self.abandoned.append(number)

    def hold(self, is_held):
        self.held.append(is_held)

    def kill(self):
        self.is_alive = False
        self.may_answer.set()

    def close(self):
        self.kill()
        self.is_closed = True


@pytest.fixture
def child():
    return Child()


@pytest.fixture
def new_lane(child):
    """To be called on the event loop."""
    return lambda new_child=lambda: child: Lane(SimpleNamespace(), new_child, Metrics(), lambda: child.others_generate)


async def until(condition):
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not condition():  # noqa: ASYNC110  of a thread, which sets no event of the loop
            await asyncio.sleep(0.01)


def test_who_leaves_before_its_request_is_passed_on_abandons_that_one_and_no_other(new_lane, child):
    async def scene():
        lane, gate = new_lane(), threading.Event()
        await lane.ask({})
        lane._thread.submit(gate.wait, PATIENCE_SECONDS)  # the thread has yet to come to the next request
        leaving = asyncio.create_task(lane.ask({}))
        await asyncio.sleep(0)
        await until(lambda: lane._number == 2)
        leaving.cancel()
        await until(lambda: child.abandoned)
        assert child.asked == [1]
        gate.set()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        await lane.close()

    asyncio.run(scene())
    assert (child.asked, child.abandoned) == ([1, 2], [2])


def test_an_inspection_is_held_back_while_the_service_generates(new_lane, child):
    async def scene():
        lane = new_lane()
        child.may_answer.clear()
        asking = asyncio.create_task(lane.ask({}))
        await until(lambda: child.held == [False])
        child.others_generate = True
        await until(lambda: child.held == [False, True])
        child.others_generate = False
        await until(lambda: child.held == [False, True, False])
        child.may_answer.set()
        await asking
        await lane.close()

    asyncio.run(scene())


def test_who_waits_when_the_lane_is_closed_is_told_so(new_lane, child):
    async def scene():
        lane = new_lane()
        child.may_answer.clear()
        asking = [asyncio.create_task(lane.ask({})) for _ in range(3)]
        await until(lambda: child.asked)
        await lane.close()
        return await asyncio.gather(*asking, return_exceptions=True)

    assert [type(result) for result in asyncio.run(scene())] == [InspectionFailed] * 3
    assert child.is_closed


def test_a_process_that_is_about_to_be_when_the_lane_is_closed_is_ended(new_lane, child):
    entered, may_start = threading.Event(), threading.Event()

    def new_child():
        entered.set()
        assert may_start.wait(PATIENCE_SECONDS)
        return child

    async def scene():
        lane = new_lane(new_child)
        asking = asyncio.create_task(lane.ask({}))
        await until(entered.is_set)
        closing = asyncio.create_task(lane.close())
        await asyncio.sleep(0.05)
        may_start.set()
        await closing
        return await asyncio.gather(asking, return_exceptions=True)

    (result,) = asyncio.run(scene())
    assert isinstance(result, InspectionFailed)
    assert child.is_closed
    assert child.asked == []


def test_a_process_that_cannot_be_started_is_an_inspection_that_failed(tmp_path, monkeypatch):
    def no_memory(*_, **__):
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    monkeypatch.setattr(subprocess, "Popen", no_memory)
    with pytest.raises(InspectionFailed, match="cannot be started: Cannot allocate memory"):
        children.Child(tmp_path, 1)


def test_narrow_pipes_do(start_server, monkeypatch):
    """What an account may have of them is bounded, and root may bound it lower for all."""

    def refuse(*_):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(children.fcntl, "fcntl", refuse)
    assert httpx.post(start_server().url + PATH, json=BODY, timeout=120).status_code == 200


def test_what_may_have_100_000_numbers_is_not_read_on_the_event_loop(client, monkeypatch):
    on_loop = []

    def watch(name):
        module = "app.api.inspect"
        original = getattr(__import__(module, fromlist=[name]), name)

        def watched(*arguments):
            on_loop.append((name, asyncio._get_running_loop() is not None))
            return original(*arguments)

        monkeypatch.setattr(f"{module}.{name}", watched)

    for name in ("ablations_of", "request_of", "check_all"):
        watch(name)
    ablation = {"kind": "patch", "name": "blocks.0.hook_resid_pre", "positions": [0], "values": [[0.5] * 100]}
    assert client.post(PATH, json=BODY | {"ablations": [ablation], "estimate": True}).status_code == 200
    assert on_loop == [("ablations_of", False), ("request_of", False), ("check_all", False)]


def test_a_number_of_any_length_can_be_passed_on():
    values = KINDS["patch"].model_validate({"kind": "patch", "name": "hook_embed", "values": [[10**30, None, 1]]}).values
    assert orjson.loads(orjson.dumps(values)) == [[1e30, None, 1.0]]


LARGE = {"prompt": [5] * 700, "names": ["blocks.*.attn.hook_pattern", "blocks.*.attn.hook_attn_scores"], "summaries": []} | {
    "max_new_tokens": 0, "compare_served": False, "format": "safetensors",
}  # fmt: skip


@pytest.mark.row("inspect.queue_full")
def test_answers_that_nobody_reads_are_bounded(server, client, monkeypatch, eventually):
    unsent = "gpt2_inspections_unsent_bytes"
    with client.stream("POST", PATH, json=LARGE) as response:
        pieces = response.iter_raw()  # dropped, it would close the connection
        next(pieces)
        assert server.metric(unsent) == int(response.headers["content-length"]) > 16 << 20
        assert httpx.post(server.url + PATH, json=BODY, timeout=120).status_code == 200, "there is room for more"
        monkeypatch.setattr("app.inspection.unsent.MAX_UNSENT_BYTES", 16 << 20)
        rejected = server.metric("gpt2_rejected_total", reason="inspections_full")
        refused = httpx.post(server.url + PATH, json=BODY, timeout=120)
        assert server.metric("gpt2_rejected_total", reason="inspections_full") == rejected + 1
    assert refused.status_code == 429
    assert 1 <= int(refused.headers["retry-after"]) <= 60
    assert f"not read yet, the limit is {16 << 20}" in refused.json()["error"]["message"]
    eventually(lambda: server.metric(unsent) == 0)
    assert httpx.post(server.url + PATH, json=BODY, timeout=120).status_code == 200
