"""Kernels that go wrong."""

import numpy as np

import model.native.self_test
from model.native.runner import NativeRunner
from model.weights import Weight


def spoil_kernels(monkeypatch, wrong):
    """Kernels that are not the scalar ones go wrong by what `wrong` does to the weights (float32) of the tiny network."""

    class Spoilt(NativeRunner):
        kernels = property(lambda runner: runner.wanted)

        def __init__(self, config, weights, num_slots, precision, num_threads, kernels):
            self.wanted = kernels
            if kernels != "scalar":
                values = weights["h.1.mlp.c_proj.weight"].values.copy()
                wrong(values)
                weights = weights | {"h.1.mlp.c_proj.weight": Weight(values, "F32", False)}
            super().__init__(config, weights, num_slots, precision, num_threads, kernels)

    monkeypatch.setattr(model.native.self_test, "NativeRunner", Spoilt)


def by_a_bit(values):
    values[3, 5] = np.nextafter(values[3, 5], np.float32(9))


def by_a_sign(values):
    values *= -1
