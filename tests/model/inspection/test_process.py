"""The process that inspects: what it makes of a request, and that it stops computing what nobody waits for."""

import pytest

from model.inspection.messages import message_of, request_of
from model.inspection.process import Abandoned, Desk
from model.inspection.request import HeadAblation, InspectionRequest, Patch, Steering


class Inbox:
    """Says after so many looks that nobody waits any more."""

    def __init__(self):
        self.num_looks, self.last = 0, None

    def check(self):
        self.num_looks += 1
        if self.num_looks == self.last:
            raise Abandoned


@pytest.fixture
def inbox():
    return Inbox()


@pytest.fixture
def desk(tiny_checkpoint, inbox):
    return Desk(tiny_checkpoint, inbox)


def message(**fields):
    return {"request": message_of(InspectionRequest((1, 2, 3), **fields)), "served": None, "format": "json", "model": "tiny"}


def test_it_looks_before_each_block_of_each_token_whether_anybody_waits(desk, inbox):
    head, _ = desk.answer(message(max_new_tokens=5, ablations=(HeadAblation(0, 0),)))
    assert "error" not in head
    assert inbox.num_looks >= 1 + 2 * 2 * 5, "once before, then 2 runs of 2 blocks, for the prompt and 4 tokens at least"


def test_what_is_abandoned_on_its_way_is_answered_so_and_the_next_one_as_ever(desk, inbox):
    wanted = desk.answer(message(max_new_tokens=5))
    inbox.num_looks, inbox.last = 0, 4
    assert desk.answer(message(max_new_tokens=5)) == ({"error": "abandoned"}, b"")
    head, content = desk.answer(message(max_new_tokens=5))
    assert (head, content.partition(b'"seconds"')[0]) == (wanted[0], wanted[1].partition(b'"seconds"')[0])


def test_what_breaks_is_told_without_a_word_of_the_request(desk, monkeypatch):
    def break_down(request):
        raise ValueError(f"the prompt was {request.prompt}")

    monkeypatch.setattr(desk._inspector, "inspect", break_down)
    head, content = desk.answer(message())
    assert (head["error"], head["message"], content) == ("failed", "it broke by ValueError", b"")
    assert "break_down" in head["traceback"]
    assert "(1, 2, 3)" not in str(head)


def test_a_lack_of_memory_is_called_so(desk, monkeypatch):
    def allocate(request):
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 10 bytes")

    monkeypatch.setattr(desk._inspector, "inspect", allocate)
    assert desk.answer(message())[0]["message"] == "there is not enough memory for it"


def test_a_request_is_the_same_behind_its_message():
    request = InspectionRequest(
        (1, 2),
        names=("hook_embed",),
        positions=(0, -1),
        ablations=(
            HeadAblation((0, 1), None, "mean"),
            Patch("hook_embed", values=((1.0, None), (2.0, 3.0))),
            Steering("hook_embed", plus=(1,), minus=(2,), scale=0.5),
        ),
    )
    assert request_of(message_of(request)) == request


def test_a_large_request_is_not_copied_to_be_sent():
    patch = Patch("hook_embed", values=((1.0,) * 100,) * 2)
    sent = message_of(InspectionRequest((1, 2), ablations=(patch,)))
    assert sent["ablations"][0]["values"] is patch.values


@pytest.mark.parametrize("form", ["json", "safetensors"])
def test_it_looks_between_the_parts_of_an_answer_too(desk, inbox, monkeypatch, form):
    """Of the lens the answer has a text for each of thousands of tokens."""
    inspection = desk._inspector.inspect(InspectionRequest((1, 2, 3), ablations=(HeadAblation(0, 0),)))
    monkeypatch.setattr(desk._inspector, "inspect", lambda request: inspection)
    inbox.num_looks = 0
    assert "error" not in desk.answer(message() | {"format": form})[0]
    assert inbox.num_looks == 1 + 2 * (1 + 3) + 1, "once before, at each run and each of its streams, and before all is joined"
    inbox.num_looks, inbox.last = 0, 5
    assert desk.answer(message() | {"format": form}) == ({"error": "abandoned"}, b"")
