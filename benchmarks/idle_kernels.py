"""CUDA's runner without anything that computes, on a CPU: what is left is what the host does to launch a step and to read it.

But for the calls of CUDA itself: two copies, an event, and a replay a step, each some microseconds a launch.
"""

import time
from collections.abc import Callable

import torch

from model.batch import Chunk, Draw, ForwardBatch, SamplingParams
from model.config import GPT2Config
from model.cuda.graphs import Captured
from model.cuda.kernel_set import TWINS
from model.cuda.records import Field, Status
from model.cuda.runner import CudaRunner
from model.cuda.step import DeviceStep
from model.gpt2 import GPT2

# A vocabulary and a context as GPT-2's; of the network nothing runs.
CONFIG = GPT2Config(vocab_size=50_257, n_positions=1024, n_embd=64, n_layer=1, n_head=1, eos_token_ids=(50_256,))
NUM_LAUNCHES = 60


class IdleGraphs:
    """In place of captured graphs: a draw gives the same token in all steps, and nothing else is done."""

    def __init__(self, step: DeviceStep) -> None:
        self._step = step

    def run(self, key: Captured, function: Callable[[int], None]) -> None:
        if key.name == "draw":
            output, num_left = self._step.output(key.size), self._step.records[: key.size, Field.NUM_LEFT]
            output[:, 0], output[:, 1] = 262, 0
            output[:, 2] = (torch.arange(len(output))[:, None] < num_left) * int(Status.DRAWN)


def launch_microseconds(num_sequences: int, num_steps: int) -> float:
    """Processor time a token of launching steps in which all decode, and of reading what they drew; a median."""
    runner = CudaRunner(GPT2(CONFIG), num_sequences, torch.device("cpu"), torch.float32, TWINS)
    runner._graphs = IdleGraphs(runner.step)
    params = [SamplingParams(temperature=0.8, top_p=0.9).of_sample(i) for i in range(num_sequences)]
    taken = []
    for position in range(NUM_LAUNCHES):
        draws = [Draw(0, p, 1, end_ids=(50_256,), max_new=NUM_LAUNCHES) for p in params]
        batch = ForwardBatch(tuple(Chunk(i, position, (262,), (draw,)) for i, draw in enumerate(draws)), num_steps)
        started = time.process_time()
        runner.launch(batch).collect()
        taken.append(time.process_time() - started)
    return sorted(taken)[NUM_LAUNCHES // 2] / (num_sequences * num_steps) * 1e6
