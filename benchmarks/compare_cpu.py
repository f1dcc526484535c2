"""Ours against the other servers and engines that run GPT-2 on a CPU: GPT-2 124M, random weights, 128 tokens in, 128 out, greedy.

    python -m benchmarks.peers.setup                       # once: installs and converts, some 12 GB
    python -m benchmarks.compare_cpu --name zen4           # of this CPU, to results/compare_cpu_zen4.json
    python -m benchmarks.compare_cpu --hold avx2           # everybody held to AVX2, to results/compare_cpu_avx2.json

At 1, 8 and 32 sequences at once, over HTTP with streaming and in process. All contenders are loaded at the beginning and stand
still but for the one that runs, which has a small job first to get warm; rounds alternate, every other one backwards; medians. The
arithmetic peaks and the memory's speed, which changes from minute to minute, are measured right before and after each of our own
runs in process. Who cannot run on this CPU, or held, is left out, and the result says why.
"""

import argparse
import json
import shlex
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.compare_contenders import Contender, contenders, open_all
from benchmarks.compare_report import NAME, everybody, of_targets, summary, to_paste
from benchmarks.compare_table import NUM_NEW, NUM_PROMPT, step_bytes, table
from benchmarks.compare_targets import targets
from benchmarks.machine import describe_cpu, gpt2_tokenizer, prompts_of, random_gpt2, write_result
from benchmarks.peers.holds import ENVIRONMENTS, is_larger_machine
from benchmarks.peers.places import DEFAULT_ROOT, OURS, checkpoint, versions

PEAKS = Path(__file__).with_name("peaks.cpp")
CLIENTS = [1, 8, 32]
Peaks = dict[str, Any]


def main() -> None:
    parser = _parser()
    options = parser.parse_args()
    if options.hold and not is_larger_machine(options.hold):
        parser.error(f"this CPU has no more than {options.hold}: leave --hold out")
    _warm(random_gpt2(checkpoint(options.root)))
    asked = [c for c in contenders() if not options.only or any(word.lower() in c.label.lower() for word in options.only)]
    with ExitStack() as stack:
        measure_peaks = _compile_peaks(options.hold, stack)
        cpu = measure_peaks(1 << 20)["set"]
        running, left_out = open_all(asked, options.root, cpu, options.hold, stack)
        for seed in range(options.rounds):
            for num_clients in options.clients:
                _run_round(running, num_clients, seed, measure_peaks)
    rows = table(running, options.clients)
    reached = targets(rows, cpu)
    if options.only or options.clients != CLIENTS:  # the results that the README shows are of all
        print("", everybody(rows), summary(rows), of_targets(reached), sep="\n\n")
        return
    used = sorted({c.name for c in running} - {OURS})
    about = {"rounds": options.rounds, "cpu": describe_cpu(), "set": cpu, "held_to": options.hold or None, "left_out": left_out}
    about["peers"] = {name: versions(options.root, name) for name in used}
    name = options.name or cpu
    command = shlex.join(["python", "-m", "benchmarks.compare_cpu", *sys.argv[1:]])
    write_result(NAME.format(name), command, about | {"targets": reached, "rows": rows})
    print("", to_paste([name]), sep="\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--root", type=Path, default=DEFAULT_ROOT)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--clients", type=int, nargs="+", default=CLIENTS)
    parser.add_argument("--name", help="of this machine, and so of the file of results; its instruction set by default")
    parser.add_argument("--hold", choices=ENVIRONMENTS, default="", help="an instruction set smaller than the CPU's, for everybody")
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="WORD", help="contenders whose label has one of these words; shown, not kept"
    )
    return parser


def _warm(directory: Path) -> None:
    """Have the checkpoint in the page cache, so that a server's start does not depend on who read it last."""
    for file in directory.iterdir():
        file.read_bytes()


def _compile_peaks(hold: str, stack: ExitStack) -> Callable[[float], Peaks]:
    """A function that measures the limits of the machine, or of the set that it is held to; the memory's speed on so many bytes."""
    program = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "peaks"
    subprocess.run(["g++", "-O2", "-fopenmp", str(PEAKS), "-o", str(program)], check=True)

    def measure(num_bytes: float) -> Peaks:
        command = [str(program), "2", str(round(num_bytes / (1 << 20))), *([hold] if hold else [])]
        return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)

    return measure


def _run_round(running: list[Contender], num_clients: int, seed: int, measure_peaks: Callable[[float], Peaks]) -> None:
    prompts = _prompts(num_clients, seed)
    for contender in running[:: -1 if seed % 2 else 1]:
        result = _measure(contender, prompts, measure_peaks)
        contender.results.setdefault(num_clients, []).append(result)
        _report(contender, num_clients, seed, result)


def _prompts(num_clients: int, seed: int) -> list[list[int]]:
    tokenizer = gpt2_tokenizer()
    return [tokenizer.encode(prompt) for prompt in prompts_of(tokenizer, NUM_PROMPT, num_clients, 1000 * num_clients + seed)]


def _measure(contender: Contender, prompts: list[list[int]], measure_peaks: Callable[[float], Peaks]) -> dict[str, Any]:
    with contender.awake():
        if contender.name != OURS or contender.http:
            return contender.run(prompts, NUM_NEW)
        # As much memory as a step reads: less of it stays in the processor's cache the more there is.
        num_bytes = step_bytes(contender.precision, len(prompts))
        before = measure_peaks(num_bytes)
        result = contender.run(prompts, NUM_NEW)
        after = measure_peaks(num_bytes)
    return result | {"peaks": {name: (before[name] + after[name]) / 2 for name in before if name != "set"}}


def _report(contender: Contender, num_clients: int, seed: int, result: dict[str, Any]) -> None:
    speed, first = result["tokens"] / result["seconds"], 1000 * statistics.median(result["first_token_seconds"])
    line = f"round {seed + 1}, {num_clients:>2} at once, {contender.way}, {contender.label}: "
    line += f"{speed:,.0f} tokens/s, first {first:,.0f} ms"
    if "peaks" in result:
        line += f", memory at {result['peaks']['read_gb_per_second']:.0f} GB/s"
    if result.get("used_avx512"):
        line += ", used AVX-512"
    print(line, flush=True)


if __name__ == "__main__":
    main()
