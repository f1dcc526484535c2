"""The kernels' self-test: held against the scalar ones on a tiny built-in network, they must give the same bits."""

import numpy as np
import pytest

from model.native.library import Precision
from model.native.runner import NativeRunner
from model.native.self_test import CONFIG, SelfTestFailed, built_in_weights, check_kernels
from tests.model.native.spoilt import by_a_bit, by_a_sign, spoil_kernels

native = pytest.mark.usefixtures("needs_native")


def test_the_built_in_network_is_the_same_everywhere():
    weights = built_in_weights()
    assert {name: weight.values.shape for name, weight in weights.items()} == CONFIG.parameter_shapes
    assert [float(x).hex() for x in weights["wte.weight"].values[0, :2]] == ["0x1.8882a00000000p-3", "-0x1.1876200000000p-5"]
    assert all(np.abs(weight.values).max() <= 1.25 for weight in weights.values())


@native
@pytest.mark.parametrize("precision", Precision)
def test_kernels_that_compute_as_the_scalar_ones_do_pass(precision):
    check_kernels(precision, 2, "auto")
    check_kernels(precision, 2, "scalar")


@native
@pytest.mark.parametrize("precision", [Precision.FLOAT32, Precision.INT8])
def test_kernels_that_differ_from_the_scalar_ones_are_found_out(monkeypatch, precision):
    spoil_kernels(monkeypatch, by_a_bit if precision is Precision.FLOAT32 else by_a_sign)
    with pytest.raises(SelfTestFailed, match=f"the self-test of the auto kernels in {precision.label} failed, .* from scalar"):
        check_kernels(precision, 2, "auto")


@native
def test_kernels_of_another_arithmetic_need_only_come_near(monkeypatch):
    monkeypatch.setattr(NativeRunner, "arithmetic", property(lambda runner: runner.kernels))
    spoil_kernels(monkeypatch, by_a_bit)
    check_kernels(Precision.BFLOAT16, 2, "auto")
    spoil_kernels(monkeypatch, by_a_sign)
    with pytest.raises(SelfTestFailed):
        check_kernels(Precision.BFLOAT16, 2, "auto")
