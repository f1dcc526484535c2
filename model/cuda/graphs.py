"""CUDA graphs: what a step launches, captured once for each size, so that the host asks for all of it at once."""

from collections.abc import Callable
from typing import NamedTuple

import torch


class Captured(NamedTuple):
    """Names a captured function, "forward", "draw" or both for some "steps", and its size."""

    name: str
    size: int


class Graphs:
    """Functions that launch kernels over tensors that stay where they are; without a capture they are called."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._graphs: dict[Captured, torch.cuda.CUDAGraph] = {}
        self._pool = torch.cuda.graph_pool_handle() if device.type == "cuda" else None

    def run(self, key: Captured, function: Callable[[int], None]) -> None:
        if (graph := self._graphs.get(key)) is not None:
            graph.replay()
        else:
            function(key.size)

    def capture(self, key: Captured, function: Callable[[int], None]) -> None:
        """Call it once, which compiles its kernels, then capture a second call; once a key, and never on a CPU."""
        if self._device.type != "cuda" or key in self._graphs:
            return
        function(key.size)
        graph = torch.cuda.CUDAGraph()
        # Other threads may go on with what they do on the device.
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            function(key.size)
        self._graphs[key] = graph
