"""What several samples of a prompt cost: until all have their first token, GPT-2 124M, 512 tokens, n = 8 beside n = 1, in pairs.

    python -m benchmarks.samples

At most 1.15 times as long wanted: the prompt is computed once, its last row drawn from eight times.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

from app.bootstrap import load, make_engine
from app.engine.sequence import EngineRequest, TokensOutput
from app.settings import Settings
from benchmarks.machine import gpt2_tokenizer, prompts_of, random_gpt2, write_result
from model.batch import SamplingParams

NUM_PROMPT, NUM_SAMPLES = 512, 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    model = random_gpt2(Path(tempfile.gettempdir()) / "gpt2-124m-random")
    settings = Settings(model=str(model), device="cpu", _env_file=None)
    engine = make_engine(settings, load(settings, print).chosen.runner)
    engine.runner.warm_up()
    prompts = [tuple(gpt2_tokenizer().encode(text)) for text in prompts_of(gpt2_tokenizer(), NUM_PROMPT, 2 * options.rounds + 2)]
    seconds: dict[int, list[float]] = {1: [], NUM_SAMPLES: []}
    for i, prompt in enumerate(prompts):  # each of its own, so that none finds another's in a slot
        num_samples = (1, NUM_SAMPLES)[(i + i // 2) % 2]
        started = time.perf_counter()
        engine.submit(i, EngineRequest(prompt, SamplingParams(temperature=1.0), max_new_tokens=1, num_samples=num_samples))
        num_tokens = 0
        while engine.has_work:
            num_tokens += sum(len(output.tokens) for output in engine.step().outputs if isinstance(output, TokensOutput))
        assert num_tokens == num_samples
        seconds[num_samples].append(time.perf_counter() - started)
    one, several = (seconds[n][1:] for n in (1, NUM_SAMPLES))  # the first of each warms up
    result = {
        "one_ms": round(1000 * statistics.median(one), 1),
        "several_ms": round(1000 * statistics.median(several), 1),
        "ratio": round(statistics.median(b / a for a, b in zip(one, several, strict=True)), 3),
    }
    print(result)
    write_result("samples", "python -m benchmarks.samples", result)


if __name__ == "__main__":
    main()
