"""The loop of a peer in process: loads once, then a JSON line in for each batch and a JSON line out. Knows no peer.

Runs in the peers' own environments, so it imports nothing but the standard library.
"""

import argparse
import json
import os
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path

# Prompts of token ids and how many tokens to add to each; returns by sequence when each of its tokens came, by time.perf_counter().
Generate = Callable[[list[list[int]], int], list[list[float]]]


def serve(load: Callable[[argparse.Namespace], Generate], dtypes: list[str]) -> None:
    """Answer jobs on stdin until it ends; the first line says that the model is loaded."""
    answers = _take_stdout()
    options = _options(dtypes)
    started = time.perf_counter()
    generate = load(options)
    _answer(answers, {"ready": True, "load_seconds": time.perf_counter() - started} | _memory())
    for line in sys.stdin:
        job = json.loads(line)
        _answer(answers, _run(generate, job["prompts"], job["max_new_tokens"]) | _memory())


def _run(generate: Generate, prompts: list[list[int]], max_new_tokens: int) -> dict[str, object]:
    started = time.perf_counter()
    token_times = generate(prompts, max_new_tokens)
    seconds = time.perf_counter() - started
    assert [len(times) for times in token_times] == [max_new_tokens] * len(prompts), [len(times) for times in token_times]
    since_start = [[round(at - started, 6) for at in times] for times in token_times]
    return {
        "seconds": seconds,
        "first_token_seconds": [times[0] for times in since_start],
        "token_times": since_start,
        "tokens": sum(map(len, since_start)),
    }


def _take_stdout() -> int:
    """Keep stdout to the answers alone: whatever a library prints goes to stderr."""
    answers = os.dup(1)
    os.dup2(2, 1)
    return answers


def _answer(file: int, document: dict[str, object]) -> None:
    content = json.dumps(document).encode() + b"\n"
    while content:
        content = content[os.write(file, content) :]


def _options(dtypes: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--dtype", choices=dtypes, default=dtypes[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--hold", default="", help="the instruction set that the environment holds it to")
    return parser.parse_args()


def _memory() -> dict[str, int]:
    status = Path("/proc/self/status").read_text()
    return {
        name: 1024 * int(re.search(rf"{field}:\s+(\d+)", status)[1])  # type: ignore[index]
        for name, field in (("rss_bytes", "VmRSS"), ("peak_rss_bytes", "VmHWM"))
    }
