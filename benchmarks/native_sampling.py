"""What sampling adds to a native decoding step: GPT-2 124M, random weights, int8, 32 sequences, each filter beside greedy.

    python -m benchmarks.native_sampling

Random weights have a flat distribution, so that top-p keeps tens of thousands of tokens: a trained model's costs less.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

from benchmarks.machine import gpt2_tokenizer, prompts_of, random_gpt2, write_result
from model.batch import Chunk, Draw, ForwardBatch, SamplingParams
from model.checkpoint import open_checkpoint
from model.machine import num_cores
from model.native.library import Precision
from model.native.runner import NativeRunner

NUM_SEQUENCES, NUM_PROMPT = 32, 128
CASES = {
    "greedy": SamplingParams(),
    "temperature 1": SamplingParams(temperature=1.0),
    "top-k 50": SamplingParams(temperature=1.0, top_k=50),
    "top-p 0.9": SamplingParams(temperature=1.0, top_p=0.9),
    "temperature 0.7, top-p 0.9": SamplingParams(temperature=0.7, top_p=0.9),
    "top-k 50, top-p 0.9": SamplingParams(temperature=1.0, top_k=50, top_p=0.9),
    "typical-p 0.9": SamplingParams(temperature=1.0, typical_p=0.9),
    "greedy, repetition penalty": SamplingParams(repetition_penalty=1.2),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=30)
    options = parser.parse_args()
    checkpoint = open_checkpoint(random_gpt2(Path(tempfile.gettempdir()) / "gpt2-124m-random"))
    runner = NativeRunner(checkpoint.config, checkpoint.weights, NUM_SEQUENCES, Precision.INT8, num_cores())
    prompts = [tuple(gpt2_tokenizer().encode(text)) for text in prompts_of(gpt2_tokenizer(), NUM_PROMPT, NUM_SEQUENCES)]
    for slot, prompt in enumerate(prompts):
        runner.launch(ForwardBatch((Chunk(slot, 0, prompt),))).collect()
    seconds: dict[str, list[float]] = {name: [] for name in CASES}
    for _ in range(options.rounds):
        for name, params in CASES.items():
            batch = _decoding_step(params)
            started = time.perf_counter()
            runner.launch(batch).collect()
            seconds[name].append(time.perf_counter() - started)
    step = {name: 1000 * statistics.median(values) for name, values in seconds.items()}
    result = {name: {"step_ms": round(ms, 2), "over_greedy_ms": round(ms - step["greedy"], 2)} for name, ms in step.items()}
    print(result)
    write_result("native_sampling", "python -m benchmarks.native_sampling", result)


def _decoding_step(params: SamplingParams) -> ForwardBatch:
    """All sequences' next token, the same in each step."""
    draw = Draw(0, params, NUM_PROMPT)
    return ForwardBatch(tuple(Chunk(slot, NUM_PROMPT, (slot,), (draw,)) for slot in range(NUM_SEQUENCES)))


if __name__ == "__main__":
    main()
