"""How fast `transformers` decodes the same checkpoint by generate(): as it comes, and compiled with a static cache."""

import statistics
import time
from itertools import pairwise

import torch
from torch import Tensor
from transformers import GPT2LMHeadModel, StoppingCriteria, StoppingCriteriaList

from benchmarks.gpu.on_device import dtype_of
from benchmarks.gpu.results import add_checkpoint, add_dtype, results_of, rounded, stage_parser

NUM_NEW = 64
ROUNDS = 3
# generate() compiles the step by itself where the cache's shapes stay, on a GPU; on a CPU it leaves that out.
MODES = {"eager": {}, "compiled": {"cache_implementation": "static"}}
NUM_UNCOUNTED = {"eager": 1, "compiled": 2}  # compiled, then recorded as a graph


class Clock(StoppingCriteria):
    """Notes the time after each step; whether all have ended is looked up after each, so that a step is done with the next one."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def __call__(self, input_ids: Tensor, scores: Tensor, **_: object) -> Tensor:
        self.times.append(time.perf_counter())
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)


def main() -> None:
    parser = stage_parser(__doc__)
    add_checkpoint(parser)
    add_dtype(parser)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 64], help="sequences at once")
    parser.add_argument("--context", type=int, default=256, help="tokens in the middle of decoding (default: %(default)s)")
    options = parser.parse_args()
    results = results_of(options)
    model = GPT2LMHeadModel.from_pretrained(options.checkpoint, dtype=dtype_of(options.dtype)).to(options.device).eval()
    rows: list[dict[str, object]] = []
    for batch in options.batches:
        shape = (batch, options.context - NUM_NEW // 2)
        prompts = torch.randint(model.config.vocab_size, shape, generator=torch.Generator().manual_seed(0)).to(options.device)
        for mode in MODES:
            seconds = _step_seconds(model, prompts, mode)
            row = {"mode": mode, "rows": batch, "step_seconds": rounded(seconds), "tokens_per_second": rounded(batch / seconds)}
            rows.append(row)
            results.put("transformers", rows)
            print(f"{batch:4} rows, {mode}: {1e6 * seconds:8,.1f} us a step, {batch / seconds:10,.0f} tokens/s", flush=True)


def _step_seconds(model: GPT2LMHeadModel, prompts: Tensor, mode: str) -> float:
    """Of a step in the middle: not of the first, which runs the prompts, nor of one that records a graph anew."""
    for _ in range(NUM_UNCOUNTED[mode]):
        _generate(model, prompts, mode)
    rounds = [_generate(model, prompts, mode) for _ in range(ROUNDS)]
    return statistics.median(after - before for times in rounds for before, after in pairwise(times))


def _generate(model: GPT2LMHeadModel, prompts: Tensor, mode: str) -> list[float]:
    clock = Clock()
    model.generate(
        prompts,
        attention_mask=torch.ones_like(prompts),
        max_new_tokens=NUM_NEW,
        min_new_tokens=NUM_NEW,
        do_sample=False,
        pad_token_id=0,
        stopping_criteria=StoppingCriteriaList([clock]),
        **MODES[mode],
    )
    return clock.times


if __name__ == "__main__":
    main()
