"""A step's results on their way from device to host, which nobody waits for before they are read."""

import torch
from torch import Tensor


class Arriving:
    """A copy of a tensor on its way to the host.

    On CUDA it goes to pinned memory behind the work that was asked for before it; reading waits for that work and for nothing that
    was asked for later.
    """

    def __init__(self, values: Tensor) -> None:
        self._host = torch.empty(values.shape, dtype=values.dtype, pin_memory=values.is_cuda)
        self._host.copy_(values, non_blocking=values.is_cuda)
        self._arrived: torch.cuda.Event | None = None
        if values.is_cuda:
            self._arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._arrived.record(torch.cuda.current_stream(values.device))

    def read(self) -> Tensor:
        if self._arrived is not None:
            self._arrived.synchronize()
        return self._host


class Download:
    """Collect tensors with `add`, `send` them once, in one copy, then read each on the host: `download[place]`, a list of rows.

    They travel as float64, which holds token ids, flags and float32 exactly.
    """

    def __init__(self) -> None:
        self._added: list[Tensor] = []
        self._arriving: Arriving | None = None

    def add(self, values: Tensor) -> int:
        """The place at which the values (N, W) will be found."""
        self._added.append(values)
        return len(self._added) - 1

    def send(self) -> None:
        self._arriving = Arriving(torch.cat([part.double().flatten() for part in self._added]))

    def __getitem__(self, place: int) -> list[list[float]]:
        assert self._arriving is not None, "results are on their way only after send()"
        start, shape = sum(part.numel() for part in self._added[:place]), self._added[place].shape
        rows: list[list[float]] = self._arriving.read()[start : start + shape.numel()].view(shape).tolist()
        return rows
