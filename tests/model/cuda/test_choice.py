"""What a card computes in, and how many slots have room there: told in a line that an operator can act on."""

from importlib.metadata import version
from types import SimpleNamespace

import pytest
import torch

import model.cuda.choice
import model.torch_choice
from model.batch import RunnerLost
from model.checkpoint import open_checkpoint
from model.choice import ChoiceError, Wanted
from model.config import GPT2Config
from model.cuda.choice import choose_precision, choose_slots, max_slots
from model.cuda.kernel_set import EARLY, TRITON, TWINS, kernels_for
from model.cuda.self_test import SelfTestFailed
from model.torch_choice import choose_torch_runner
from tests.model.cuda.running import cuda_runner

CONFIG = GPT2Config(vocab_size=50_257, n_positions=1024, n_embd=768, n_layer=12, n_head=12, eos_token_ids=(50_256,))
OLD, NEW = ((7, 5), "Tesla T4"), ((9, 0), "NVIDIA H200")


@pytest.mark.parametrize(
    ("asked", "card", "dtype", "told"),
    [
        ("auto", NEW, torch.bfloat16, None),
        ("bfloat16", NEW, torch.bfloat16, None),
        ("float32", NEW, torch.float32, None),
        ("float32", OLD, torch.float32, None),
        ("auto", OLD, torch.float16, "Tesla T4 is too old for bfloat16, computing in float16"),
    ],
)
def test_a_card_computes_in_what_it_can(asked, card, dtype, told):
    lines: list[str] = []
    assert choose_precision(Wanted(dtype=asked), *card, lines.append) == dtype
    assert [line.startswith(told) for line in lines] == ([True] if told else [])


def test_bfloat16_on_a_card_that_is_too_old_for_it_is_refused():
    with pytest.raises(ChoiceError, match="Tesla T4 is too old for it; leave GPT2_DTYPE at auto"):
        choose_precision(Wanted(dtype="bfloat16"), *OLD, print)


def test_what_would_fit_is_named_where_the_slots_that_are_asked_for_do_not():
    most = max_slots(CONFIG, torch.bfloat16, 8 * 10**9)
    assert 100 < most < 200  # of 38 MB each, beside a quarter of a gigabyte of weights
    with pytest.raises(MemoryError, match=rf"8.0 GB of the card's memory are free; GPT2_MAX_RUNNING={most} would fit"):
        choose_slots(CONFIG, most + 1, torch.bfloat16, 8 * 10**9, print)
    assert choose_slots(CONFIG, most, torch.bfloat16, 8 * 10**9, print) == most


def test_weights_that_do_not_fit_at_all_are_refused():
    with pytest.raises(MemoryError, match=r"1.0 GB of the card's memory are free; the weights and one slot do not fit"):
        choose_slots(CONFIG, 0, torch.bfloat16, 10**9, print)


def test_who_asks_for_no_number_of_slots_gets_256_or_what_has_room():
    lines: list[str] = []
    assert choose_slots(CONFIG, 0, torch.bfloat16, 80 * 10**9, lines.append) == 256
    assert lines == []
    assert choose_slots(CONFIG, 0, torch.bfloat16, 4 * 10**9, lines.append) == max_slots(CONFIG, torch.bfloat16, 4 * 10**9) < 256
    assert len(lines) == 1


# ---- with or without Triton's kernels


@pytest.fixture
def card(monkeypatch):
    """A card that is not there: what is asked of it is answered, and what would compute on it says what was chosen."""

    def plug_in(capability=(9, 0), tested=None):
        answers = {"current_device": 0, "get_device_capability": capability, "get_device_name": "a card"}
        for name, answer in answers.items():
            monkeypatch.setattr(torch.cuda, name, lambda *_, answer=answer: answer)
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda *_: (80 * 10**9, 80 * 10**9))
        monkeypatch.setattr(
            model.torch_choice, "_plain", lambda _, wanted, device, dtype: ("plain", wanted.num_slots, device, dtype)
        )
        if tested is not None:
            monkeypatch.setattr(model.cuda.choice, "_tested_runner", tested)

    return plug_in


def choose(checkpoint, **wanted):
    lines: list[str] = []
    return choose_torch_runner(open_checkpoint(checkpoint), Wanted(device="cuda", **wanted), lines.append), lines


def raises(kind, message):
    """Anew every time: an exception that is kept keeps what was there when it was raised, a mapped checkpoint too."""

    def tested(*_):
        raise kind(message)

    return tested


def test_kernels_that_pass_their_test_compute(card, tiny_checkpoint):
    card(tested=lambda *_: cuda_runner(torch.device("cpu"), num_slots=4))
    chosen, lines = choose(tiny_checkpoint)
    assert (chosen.backend, chosen.kernels, chosen.dtype, chosen.arithmetic) == (
        "cuda",
        "triton",
        "bfloat16",
        f"triton-{version('triton')}-bfloat16-sm_90",
    )
    assert lines == ["testing the kernels; those that this machine has not compiled before take some seconds each"]


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (ImportError, "No module named 'triton'"),
        (SelfTestFailed, "tokens one by one have other bits than in a prompt"),
        (RuntimeError, "Failed to find C compiler"),
    ],
)
def test_where_they_fail_plain_pytorch_computes_and_a_line_says_why(card, tiny_checkpoint, kind, message):
    card(tested=raises(kind, message))
    chosen, lines = choose(tiny_checkpoint, num_slots=7)
    assert chosen == ("plain", 7, torch.device("cuda", 0), torch.bfloat16)
    assert lines[-1] == f"computing with plain PyTorch in place of Triton's kernels: {kind.__name__}: {message}"
    with pytest.raises(ChoiceError, match=r"kernels triton are asked for, but .*; leave GPT2_KERNELS at auto"):
        choose(tiny_checkpoint, kernels="triton")


def test_a_card_that_is_too_old_for_them_computes_by_plain_pytorch_in_float16(card, tiny_checkpoint):
    card(capability=(7, 5))
    chosen, lines = choose(tiny_checkpoint)
    assert chosen == ("plain", 32, torch.device("cuda", 0), torch.float16)
    assert "too old for bfloat16" in lines[0]
    assert lines[-1].endswith("they need compute capability 8.0 or newer, and 7.5 is here")


def test_kernels_start_early_on_a_card_that_knows_how(card):
    card(capability=(9, 0))
    assert kernels_for(torch.device("cuda", 0)) is EARLY
    card(capability=(8, 9))
    assert kernels_for(torch.device("cuda", 0)) is TRITON
    assert kernels_for(torch.device("cpu")) is TWINS


def test_what_serves_are_the_kernels_for_the_card(card, monkeypatch, tiny_checkpoint):
    built = []
    card(capability=(12, 0))
    monkeypatch.setattr("model.cuda.self_test.check_runner", lambda *_: None)
    monkeypatch.setattr(
        "model.cuda.runner.CudaRunner",
        lambda *arguments: built.append(arguments) or SimpleNamespace(warm_up=lambda: None, cache_bytes=0),
    )
    choose(tiny_checkpoint)
    ((*_, kernels),) = built
    assert kernels is EARLY


def test_plain_pytorch_is_taken_at_its_name(card, tiny_checkpoint):
    card(tested=raises(AssertionError, "not to be tried"))
    chosen, lines = choose(tiny_checkpoint, kernels="torch")
    assert (chosen[0], lines) == ("plain", [])


def test_a_card_that_the_kernels_made_unusable_is_no_place_for_plain_pytorch(card, monkeypatch, tiny_checkpoint):
    def lose(*_):
        raise RunnerLost("CUDA error: an illegal memory access was encountered")

    card()
    monkeypatch.setattr("model.cuda.self_test.check_runner", lose)
    monkeypatch.setattr("model.cuda.runner.CudaRunner", lambda *_: SimpleNamespace(warm_up=lambda: None))
    with pytest.raises(ChoiceError, match=r"kernels failed on this card, .*illegal memory access.*; set GPT2_KERNELS to torch"):
        choose(tiny_checkpoint)


def test_no_memory_is_no_failure_of_the_kernels(card, tiny_checkpoint):
    card(tested=raises(MemoryError, "CUDA out of memory"))
    with pytest.raises(MemoryError, match="CUDA out of memory"):
        choose(tiny_checkpoint)
