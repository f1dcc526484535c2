"""Where and with what a benchmark ran, its results as files, and checkpoints to run it on."""

import json
import os
import platform
import subprocess
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from model.bpe import BPETokenizer
from model.config import PRESETS
from model.gpt2 import GPT2
from model.network_files import save_checkpoint
from model.tokenizer import Tokenizer

ROOT = Path(__file__).parent.parent
RESULTS = Path(__file__).parent / "results"
VOCABULARY = ROOT / "tests" / "data"
INSTRUCTION_SETS = [
    "ssse3",
    "avx",
    "f16c",
    "fma",
    "avx2",
    "avx_vnni",
    "avx512f",
    "avx512bw",
    "avx512vl",
    "avx512_vnni",
    "avx512_bf16",
]
INSTRUCTION_SETS += ["amx_tile", "amx_int8", "amx_bf16", "asimd", "asimddp", "i8mm", "bf16", "sve"]


def describe_machine() -> dict[str, str]:
    cpu = next((line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line), "?")
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, cwd=ROOT, check=False
    ).stdout.strip()
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    return {
        "date": time.strftime("%Y-%m-%d"),
        "commit": commit,
        "cpu": f"{cpu}, {os.cpu_count()} cores, {torch.backends.cpu.get_cpu_capability()}",
        "gpu": gpu,
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "transformers", "fastapi", "uvicorn", "uvloop")},
    }


def describe_cpu() -> dict[str, Any]:
    """The processor's name, and which instruction sets that matter here it has, in Linux's words."""
    pairs = (line.partition(":") for line in Path("/proc/cpuinfo").read_text().splitlines())
    fields = {name.strip(): value.strip() for name, _, value in pairs}
    flags = fields.get("flags", fields.get("Features", "")).split()
    kind = ("vendor_id", "cpu family", "model", "CPU implementer", "CPU part")  # x86-64's, AArch64's
    return {
        "name": fields.get("model name", "?"),
        **{name: fields[name] for name in kind if name in fields},
        "instruction_sets": [name for name in INSTRUCTION_SETS if name in flags],
    }


def write_result(name: str, command: str, result: dict[str, Any]) -> None:
    """Keep a result as JSON beside the command and the machine that made it."""
    RESULTS.mkdir(exist_ok=True)
    document = {"command": command, "machine": describe_machine(), "result": result}
    file = RESULTS / f"{name}.json"
    file.write_text(json.dumps(document, indent=2) + "\n")
    print(f"written to {file.relative_to(ROOT)}")


def random_gpt2(directory: Path, preset: str = "gpt2") -> Path:
    """GPT-2 with seeded random weights and the real vocabulary; large weights, so that the likeliest tokens stand clear."""
    if not (directory / "config.json").exists():
        model = GPT2(PRESETS[preset]).init_weights(torch.Generator().manual_seed(0))
        for parameter in model.parameters():
            parameter.data.mul_(3 if parameter.ndim == 2 else 1)
        save_checkpoint(directory, model, gpt2_tokenizer(), torch.float32)
    return directory


def gpt2_tokenizer() -> Tokenizer:
    return BPETokenizer.from_files(VOCABULARY / "vocab.json", VOCABULARY / "merges.txt")


def prompts_of(tokenizer: Tokenizer, num_tokens: int, num_prompts: int, seed: int = 0) -> list[str]:
    """Texts of exactly so many tokens: each of a space and letters, so that no two of them merge."""
    words = [
        text
        for i in range(tokenizer.vocab_size)
        if (text := tokenizer.decode([i])).startswith(" ") and text[1:].isascii() and text[1:].isalpha()
    ]
    generator = torch.Generator().manual_seed(seed)
    picks = torch.randint(len(words), (num_prompts, num_tokens), generator=generator).tolist()
    prompts = ["".join(words[i] for i in row) for row in picks]
    assert all(len(tokenizer.encode(prompt)) == num_tokens for prompt in prompts)
    return prompts
