"""How fast ours computes: prompts, decoding by rows, by context and by what is asked of the draws, and a step by its kernels.

Sequences of random tokens, in the middle of their decoding as long as the context. A step's tokens are told to the host and come
back in the next call, as in the service; what plans them there and makes text of them is left out.
"""

import argparse
import random
import statistics
import time
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks.gpu.on_device import dtype_of
from benchmarks.gpu.results import Results, add_checkpoint, add_dtype, results_of, rounded, stage_parser
from benchmarks.gpu.runner import PREFILL_CHUNK, load
from model.batch import Chunk, Draw, ForwardBatch, Runner, SampledToken, SamplingParams, StepOutput
from model.config import GPT2Config

PROMPTS_AT_ONCE = 8  # of 224 tokens: 1,792 rows in a pass
KINDS = {
    "greedy": SamplingParams(),
    "sampled": SamplingParams(temperature=1.0),
    "top_p": SamplingParams(temperature=0.8, top_p=0.9),
    "all filters": SamplingParams(temperature=0.8, top_k=50, top_p=0.9, min_p=0.01, typical_p=0.95),
    "penalties": SamplingParams(temperature=0.8, repetition_penalty=1.1, frequency_penalty=0.1, presence_penalty=0.1),
}


class Sequences:
    """Sequences of `length` random tokens each in a runner's first slots."""

    def __init__(self, runner: Runner, num: int, length: int) -> None:
        self._runner, self._length = runner, length
        draw = random.Random(0)
        self._prompts = [tuple(draw.choices(range(runner.vocab_size), k=length)) for _ in range(num)]

    def prefill(self, at_once: int = PROMPTS_AT_ONCE) -> list[float]:
        """Seconds of each call, the last of a prompt's calls draws a token."""
        seconds = []
        for first in range(0, len(self._prompts), at_once):
            slots = range(first, min(first + at_once, len(self._prompts)))
            for start in range(0, self._length, PREFILL_CHUNK):
                batch = ForwardBatch(tuple(self._chunk(slot, start) for slot in slots))
                begin = time.perf_counter()
                _checked(self._runner.launch(batch).collect())
                seconds.append(time.perf_counter() - begin)
        return seconds

    def _chunk(self, slot: int, start: int) -> Chunk:
        token_ids = self._prompts[slot][start : start + PREFILL_CHUNK]
        is_last = start + PREFILL_CHUNK >= self._length
        return Chunk(slot, start, token_ids, (Draw(len(token_ids) - 1, SamplingParams()),) if is_last else ())

    def decode(self, params: SamplingParams, num_new: int) -> tuple[float, int]:
        """Seconds, and steps made: begins each time behind the prompts, over whatever an earlier call left there."""
        num_steps = self._runner.capabilities.num_steps
        last, position = [prompt[-1] for prompt in self._prompts], self._length - 1
        draws = [(Draw(0, params.of_sample(i), self._length, max_new=num_steps),) for i in range(len(last))]
        begin = time.perf_counter()
        while position - self._length + 1 < num_new:
            chunks = tuple(Chunk(i, position, (token,), draw) for i, (token, draw) in enumerate(zip(last, draws, strict=True)))
            output = _checked(self._runner.launch(ForwardBatch(chunks, num_steps)).collect())
            last = [chunk.tokens[0][-1].token_id for chunk in output.chunks]
            position += num_steps
        return time.perf_counter() - begin, position - self._length + 1

    def next_tokens(self, params: SamplingParams) -> list[tuple[SampledToken, ...]]:
        """Of each sequence those of one launch behind its prompt."""
        num_steps = self._runner.capabilities.num_steps
        chunks = tuple(
            Chunk(i, self._length - 1, prompt[-1:], (Draw(0, params.of_sample(i), self._length, max_new=num_steps),))
            for i, prompt in enumerate(self._prompts)
        )
        output = _checked(self._runner.launch(ForwardBatch(chunks, num_steps)).collect())
        return [chunk.tokens[0] for chunk in output.chunks]


def _checked(output: StepOutput) -> StepOutput:
    for chunk in output.chunks:
        assert chunk.error is None, chunk.error
    return output


def step_seconds(sequences: Sequences, params: SamplingParams, num_new: int, rounds: int) -> float:
    sequences.decode(params, 1)
    measured = [sequences.decode(params, num_new) for _ in range(rounds)]
    return statistics.median(seconds / num_steps for seconds, num_steps in measured)


@dataclass(frozen=True, slots=True)
class Measuring:
    """One runner's figures, written as they come."""

    runner: Runner
    device: torch.device
    context: int  # of sequences in the middle of their decoding
    num_new: int  # tokens that are decoded
    rounds: int
    results: Results
    found: dict[str, Any]

    def length(self, context: int) -> int:
        """Tokens of the prompts."""
        return context - self.num_new // 2

    def keep(self, name: str, value: object) -> None:
        self.found[name] = value
        self.results.put("decode", self.found)

    def prefill(self) -> None:
        """Seconds for one prompt alone, and tokens a second of several at once; afterwards all slots have theirs."""
        length = self.length(self.context)
        together, alone = (Sequences(self.runner, num, length) for num in (self.runner.num_slots, 1))
        together.prefill()
        seconds = statistics.median(together.prefill())
        rate = min(PROMPTS_AT_ONCE, self.runner.num_slots) * min(length, PREFILL_CHUNK) / seconds
        one = statistics.median(sum(alone.prefill()) for _ in range(self.rounds))
        print(f"a prompt of {length} tokens takes {1e3 * one:.2f} ms alone; {rate:,.0f} tokens/s together")
        found = {"tokens": length, "one_prompt_seconds": rounded(one), "tokens_per_second": rounded(rate)}
        self.keep("prefill", found)

    def by_batch(self, batches: list[int]) -> None:
        rows: list[dict[str, float]] = []
        for batch in batches:
            seconds = self._step_seconds(self._sequences(batch), KINDS["greedy"])
            rows.append({"rows": batch, "step_seconds": rounded(seconds), "tokens_per_second": rounded(batch / seconds)})
            print(f"{batch:4} rows: {1e6 * seconds:8,.1f} us a step, {batch / seconds:10,.0f} tokens/s", flush=True)
            self.keep("by_batch", rows)

    def by_context(self, contexts: list[int]) -> None:
        """Of one row, whose cache is read by no more programs than there are heads, however long it is."""
        rows: list[dict[str, float]] = []
        for context in contexts:
            alone = Sequences(self.runner, 1, self.length(context))
            alone.prefill()
            seconds = self._step_seconds(alone, KINDS["greedy"])
            rows.append({"context": context, "step_seconds": rounded(seconds), "tokens_per_second": rounded(1 / seconds)})
            print(f"   1 row, context {context}: {1e6 * seconds:8,.1f} us a step, {1 / seconds:10,.0f} tokens/s", flush=True)
            self.keep("by_context", rows)

    def by_kind(self, batch: int) -> None:
        kinds: dict[str, float] = {}
        for name, params in KINDS.items():
            kinds[name] = rounded(self._step_seconds(self._sequences(batch), params))
            print(f"{batch:4} rows, {name}: {1e6 * kinds[name]:8,.1f} us a step", flush=True)
            self.keep("by_kind", {"rows": batch, "step_seconds": kinds})

    def by_kernel(self, batches: list[int]) -> None:
        kernels = {}
        for batch in batches:
            kernels[str(batch)] = self._kernel_microseconds(batch)
            print(f"{batch:4} rows: {sum(kernels[str(batch)].values()):8,.1f} us of a step are kernels'", flush=True)
            self.keep("kernels", kernels)

    def _sequences(self, batch: int) -> Sequences:
        return Sequences(self.runner, batch, self.length(self.context))

    def _step_seconds(self, sequences: Sequences, params: SamplingParams) -> float:
        return step_seconds(sequences, params, self.num_new, self.rounds)

    def _kernel_microseconds(self, batch: int) -> dict[str, float]:
        """Of a step, by the kernels' names, the longest first; on a CPU PyTorch's operations stand in for them.

        The time of a kernel that starts early has its wait in it, so that they add up to more than the step takes.
        """
        activity = torch.profiler.ProfilerActivity.CUDA if self.device.type == "cuda" else torch.profiler.ProfilerActivity.CPU
        with torch.profiler.profile(activities=[activity]) as profile:
            _, num_steps = self._sequences(batch).decode(KINDS["greedy"], self.num_new)
        kind = "self_device_time_total" if self.device.type == "cuda" else "self_cpu_time_total"
        taken = {event.key: getattr(event, kind) / num_steps for event in profile.key_averages()}
        return {name: rounded(value) for name, value in sorted(taken.items(), key=lambda item: -item[1]) if value > 0}


def main() -> None:
    parser = stage_parser(__doc__)
    add_checkpoint(parser)
    add_dtype(parser)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32, 64, 128, 256], help="rows of a step")
    parser.add_argument("--context", type=int, default=256, help="tokens of each sequence (default: %(default)s)")
    # The last one's decoding ends where GPT-2's context does, at 1,024.
    parser.add_argument("--contexts", type=int, nargs="+", default=[256, 512, 992], help="tokens of a sequence alone")
    parser.add_argument("--new-tokens", type=int, default=64, help="that are decoded in a round (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="of which the median is taken (default: %(default)s)")
    options = parser.parse_args()
    model, runner = load(options, max(options.batches))
    found = _work(model.config, options) | {"num_steps": runner.capabilities.num_steps}
    device, results = torch.device(options.device), results_of(options)
    measuring = Measuring(runner, device, options.context, options.new_tokens, options.rounds, results, found)
    measuring.prefill()
    measuring.by_batch(options.batches)
    measuring.by_context(options.contexts)
    crowd = 64 if 64 in options.batches else max(options.batches)
    measuring.by_kind(crowd)
    measuring.by_kernel(sorted({1, crowd}))


def _work(config: GPT2Config, options: argparse.Namespace) -> dict[str, Any]:
    """The least that a step must move and compute: all weights but the positions' once, and for each row its cache."""
    num_weights = config.num_parameters - config.n_positions * config.n_embd
    size = dtype_of(options.dtype).itemsize
    return {
        "dtype": options.dtype,
        "context": options.context,
        "weight_bytes": size * num_weights,
        "row_bytes": size * 2 * config.n_layer * config.n_embd * options.context,
        "row_flops": 2 * num_weights + 4 * config.n_layer * config.n_embd * options.context,
    }


if __name__ == "__main__":
    main()
