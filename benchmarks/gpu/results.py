"""The file that all stages write to, and the options that all have. Knows no torch."""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.files import replace_file

RESULTS = "results.json"
DTYPES = ("bfloat16", "float16", "float32")


@dataclass(frozen=True, slots=True)
class Results:
    """Each stage puts what it has measured so far: one that is ended keeps that."""

    file: Path

    def put(self, stage: str, value: object) -> None:
        document = self.read() | {stage: value}
        replace_file(self.file, lambda file: file.write_text(json.dumps(document, indent=1) + "\n"))

    def read(self) -> dict[str, Any]:
        return dict(json.loads(self.file.read_text())) if self.file.exists() else {}


def stage_parser(description: str | None) -> argparse.ArgumentParser:
    """What a stage is called with. Sizes are options of its own, so that a CPU can try it in seconds."""
    parser = argparse.ArgumentParser(description=(description or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help=f"folder of {RESULTS}")
    parser.add_argument("--device", default="cuda", help="cuda or cpu (default: %(default)s)")
    return parser


def add_checkpoint(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--checkpoint", type=Path, required=True, metavar="DIR", help="the model to measure")


def add_dtype(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dtype", choices=DTYPES, default="bfloat16", help="of weights and cache (default: %(default)s)")


def results_of(options: argparse.Namespace) -> Results:
    options.out.mkdir(parents=True, exist_ok=True)
    return Results(options.out / RESULTS)


def rounded(value: float, digits: int = 4) -> float:
    """To so many significant digits: more would be noise."""
    return float(f"{value:.{digits}g}")
