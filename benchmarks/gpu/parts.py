"""A trained checkpoint in parts small enough for any store of artifacts, and put together again.

    python -m benchmarks.gpu.parts split MODEL OUT
    python -m benchmarks.gpu.parts join OUT MODEL

OUT gets checkpoint.tar.000, checkpoint.tar.001, ... of at most 15 MB, and checkpoint.json with their hashes. They hold the model,
and of its run what a model card needs: the plan, the losses and what it was measured at.
"""

import argparse
import hashlib
import io
import json
import sys
import tarfile
from pathlib import Path

from model.network_files import load_model
from model.training.plot import plot_losses, title_of

PART_BYTES = 15_000_000
INDEX, PART = "checkpoint.json", "checkpoint.tar.{:03}"
CONTENTS = (
    "config.json",
    "model.safetensors",
    "vocab.json",
    "merges.txt",
    "README.md",
    "training/run.json",
    "training/best.json",
    "training/log.csv",
    "training/evaluation.json",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("what", choices=("split", "join"))
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    options = parser.parse_args()
    if options.what == "split":
        split(options.source, options.target)
    else:
        join(options.source, options.target)


def split(model: Path, out: Path, part_bytes: int = PART_BYTES) -> None:
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as files:
        for name in CONTENTS:
            if (model / name).exists():
                files.add(model / name, name)
    contents = archive.getvalue()
    parts = [contents[start : start + part_bytes] for start in range(0, len(contents), part_bytes)]
    out.mkdir(parents=True, exist_ok=True)
    for number, part in enumerate(parts):
        (out / PART.format(number)).write_bytes(part)
    (out / INDEX).write_text(json.dumps({"sha256": list(map(_digest, parts))}, indent=1) + "\n")
    print(f"{len(contents) / 1e6:.1f} MB in {len(parts)} parts in {out}")


def join(parts: Path, model: Path) -> None:
    """Ends the program where a part is missing or damaged, or what comes out is no model that can be loaded."""
    digests = json.loads((parts / INDEX).read_text())["sha256"]
    contents = b"".join(_part(parts / PART.format(number), digest) for number, digest in enumerate(digests))
    with tarfile.open(fileobj=io.BytesIO(contents)) as files:
        files.extractall(model, filter="data")
    config = load_model(model).config
    plot_losses(model / "training" / "log.csv", model / "training" / "loss.png", title_of(config))
    print(f"{model}: {config.num_parameters:,} parameters; gpt2 serve --model {model}")


def _part(file: Path, digest: str) -> bytes:
    contents = file.read_bytes() if file.exists() else sys.exit(f"{file} is missing")
    if _digest(contents) != digest:
        sys.exit(f"{file} is not what was written: copy it again")
    return contents


def _digest(contents: bytes) -> str:
    return hashlib.sha256(contents).hexdigest()


if __name__ == "__main__":
    main()
