"""What the tests of the native step share: the kinds that this machine has."""

from collections.abc import Iterator

import pytest
import torch

from model.native.library import NativeUnavailable, available_kernels
from tests.model.native.kinds import KINDS, Kind, missing


@pytest.fixture(scope="session")
def available() -> tuple[str, ...]:
    """The kernels that this machine can run, the widest first; without any there is nothing to test."""
    try:
        return available_kernels()
    except NativeUnavailable as error:
        pytest.skip(str(error))


@pytest.fixture(params=KINDS.values(), ids=KINDS)
def kind(request: pytest.FixtureRequest, available: tuple[str, ...]) -> Kind:
    if reason := missing(request.param):
        pytest.skip(reason)
    return request.param


@pytest.fixture(autouse=True, scope="module")
def one_thread_of_torchs() -> Iterator[None]:
    """For the few small tensors here: two threads wait for each other, milliseconds each time, where others use the cores."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(num_threads)
