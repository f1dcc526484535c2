"""Who is compared by benchmarks.compare_cpu, how each is started, and who cannot run on which CPU. Measures no time of its own."""

import os
import re
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.compare_table import NUM_PROMPT
from benchmarks.peers.holds import used_avx512
from benchmarks.peers.load import run_load
from benchmarks.peers.places import OURS
from benchmarks.peers.processes import ServerPeer, WorkerPeer

AVX512 = ("avx512", "amx")


@dataclass
class Contender:
    """Somebody who runs a batch of prompts: what the table says, in what precision it is compared, and how it is started."""

    label: str
    precision: str  # of the weights: int8, bfloat16 or float32
    name: str
    dtype: str
    weights: str = ""
    http: bool = False
    sets: tuple[str, ...] = ()  # the instruction sets that it needs one of; without any all will do
    otherwise: str = "it would compute in another precision than its label says"
    peer: Any = None
    hold: str = ""
    results: dict[int, list[dict[str, Any]]] = field(default_factory=dict)

    @property
    def way(self) -> str:
        return "HTTP" if self.http else "in process"

    def open(self, root: Path, hold: str, stack: ExitStack) -> None:
        self.hold = hold
        if self.http:
            peer: Any = ServerPeer(root, self.name, self.dtype, hold)
        else:
            peer = WorkerPeer(root, self.name, self.weights, self.dtype, hold)
        self.peer = stack.enter_context(peer)
        stack.callback(self._signal, signal.SIGCONT)  # before it is asked to end
        with self.awake():
            pass  # who cannot run is found out now, and left out

    def run(self, prompts: list[list[int]], max_new_tokens: int) -> dict[str, Any]:
        started = time.monotonic()
        result = self._run_over_http(prompts, max_new_tokens) if self.http else self.peer.run(prompts, max_new_tokens)
        if self.hold:
            result["used_avx512"] = used_avx512(self.peer.process.pid, time.monotonic() - started)
        return result

    def _run_over_http(self, prompts: list[list[int]], max_new_tokens: int) -> dict[str, Any]:
        with self.peer.watched() as memory:
            result = run_load(self.name, self.peer.url, prompts, max_new_tokens)
        return result | memory | {"ready_seconds": self.peer.ready_seconds}

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
        Contender("OpenVINO int8 weights, bf16", "int8", "openvino", "bf16", "int8", sets=AVX512),
        Contender("OpenVINO int8 weights, f32", "int8", "openvino", "f32", "int8"),
        Contender("OpenVINO bf16", "bfloat16", "openvino", "bf16", "float32", sets=AVX512),
        Contender("OpenVINO float32", "float32", "openvino", "f32", "float32"),
        Contender("CTranslate2 int8", "int8", "ctranslate2", "int8", "int8"),
        Contender("CTranslate2 float32", "float32", "ctranslate2", "float32", "float32"),
        Contender(
            "transformers bfloat16",
            "bfloat16",
            "transformers",
            "bfloat16",
            sets=AVX512,
            otherwise="8 prompts take it over two minutes",
        ),
        Contender("transformers float32", "float32", "transformers", "float32"),
    ]


def open_all(
    asked: list[Contender], root: Path, cpu: str, hold: str, stack: ExitStack
) -> tuple[list[Contender], list[dict[str, str]]]:
    """Load them one after another: who runs on a CPU with this largest instruction set, and who is left out, with the reason."""
    running, left_out = [], []
    for contender in asked:
        reason = _open(contender, root, cpu, hold, stack)
        if reason is None:
            running.append(contender)
        else:
            left_out.append({"label": contender.label, "way": contender.way, "reason": reason})
        print(f"{contender.label}, {contender.way}: {reason or 'loaded'}", flush=True)
    return running, left_out


def _open(contender: Contender, root: Path, cpu: str, hold: str, stack: ExitStack) -> str | None:
    if contender.sets and cpu not in contender.sets:
        return f"on {cpu} {contender.otherwise}; it needs {' or '.join(contender.sets)}"
    try:
        contender.open(root, hold, stack)
    except (OSError, RuntimeError) as error:
        return f"does not run: {_reason(error)}"
    return None


def _reason(error: Exception) -> str:
    """The last line of what it said, without the paths of this machine: results are kept."""
    line = (str(error).strip().splitlines() or [type(error).__name__])[-1]
    return re.sub(r"(?:/[\w.@+-]+)+/", "", line)[:200]
