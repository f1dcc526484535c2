"""All of a step's small inputs, integers and floats, in one copy from host to device."""

from array import array
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor


class Handle(NamedTuple):
    """Where values lie in an upload."""

    start: int
    stop: int
    is_float: bool

    def __bool__(self) -> bool:
        return self.stop > self.start


class Upload:
    """Collect values with `ints` and `floats`, `send` them once, then read each on the device: `upload[handle]`.

    Integers arrive as int64 and floats as float64, both (N,). On CUDA the copy is from pinned memory and does not wait.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._ints, self._floats = array("q"), array("d")
        self._sent: tuple[Tensor, Tensor] | None = None

    def ints(self, values: Iterable[int]) -> Handle:
        start = len(self._ints)
        self._ints.extend(values)
        return Handle(start, len(self._ints), is_float=False)

    def floats(self, values: Iterable[float]) -> Handle:
        start = len(self._floats)
        self._floats.extend(values)
        return Handle(start, len(self._floats), is_float=True)

    def send(self) -> None:
        num_ints = len(self._ints)
        pinned = self._device.type == "cuda"
        host = torch.empty(num_ints + len(self._floats), dtype=torch.int64, pin_memory=pinned)
        if num_ints:
            host[:num_ints] = torch.frombuffer(self._ints, dtype=torch.int64)
        if self._floats:
            host[num_ints:] = torch.frombuffer(self._floats, dtype=torch.int64)
        sent = host.to(self._device, non_blocking=pinned)
        self._sent = sent[:num_ints], sent[num_ints:].view(torch.float64)

    def __getitem__(self, handle: Handle) -> Tensor:
        assert self._sent is not None, "values are on the device only after send()"
        return self._sent[handle.is_float][handle.start : handle.stop]
