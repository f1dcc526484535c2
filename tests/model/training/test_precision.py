"""In which precision a run multiplies: by what was measured here, in all processes alike, and as it began when it goes on."""

import pytest
import torch

from model.training import precision
from model.training.distributed import Processes
from model.training.precision import Products, choose_bfloat16, compare_products, warn_of_slow_bfloat16

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def measured_anew():
    compare_products.cache_clear()
    yield
    compare_products.cache_clear()


def is_bfloat16(factors):
    return factors[0][0].dtype == torch.bfloat16


@pytest.fixture
def bfloat16_takes(monkeypatch):
    """Play a machine: so many seconds for bfloat16 where float32 takes one."""

    def play(*seconds):
        left = iter(seconds)
        monkeypatch.setattr(precision, "NUM_ROUNDS", len(seconds))
        monkeypatch.setattr(precision, "_seconds", lambda factors: next(left) if is_bfloat16(factors) else 1.0)

    return play


def test_bfloat16_is_taken_where_it_is_clearly_faster(bfloat16_takes):
    for seconds, chosen in ((0.4, True), (0.79, True), (0.9, False), (5.0, False)):
        compare_products.cache_clear()
        bfloat16_takes(seconds)
        lines = []
        assert choose_bfloat16(CPU, 64, Processes(), lines.append) == chosen
        assert lines == [
            f"matrices are multiplied in {'bfloat16, which' if chosen else 'float32: bfloat16'} takes {seconds:.1f} "
            "times as long as float32 here"
        ]


def test_a_moment_in_which_the_machine_was_busy_decides_nothing(bfloat16_takes):
    bfloat16_takes(9.0, 0.4, 7.0)
    assert compare_products(CPU, 64).bfloat16_pays


def test_it_is_measured_once_a_process(bfloat16_takes):
    bfloat16_takes(0.4)
    assert compare_products(CPU, 64) is compare_products(CPU, 64)


def test_all_processes_take_what_the_first_has_measured(bfloat16_takes):
    class Second(Processes):
        def agree(self, value):
            return Products(0.4)

    bfloat16_takes(5.0)
    assert choose_bfloat16(CPU, 64, Second(), lambda line: None)


def test_a_run_that_goes_on_in_slow_bfloat16_says_so(bfloat16_takes):
    lines = []
    bfloat16_takes(5.0)
    warn_of_slow_bfloat16(CPU, 64, lines.append)
    assert len(lines) == 1
    assert lines[0].startswith("this run began in bfloat16 and goes on in it, although that takes 5.0 times as long as float32")
    compare_products.cache_clear()
    bfloat16_takes(0.4)
    warn_of_slow_bfloat16(CPU, 64, lines.append)
    assert len(lines) == 1


def test_this_machine_is_measured_for_real():
    assert 0 < compare_products(CPU, 64).bfloat16_share < float("inf")
