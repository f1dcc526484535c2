"""Whether plain requests are as fast as in another checkout: GPT-2 124M at 1, 8 and 32 clients, in process and over HTTP, in pairs.

    python -m benchmarks.before_after --before ../before

`--before` is a checkout of another commit with an environment of its own (`make install-dev` there). Both sides stand ready all the
time; each pair runs one right after the other, the order changing from round to round, and the median of the pairs' ratios counts:
above 1 this checkout is faster.
"""

import argparse
import contextlib
import json
import statistics
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from benchmarks.machine import ROOT, gpt2_tokenizer, prompts_of, random_gpt2, write_result
from benchmarks.server import ServerProcess

NUM_PROMPT, NUM_NEW = 128, 128
BATCHES = (1, 8, 32)
Measure = Callable[[list[str]], float]  # tokens/s of so many prompts at once


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--before", type=Path, required=True, help="the other checkout")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    model = random_gpt2(Path(tempfile.gettempdir()) / "gpt2-124m-random")
    prompts = prompts_of(gpt2_tokenizer(), NUM_PROMPT, max(BATCHES))
    sides = {"before": options.before.resolve(), "after": ROOT}
    with contextlib.ExitStack() as stack:
        measures = {
            "in process": {side: _in_process(stack, checkout, model) for side, checkout in sides.items()},
            "over HTTP": {side: _over_http(stack, checkout, model) for side, checkout in sides.items()},
        }
        rates = _rates(measures, prompts, options.rounds)
    result = {f"{kind}, {size}": _summary(pairs) for (kind, size), pairs in rates.items()}
    for name, row in result.items():
        print(f"{name}: {row}")
    commit = ["git", "rev-parse", "--short", "HEAD"]
    result["before"] = subprocess.run(commit, cwd=sides["before"], capture_output=True, text=True, check=True).stdout.strip()
    write_result("before_after", "python -m benchmarks.before_after --before ../before", result)


def _rates(
    measures: dict[str, dict[str, Measure]], prompts: list[str], rounds: int
) -> dict[tuple[str, int], list[tuple[float, float]]]:
    """Pairs of rates, before and after, of each kind and number of clients; a first round only warms up."""
    rates: dict[tuple[str, int], list[tuple[float, float]]] = {}
    for number in range(rounds + 1):
        for size in BATCHES:
            for kind, sides in measures.items():
                order = ("before", "after") if number % 2 else ("after", "before")
                pair = {side: sides[side](prompts[:size]) for side in order}
                if number:
                    rates.setdefault((kind, size), []).append((pair["before"], pair["after"]))
    return rates


def _in_process(stack: contextlib.ExitStack, checkout: Path, model: Path) -> Measure:
    command = [str(checkout / ".venv/bin/python"), str(checkout / "benchmarks/peers/run_ours.py"), "--model", str(model)]
    process = stack.enter_context(
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=checkout)
    )
    questions, answers = process.stdin, process.stdout
    assert questions is not None
    assert answers is not None
    stack.callback(questions.close)
    answers.readline()  # it is ready
    tokenizer = gpt2_tokenizer()

    def measure(prompts: list[str]) -> float:
        job = {"prompts": [tokenizer.encode(prompt) for prompt in prompts], "max_new_tokens": NUM_NEW}
        questions.write(json.dumps(job) + "\n")
        questions.flush()
        answer = json.loads(answers.readline())
        return answer["tokens"] / answer["seconds"]

    return measure


def _over_http(stack: contextlib.ExitStack, checkout: Path, model: Path) -> Measure:
    server = stack.enter_context(ServerProcess(model, checkout))

    def measure(prompts: list[str]) -> float:
        bodies = [{"inputs": prompt, "parameters": {"max_new_tokens": NUM_NEW, "ignore_eos": True}} for prompt in prompts]
        return server.load(bodies, len(bodies)).tokens_per_second

    return measure


def _summary(pairs: list[tuple[float, float]]) -> dict[str, object]:
    ratios = [after / before for before, after in pairs]
    before, after = (round(statistics.median(rates), 1) for rates in zip(*pairs, strict=True))
    return {
        "before_tokens_per_second": before,
        "after_tokens_per_second": after,
        "ratio": round(statistics.median(ratios), 3),
        "range": [round(min(ratios), 3), round(max(ratios), 3)],
    }


if __name__ == "__main__":
    main()
