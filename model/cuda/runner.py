"""CudaRunner: a Runner whose steps are CUDA graphs of few kernels. Owns the device's state; knows no text and no requests.

The host says once what a launch runs, and the device goes on by itself from step to step. A row's bits depend on its own sequence
alone: not on the other rows, the cuts of its prompt, its slot, how many steps a launch has, or whether its prefix was copied.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import TypeVar

import torch

from model.batch import Capabilities, ForwardBatch, Launched
from model.cuda.buckets import bucket_of, buckets
from model.cuda.graphs import Captured, Graphs
from model.cuda.kernel_set import KernelSet
from model.cuda.kernels.log_sums import log_probabilities
from model.cuda.network import for_kernels
from model.cuda.pack import RecordPacker
from model.cuda.plan import Pass, WantedDraw, WantedScore, can_go_on, check, plan_passes
from model.cuda.records import SIZE, Field
from model.cuda.results import CheckedEnds, DrawnBlock, ScoredBlock, UnderWay
from model.cuda.step import MAX_ROWS, MAX_STEPS, DeviceStep, split_rows
from model.device_errors import translated_errors
from model.download import Arriving, Download
from model.gpt2 import GPT2
from model.sampler import DrawRow, Sampler, SamplingPlan, ScoringPlan, score
from model.steps import StepByStep
from model.upload import Upload

MAX_DRAWS = 1024  # of a chunk; they are drawn in blocks
# Steps behind a launch's first, several in one graph: between two graphs the device waits, and other threads may take the
# interpreter's lock from the one that launches.
STEPS_OF_GRAPHS = {f"{num} steps": num for num in (8, 4, 2, 1)}

Value = TypeVar("Value")


class CudaRunner:
    """A Runner on a CUDA device; on a CPU the same, kernel by kernel, for tests.

    `kernels` are Triton's, or their twins. The network is copied to the device in `dtype`. Raises MemoryError if there is no room,
    there or in a step, and RunnerLost once an error has made the device unusable for this process.
    """

    capabilities = Capabilities(exact_at_any_cut=True, max_draws=MAX_DRAWS, num_steps=MAX_STEPS, is_asynchronous=True)

    def __init__(self, model: GPT2, num_slots: int, device: torch.device, dtype: torch.dtype, kernels: KernelSet) -> None:
        self.config, self.device, self._num_slots = model.config, device, num_slots
        with translated_errors(), torch.inference_mode():
            self.step = DeviceStep(for_kernels(model, device, dtype), kernels, num_slots)
        self._graphs = Graphs(device)
        self._next_steps = {name: partial(self._run_next_steps, num) for name, num in STEPS_OF_GRAPHS.items()}
        self._packer = RecordPacker(num_slots)
        self._sampler = Sampler(self.step.history, device)

    @property
    def num_slots(self) -> int:
        return self._num_slots

    @property
    def max_positions(self) -> int:
        return self.config.n_positions

    @property
    def vocab_size(self) -> int:
        return self.config.vocab_size

    @property
    def cache_bytes(self) -> int:
        return self.step.cache.data.nbytes

    def launch(self, batch: ForwardBatch) -> Launched:
        """Begin to run the chunks, all steps of them, and wait for nothing on the device; IndexError before anything is changed.

        Where a draw asks for what no record says, the device cannot go on alone: the first step is launched, the others run one by
        one when it is collected.
        """
        check(batch, self.num_slots, self.max_positions, self.vocab_size)
        if batch.num_steps > 1 and not can_go_on(batch.chunks, batch.num_steps, MAX_STEPS, MAX_ROWS, self.step.max_draws):
            return StepByStep(self, batch)
        with translated_errors(), torch.inference_mode():
            under_way = UnderWay(batch.chunks, [])
            for one in plan_passes(batch.chunks, MAX_ROWS):
                self._run_pass(one, batch.num_steps, under_way)
            return under_way

    def copy_prefix(self, source: int, target: int, length: int) -> None:
        with translated_errors(), torch.inference_mode():
            self.step.cache.copy_prefix(source, target, length)
            self.step.history.copy_prefix(source, target, length)

    def warm_up(self) -> None:
        """Compile and capture every size of a step, unless that has been done."""
        with translated_errors(), torch.inference_mode():
            self.step.records.zero_()
            for num_rows in buckets(MAX_ROWS):
                self._stage_rows(Pass(), num_rows)
                self._graphs.capture(Captured("forward", num_rows), self.step.forward)
            for num_draws in buckets(self.step.max_draws):
                self._stage_rows(Pass(), num_draws)
                self._graphs.capture(Captured("draw", num_draws), self.step.draw)
                for name, next_steps in self._next_steps.items():
                    self._graphs.capture(Captured(name, num_draws), next_steps)

    def _run_next_steps(self, num_steps: int, num_draws: int) -> None:
        for _ in range(num_steps):
            self.step.forward(num_draws)
            self.step.draw(num_draws)

    def _run_pass(self, one: Pass, num_steps: int, under_way: UnderWay) -> None:
        num_rows = bucket_of(len(one.token_ids))
        self._stage_rows(one, num_rows)
        self._graphs.run(Captured("forward", num_rows), self.step.forward)
        if one.ends:
            under_way.parts.append(self._check_ends(one.ends))
        for scores in _blocks(one.scores, self.step.max_draws):
            under_way.parts.append(self._score(scores))
        for draws in _blocks(one.draws, self.step.max_draws):
            under_way.parts.append(self._draw(draws, num_steps))

    def _stage_rows(self, one: Pass, num_rows: int) -> None:
        """Bring the pass's rows to the device, behind them padding, which runs in the scratch slot, and tiles of no rows."""
        flat, num_tiles = self.step.flat_rows(num_rows), len(self.step.rows(num_rows).tile_rows)
        host = torch.zeros(len(flat), dtype=torch.int32, pin_memory=flat.is_cuda)
        slots = [*one.slots, *[self.step.cache.scratch] * (num_rows - len(one.slots))]
        fields = one.token_ids, one.positions, slots, one.tile_rows, one.tile_sizes
        for field, values in zip(split_rows(host.numpy(), num_rows, num_tiles), fields, strict=True):
            field[: len(values)] = values
        flat.copy_(host, non_blocking=True)

    def _draw(self, draws: Sequence[WantedDraw], num_steps: int) -> DrawnBlock:
        num = bucket_of(len(draws))
        host = torch.empty(num, SIZE, dtype=torch.int64, pin_memory=self.step.records.is_cuda)
        without_record = self._packer(draws, num_steps, host.numpy())
        self.step.records[:num].copy_(host, non_blocking=True)
        output = self.step.output(num)[:num_steps].zero_()
        self._graphs.run(Captured("draw", num), self.step.draw)
        by_sampler, download = self._sample(without_record, draws)
        for name in _names_of_steps(num_steps - 1):
            self._graphs.run(Captured(name, num), self._next_steps[name])
        return DrawnBlock(draws, Arriving(output), by_sampler, download)

    def _sample(self, asking: list[int], draws: Sequence[WantedDraw]) -> tuple[dict[int, int], Download | None]:
        """Draw by PyTorch what no record can ask for, from the logits that are there."""
        if not asking:
            return {}, None
        upload, download = Upload(self.device), Download()
        rows = upload.ints(asking)
        plan = SamplingPlan([DrawRow(draws[i].slot, draws[i].length, draws[i].draw) for i in asking], upload)
        upload.send()
        logits = self.step.logits[upload[rows]]
        download.add(self._sampler.draw(logits, log_probabilities(logits, self.step.log_sums[upload[rows]]), plan, upload))
        download.send()
        return {i: place for place, i in enumerate(asking)}, download

    def _score(self, scores: Sequence[WantedScore]) -> ScoredBlock:
        num = bucket_of(len(scores))
        upload, download = Upload(self.device), Download()
        padding = num - len(scores)
        rows = upload.ints([wanted.row for wanted in scores] + [0] * padding)
        plan = ScoringPlan(
            [wanted.token_id for wanted in scores] + [0] * padding, [wanted.top_n for wanted in scores] + [0] * padding, upload
        )
        upload.send()
        records = torch.zeros(num, SIZE, dtype=torch.int64, device=self.device)
        records[:, Field.ROW] = upload[rows]
        download.add(score(log_probabilities(*self.step.head(records)), plan, upload))
        download.send()
        return ScoredBlock(scores, download)

    def _check_ends(self, ends: Sequence[tuple[int, int]]) -> CheckedEnds:
        upload, download = Upload(self.device), Download()
        rows = upload.ints(row for _, row in ends)
        upload.send()
        download.add(self.step.x[upload[rows]].isfinite().all(dim=-1, keepdim=True))
        download.send()
        return CheckedEnds(ends, download)


def _names_of_steps(num_steps: int) -> Iterator[str]:
    """The graphs that together make so many steps, the longest first."""
    for name, num in STEPS_OF_GRAPHS.items():
        while num_steps >= num:
            num_steps -= num
            yield name


def _blocks(values: Sequence[Value], size: int) -> Iterator[Sequence[Value]]:
    for start in range(0, len(values), size):
        yield values[start : start + size]
