"""Kernels run on the card where there is one, else in the interpreter of Triton, which has to be told before they are imported."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
if DEVICE.type == "cpu":
    os.environ.setdefault("TRITON_INTERPRET", "1")

interpreter = pytest.importorskip("triton.runtime.interpreter", reason="Triton is not installed")
_patch_lang_tensor = interpreter._patch_lang_tensor


def _patch_with_an_index(tensor, scope):
    """A loop's bound is an array of one number, which NumPy 2.4 no longer takes for an integer."""
    _patch_lang_tensor(tensor, scope)
    scope.set_attr(tensor, "__index__", lambda self: self.handle.data.item())


interpreter._patch_lang_tensor = _patch_with_an_index


class _Builder(interpreter.InterpreterBuilder):
    """bfloat16 as on a card: the interpreter cuts a number's bits off instead of rounding, and multiplies the bits as integers."""

    def cast_impl(self, src, dst_type):
        types = interpreter.tl.bfloat16, interpreter.tl.float32
        if (dst_type.scalar, src.dtype.scalar) != types:
            return super().cast_impl(src, dst_type)
        rounded = torch.from_numpy(np.array(src.data)).bfloat16()
        return interpreter.TensorHandle(rounded.view(torch.uint16).numpy(), dst_type.scalar)

    def create_dot(self, a, b, d, input_precision, max_num_imprecise_acc):
        if a.dtype.scalar == interpreter.tl.bfloat16:
            a, b = (self.cast_impl(side, interpreter.tl.float32) for side in (a, b))
        # NumPy's own product is BLAS's, whose sums go by another order for some rows of a matrix on Zen's and Haswell's cores.
        products = a.data.astype(np.float32)[..., None] * b.data.astype(np.float32)[..., None, :, :]
        return interpreter.TensorHandle(products.sum(axis=-2) + d.data, d.dtype.scalar)


interpreter.interpreter_builder.__class__ = _Builder


@pytest.hookimpl(tryfirst=True)  # before -m chooses
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """On a card `-m gpu` takes these tests too. The hook is given those of all directories."""
    for item in items:
        if DEVICE.type == "cuda" and item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.gpu)


@pytest.fixture
def device() -> torch.device:
    return DEVICE


@pytest.fixture(autouse=True)
def _arithmetic_of_ieee() -> Iterator[None]:
    """What a card computes in silence NumPy, which the interpreter computes with, would warn of."""
    with np.errstate(all="ignore"):
        yield
