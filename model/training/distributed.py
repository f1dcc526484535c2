"""The processes that train together: one alone, or those that `torchrun` started."""

import atexit
import gc
import os
import re
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist

# Its functions' defaults are the group that stands when it is imported, by PyTorch's compiler if not here: see _leave_processes.
import torch.distributed.nn.functional
from torch import Tensor

from model.training.errors import TrainingError

Shared = TypeVar("Shared")

# The others wait while the first process tokenises the text; torchrun ends them if it dies.
MAX_WAIT = timedelta(hours=12)


@dataclass(frozen=True, slots=True)
class Processes:
    """This process's rank among `num`; sums and decisions over all of them."""

    rank: int = 0
    num: int = 1

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def sum(self, value: Tensor) -> Tensor:
        """The sum over all processes, in each of them; `value` itself is changed."""
        if self.num > 1:
            dist.all_reduce(value)
        return value

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any process: all of them stop at the same step."""
        return bool(self.sum(torch.tensor(int(flag))).item()) if self.num > 1 else flag

    def agree(self, value: Shared) -> Shared:
        """The first process's value, in each of them."""
        values = [value]
        if self.num > 1:
            dist.broadcast_object_list(values, device=torch.device("cpu"))
        return values[0]

    def wait(self) -> None:
        """Until all processes have come here."""
        if self.num > 1:
            dist.barrier()


def join_processes() -> Processes:
    """Meet the other processes, if `torchrun` started this one: over gloo, and with GPUs over NCCL for what lies in them."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return Processes()
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        dist.init_process_group("cpu:gloo,cuda:nccl", timeout=MAX_WAIT)
    else:
        dist.init_process_group("gloo", timeout=MAX_WAIT)
    atexit.register(_leave_processes)
    return Processes(dist.get_rank(), dist.get_world_size())


def _leave_processes() -> None:
    """Leave no thread of gloo's behind: one that lets go of a tensor while Python ends aborts the process.

    The threads end with the last reference to the group. DistributedDataParallel has one, and lies in a cycle.
    """
    dist.destroy_process_group()
    gc.collect()


def training_device(name: str | None) -> torch.device:
    """The device named, or this process's GPU if there is one, or the CPU; raises TrainingError for one that is not there."""
    wanted = name or ("cuda" if torch.cuda.is_available() else "cpu")
    if not re.fullmatch(r"cpu|cuda(:\d+)?", wanted):
        raise TrainingError(f"--device {wanted}: cpu, cuda and cuda:N are known")
    device = torch.device(wanted)
    if device.type == "cuda" and (device.index or 0) >= (count := torch.cuda.device_count()):
        raise TrainingError(f"--device {wanted}: GPUs to be seen here: {count}; --device cpu works everywhere")
    return device
