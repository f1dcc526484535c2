"""A device's own clock, and its dtypes by name. Imports no kernels."""

import statistics
import time
from collections.abc import Callable

import torch


def dtype_of(name: str) -> torch.dtype:
    dtype = getattr(torch, name)
    assert isinstance(dtype, torch.dtype)
    return dtype


def median_seconds(run: Callable[[], object], device: torch.device, rounds: int, calls: int = 1) -> float:
    """Of one call: the median of `rounds` times so many calls, after one that is not measured."""
    run()
    return statistics.median(_seconds(run, device, calls) for _ in range(rounds)) / calls


def _seconds(run: Callable[[], object], device: torch.device, calls: int) -> float:
    """By the device's own events on CUDA, where a call returns before its work is done."""
    if device.type == "cpu":
        started = time.perf_counter()
        for _ in range(calls):
            run()
        return time.perf_counter() - started
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    for _ in range(calls):
        run()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end)) / 1000
