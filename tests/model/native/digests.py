"""What digests.cpp prints, and what it must: the lines of digests.txt."""

import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

FILE = Path(__file__).with_suffix(".txt")


class Digest(NamedTuple):
    """`name` is a case and its arithmetic, as in "tails/greedy int8"."""

    kernels: str
    name: str
    value: str


def expected_digests() -> dict[str, str]:
    lines = [line for line in FILE.read_text().splitlines() if line and not line.startswith("#")]
    return {name: value for name, _, value in (line.rpartition(" ") for line in lines)}


def digests_of(command: Sequence[str | Path]) -> list[Digest]:
    result = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert result.returncode == 0, result.stderr
    lines = [line.split(" ") for line in result.stdout.splitlines()]
    return [Digest(kernels, f"{case} {arithmetic}", value) for kernels, case, arithmetic, value in lines]
