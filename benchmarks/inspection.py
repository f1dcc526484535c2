"""How long an inspection of 64 tokens takes with all default summaries: the default checkpoint, and 124M with random weights.

    python -m benchmarks.inspection

At most 150 ms and 1.5 s wanted, on two cores. One process, no service around it, from the request to the JSON; beside it the same
with the 20 tokens that a request goes on by if it says nothing else, and with an ablation, which makes two runs. Medians.
"""

import argparse
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.machine import ROOT, prompts_of, random_gpt2, write_result
from model.checkpoint import load_tokenizer
from model.inspection.answer import json_of
from model.inspection.inspector import Inspector
from model.inspection.request import SUMMARIES, InspectionRequest, MLPAblation
from model.network_files import load_model
from model.tokenizer import Tokenizer

NUM_TOKENS, NUM_THREADS = 64, 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    torch.set_num_threads(NUM_THREADS)
    checkpoints = {
        "default": ROOT / "model" / "default",
        "gpt2_124m_random": random_gpt2(Path(tempfile.gettempdir()) / "gpt2-124m-random"),
    }
    result = {name: _measure(directory, options.rounds) for name, directory in checkpoints.items()}
    write_result("inspection", "python -m benchmarks.inspection", {"num_tokens": NUM_TOKENS, "threads": NUM_THREADS, **result})


def _measure(directory: Path, rounds: int) -> dict[str, dict[str, float]]:
    """The cases take turns, so that what else the machine does meets all of them."""
    tokenizer, inspector = load_tokenizer(directory), Inspector(load_model(directory))
    cases = _cases(tokenizer)
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for request in cases.values():
        _inspect(inspector, tokenizer, request)  # what is made but once
    for _ in range(rounds):
        for name, request in cases.items():
            seconds[name].append(_inspect(inspector, tokenizer, request))
    result = {
        name: {"median_ms": round(1000 * statistics.median(values), 1), "fastest_ms": round(1000 * min(values), 1)}
        for name, values in seconds.items()
    }
    print(result)
    return result


def _cases(tokenizer: Tokenizer) -> dict[str, InspectionRequest]:
    prompt = tuple(tokenizer.encode(prompts_of(tokenizer, NUM_TOKENS, 1)[0]))
    plain = InspectionRequest(prompt, max_new_tokens=0)
    return {
        "summaries": plain,
        "summaries, 20 new tokens": replace(plain, max_new_tokens=20),
        "summaries, an MLP zeroed": replace(plain, ablations=(MLPAblation(0),)),
        "layer_norm_order alone": replace(plain, summaries=SUMMARIES[-1:]),
    }


def _inspect(inspector: Inspector, tokenizer: Tokenizer, request: InspectionRequest) -> float:
    started = time.perf_counter()
    json_of(inspector.inspect(request), tokenizer, "", None, 0.0)
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
