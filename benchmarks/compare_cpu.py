"""Ours against the other servers and engines that run GPT-2 on a CPU: GPT-2 124M, random weights, 128 tokens in, 128 out, greedy.

    python -m benchmarks.peers.setup     # once: installs and converts, some 12 GB
    python -m benchmarks.compare_cpu

At 1, 8 and 32 sequences at once, over HTTP with streaming and in process. All contenders are loaded at the beginning and stand
still but for the one that runs, which has a small job first to get warm; rounds alternate, every other one backwards; medians. The
arithmetic peaks and the memory's speed, which changes from minute to minute, are measured right before and after each of our own
runs in process.
"""

import argparse
import json
import os
import shlex
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.compare_report import everybody, of_targets, summary
from benchmarks.compare_table import NUM_NEW, NUM_PROMPT, step_bytes, table
from benchmarks.compare_targets import targets
from benchmarks.machine import gpt2_tokenizer, prompts_of, random_gpt2, write_result
from benchmarks.peers.load import run_load
from benchmarks.peers.places import DEFAULT_ROOT, OURS, checkpoint, versions
from benchmarks.peers.processes import ServerPeer, WorkerPeer

PEAKS = Path(__file__).with_name("peaks.cpp")
CLIENTS = [1, 8, 32]
Peaks = dict[str, float]


@dataclass
class Contender:
    """Somebody who runs a batch of prompts: what the table says, in what precision it is compared, and how it is started."""

    label: str
    precision: str  # of the weights: int8, bfloat16 or float32
    name: str
    dtype: str
    weights: str = ""
    http: bool = False
    peer: Any = None
    results: dict[int, list[dict[str, Any]]] = field(default_factory=dict)

    def open(self, root: Path, stack: ExitStack) -> None:
        peer = ServerPeer(root, self.name, self.dtype) if self.http else WorkerPeer(root, self.name, self.weights, self.dtype)
        self.peer = stack.enter_context(peer)
        stack.callback(self._signal, signal.SIGCONT)  # before it is asked to end
        with self.awake():
            pass  # who cannot run is found out now, and left out

    def run(self, prompts: list[list[int]], max_new_tokens: int) -> dict[str, Any]:
        if not self.http:
            return self.peer.run(prompts, max_new_tokens)
        return run_load(self.name, self.peer.url, prompts, max_new_tokens) | self.peer.memory()

    @contextmanager
    def awake(self) -> Iterator[None]:
        self._signal(signal.SIGCONT)
        try:
            self.run([[11] * NUM_PROMPT], 4)  # its memory has lain idle for minutes
            yield
        finally:
            self._signal(signal.SIGSTOP)

    def _signal(self, number: int) -> None:
        os.killpg(self.peer.process.pid, number)


def contenders() -> list[Contender]:
    return [
        Contender("ours, default (int8)", "int8", OURS, "auto", http=True),
        Contender("llama-server Q8_0", "int8", "llama", "q8_0", http=True),
        Contender("llama-server BF16", "bfloat16", "llama", "bf16", http=True),
        Contender("vLLM bfloat16", "bfloat16", "vllm", "bfloat16", http=True),
        Contender("ours, default (int8)", "int8", OURS, "auto"),
        Contender("ours, bfloat16", "bfloat16", OURS, "bfloat16"),
        Contender("ours, float32", "float32", OURS, "float32"),
        Contender("llama.cpp Q8_0", "int8", "llama", "q8_0", "q8_0"),
        Contender("llama.cpp BF16", "bfloat16", "llama", "bf16", "bf16"),
        Contender("llama.cpp F32", "float32", "llama", "f32", "f32"),
        Contender("OpenVINO int8 weights, bf16", "int8", "openvino", "bf16", "int8"),
        Contender("OpenVINO int8 weights, f32", "int8", "openvino", "f32", "int8"),
        Contender("OpenVINO bf16", "bfloat16", "openvino", "bf16", "float32"),
        Contender("OpenVINO float32", "float32", "openvino", "f32", "float32"),
        Contender("CTranslate2 int8", "int8", "ctranslate2", "int8", "int8"),
        Contender("CTranslate2 float32", "float32", "ctranslate2", "float32", "float32"),
        Contender("transformers bfloat16", "bfloat16", "transformers", "bfloat16"),
        Contender("transformers float32", "float32", "transformers", "float32"),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--root", type=Path, default=DEFAULT_ROOT)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--clients", type=int, nargs="+", default=CLIENTS)
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="WORD", help="contenders whose label has one of these words; shown, not kept"
    )
    options = parser.parse_args()
    random_gpt2(checkpoint(options.root))
    asked = [c for c in contenders() if not options.only or any(word.lower() in c.label.lower() for word in options.only)]
    with ExitStack() as stack:
        running = _open(asked, options.root, stack)
        measure_peaks = _compile_peaks(stack)
        for seed in range(options.rounds):
            for num_clients in options.clients:
                prompts = _prompts(num_clients, seed)
                for contender in running[:: -1 if seed % 2 else 1]:
                    result = _measure(contender, prompts, measure_peaks)
                    contender.results.setdefault(num_clients, []).append(result)
                    _report(contender, num_clients, seed, result)
    rows = table(running, options.clients)
    reached = targets(rows)
    print("", everybody(rows), summary(rows), of_targets(reached), sep="\n\n")
    if options.only or options.clients != CLIENTS:
        return  # the result that the README shows is of all
    used = sorted({c.name for c in running} - {OURS})
    peers = {name: versions(options.root, name) for name in used}
    write_result(
        "compare_cpu",
        shlex.join(["python", "-m", "benchmarks.compare_cpu", *sys.argv[1:]]),
        {"rounds": options.rounds, "peers": peers, "targets": reached, "rows": rows},
    )


def _open(asked: list[Contender], root: Path, stack: ExitStack) -> list[Contender]:
    """Load them one after another; who does not come up is named and left out."""
    running = []
    for contender in asked:
        try:
            contender.open(root, stack)
            running.append(contender)
            print(f"loaded: {contender.label}{' over HTTP' if contender.http else ''}", flush=True)
        except (OSError, RuntimeError) as error:
            print(f"left out: {contender.label}: {error}", flush=True)
    return running


def _compile_peaks(stack: ExitStack) -> Callable[[float], Peaks]:
    """A function that measures the machine's limits, the memory's speed on so many bytes."""
    program = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "peaks"
    subprocess.run(["g++", "-O2", "-fopenmp", str(PEAKS), "-o", str(program)], check=True)

    def measure(num_bytes: float) -> Peaks:
        output = subprocess.run([program, "2", str(round(num_bytes / (1 << 20)))], check=True, capture_output=True).stdout
        return json.loads(output)

    return measure


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
    where = "over HTTP" if contender.http else "in process"
    line = f"round {seed + 1}, {num_clients:>2} at once, {where}, {contender.label}: {speed:,.0f} tokens/s, first {first:,.0f} ms"
    if "peaks" in result:
        line += f", memory at {result['peaks']['read_gb_per_second']:.0f} GB/s"
    print(line, flush=True)


if __name__ == "__main__":
    main()
