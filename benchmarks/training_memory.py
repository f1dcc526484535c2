"""The memory that fine-tuning the default checkpoint takes: its peak, and whether it grows over a run.

    python -m benchmarks.training_memory books_eval.txt.xz

Wanted: below 1.2 GB at the default batch, and no more at the end than after the first third. Each run is a process of its own,
started as a user would, `gpt2 train finetune` with 60 steps; its resident memory and that of what it starts, the program that draws
the curves, is read from /proc five times a second, validations and saving included.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.machine import write_result

WANTED_MB = 1200
EVERY_SECONDS = 0.2
RUNS = {
    "8 rows": ("--batch-size", "8"),
    "32 rows": ("--batch-size", "32"),
    "8 rows, activation checkpointing": ("--batch-size", "8", "--activation-checkpointing"),
    "8 rows, LoRA": ("--batch-size", "8", "--lora"),
}


@dataclass
class Curve:
    """Resident memory in MB over a run with what it starts; the peak is at least what the system noted as the run's own."""

    sizes: list[float] = field(default_factory=list)
    peak: float = 0.0

    def look(self, process: subprocess.Popen[bytes]) -> None:
        own = _sizes(process.pid)
        if "VmRSS" in own:  # it has not ended meanwhile
            started = [_sizes(int(pid)) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]
            # Until a program is loaded into it, a process that was started has the same memory, not as much again.
            others = (sizes for sizes in started if sizes.get("VmSize") != own["VmSize"])
            self.sizes.append(own["VmRSS"] + sum(sizes.get("VmRSS", 0.0) for sizes in others))
            self.peak = max(self.peak, own["VmHWM"], self.sizes[-1])

    @property
    def growth(self) -> float:
        """From the largest of the second third to the largest of the last one."""
        third = len(self.sizes) // 3
        return max(self.sizes[2 * third :]) - max(self.sizes[third : 2 * third])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=Path, help="text to train on")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--only", choices=RUNS, nargs="+", default=list(RUNS), help="runs to make (default: all)")
    options = parser.parse_args()
    rows = {}
    for name in options.only:
        curve, seconds = _run(options.text, options.steps, RUNS[name])
        rows[name] = {
            "peak_mb": round(curve.peak),
            "median_mb": round(statistics.median(curve.sizes)),
            "growth_mb": round(curve.growth),
            "curve_mb": [round(size) for size in curve.sizes[:: max(1, len(curve.sizes) // 40)]],
            "seconds": round(seconds),
        }
        print(f"{name}: peak {curve.peak:,.0f} MB, {curve.growth:+,.0f} MB in the last third", flush=True)
    print(f"wanted: a peak below {WANTED_MB:,} MB at the default batch of 8 rows")
    command = f"python -m benchmarks.training_memory {options.text.name} --steps {options.steps}"
    write_result("training_memory", command, {"threads": os.environ.get("OMP_NUM_THREADS"), "wanted_mb": WANTED_MB, "runs": rows})


def _sizes(pid: int) -> dict[str, float]:
    """The sizes that the system tells of a process, in MB; of one that has ended none."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return {}
    return {line.partition(":")[0]: int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith("Vm")}


def _run(text: Path, steps: int, given: tuple[str, ...]) -> tuple[Curve, float]:
    curve, begin = Curve(), time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "app", "train", "finetune", str(text), "--out", f"{folder}/out"]
        command += ["--steps", str(steps), "--validate-every", str(max(1, steps // 3)), *given]
        with subprocess.Popen(command) as process:
            while process.poll() is None:
                curve.look(process)
                time.sleep(EVERY_SECONDS)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    return curve, time.monotonic() - begin


if __name__ == "__main__":
    main()
