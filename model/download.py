"""All of a step's results in one copy from device to host, which nobody waits for before they are read."""

import torch
from torch import Tensor


class Download:
    """Collect tensors with `add`, `send` them once, then read each on the host: `download[place]`, a list of rows.

    They travel as float64, which holds token ids, flags and float32 exactly. On CUDA the copy goes to pinned memory behind the work
    that was asked for before it; reading waits for that work and for nothing that was asked for later.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._added: list[Tensor] = []
        self._host: Tensor | None = None
        self._arrived: torch.cuda.Event | None = None

    def add(self, values: Tensor) -> int:
        """The place at which the values (N, W) will be found."""
        self._added.append(values)
        return len(self._added) - 1

    def send(self) -> None:
        values = torch.cat([part.double().flatten() for part in self._added])
        if self._device.type != "cuda":
            self._host = values
            return
        self._host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
        self._host.copy_(values, non_blocking=True)
        self._arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
        self._arrived.record(torch.cuda.current_stream(self._device))

    def __getitem__(self, place: int) -> list[list[float]]:
        assert self._host is not None, "results are on their way only after send()"
        if self._arrived is not None:
            self._arrived.synchronize()
        start, shape = sum(part.numel() for part in self._added[:place]), self._added[place].shape
        rows: list[list[float]] = self._host[start : start + shape.numel()].view(shape).tolist()
        return rows
