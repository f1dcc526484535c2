"""Training speed: our trainer beside `transformers` GPT2LMHeadModel with a plain loop of torch's AdamW.

    python -m benchmarks.training_speed

Wanted with Muon: at least 1.6 times the tokens/s, without AVX-512 1.1 times. The same sizes, the same batch and no dropout for
all. Each contender runs in a process of its own, by turns, --rounds times; its first two steps, in which ours is compiled, are not
counted, and of the others the median is. Ours runs as under `gpt2 train`: with what app.environment sets, in bfloat16 where that
pays. The plain loop runs as it comes, in float32 and by autocast in bfloat16, of which the faster counts; for information once more
with what app.environment sets, which it would have to know of.

The share of the peak: 6 N + 6 L C T operations a token (N parameters without the positions', attention to half the context)
against the rate of one large product of matrices, in the faster precision, measured in the same rounds.

A processor without AVX-512 is played by what torch and oneDNN read from the environment:

    ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 python -m benchmarks.training_speed --result training_speed_avx2 \\
        --without "transformers, bfloat16" "transformers, bfloat16, prepared"

There, products of bfloat16 take many times as long, and those two contenders hours.
"""

import argparse
import os
import shlex
import statistics
import subprocess
import sys
from dataclasses import asdict, dataclass
from typing import Any

from app.environment import prepare_for_training
from model.config import GPT2Config

WANTED, WANTED_HELD = 1.6, 1.1  # the second without AVX-512, where nothing but the update is left to gain on
HELD_BY = ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA")  # of the environment; kept with the result


@dataclass(frozen=True)
class Contender:
    name: str
    kind: str
    prepared: bool = True  # by app.environment
    optimizer: str = "adamw"
    compiled: bool = False
    bfloat16: bool = False  # of transformers; ours has its own judgement


PLAIN = (
    Contender("transformers, float32", "transformers", prepared=False),
    Contender("transformers, bfloat16", "transformers", prepared=False, bfloat16=True),
)
PEAK = Contender("product of matrices", "product")
CONTENDERS = {
    contender.name: contender
    for contender in (
        Contender("ours, compiled, Muon", "ours", optimizer="muon", compiled=True),
        Contender("ours, compiled, AdamW", "ours", compiled=True),
        Contender("ours, not compiled, Muon", "ours", optimizer="muon"),
        *PLAIN,
        Contender("transformers, float32, prepared", "transformers"),
        Contender("transformers, bfloat16, prepared", "transformers", bfloat16=True),
        PEAK,
    )
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=10, help="that are counted in a round")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--n-positions", type=int, default=256)
    parser.add_argument("--vocab-size", type=int, default=8192)
    parser.add_argument("--n-embd", type=int, default=384)
    parser.add_argument("--n-layer", type=int, default=6)
    parser.add_argument("--n-head", type=int, default=6)
    parser.add_argument("--without", choices=CONTENDERS, nargs="+", default=[], help="contenders to leave out")
    parser.add_argument("--result", default="training_speed", help="name of the result's file (default: %(default)s)")
    parser.add_argument("--measure", choices=CONTENDERS, help=argparse.SUPPRESS)  # what this program starts itself with
    options = parser.parse_args()
    config = GPT2Config(
        vocab_size=options.vocab_size,
        n_positions=options.n_positions,
        n_embd=options.n_embd,
        n_layer=options.n_layer,
        n_head=options.n_head,
        eos_token_ids=(options.vocab_size - 1,),
    )
    if options.measure:
        print(_measure(CONTENDERS[options.measure], config, options.batch_size, options.steps))
    else:
        names = [name for name in CONTENDERS if name not in options.without]
        _compare(config, options.batch_size, options.steps, options.rounds, names, options.result)


def _measure(contender: Contender, config: GPT2Config, batch_size: int, steps: int) -> float:
    if contender.prepared:
        prepare_for_training()
    from benchmarks import training_contenders as contenders  # torch reads the environment when it is imported

    if contender.kind == "ours":
        return contenders.our_rate(config, batch_size, steps, contender.optimizer, contender.compiled)
    if contender.kind == "transformers":
        return contenders.transformers_rate(config, batch_size, steps, contender.bfloat16)
    return contenders.product_rate()


def _compare(config: GPT2Config, batch_size: int, steps: int, num_rounds: int, names: list[str], result_name: str) -> None:
    from benchmarks.machine import write_result

    rates: dict[str, list[float]] = {name: [] for name in names}
    for number in range(num_rounds):
        for name in names:
            rates[name].append(_in_its_own_process(name))
            unit = "operations/s" if name == PEAK.name else "tokens/s"
            print(f"round {number + 1}, {name}: {rates[name][-1]:,.0f} {unit}", flush=True)
    peak = max(rates.pop(PEAK.name))
    best = max((rates[contender.name] for contender in PLAIN if contender.name in rates), key=statistics.median)
    rows = [_row(name, values, best, peak / _operations_per_token(config)) for name, values in rates.items()]
    held = [f"{name}={os.environ[name]}" for name in HELD_BY if name in os.environ]
    wanted = WANTED_HELD if held else WANTED
    _print_table(rows, wanted)
    measured = {"config": asdict(config), "batch_size": batch_size, "steps": steps, "rounds": num_rounds}
    result = {**measured, "peak_tflops": round(peak / 1e12, 2), "wanted_ratio": wanted, "rows": rows}
    write_result(result_name, shlex.join([*held, "python", "-m", "benchmarks.training_speed", *sys.argv[1:]]), result)


def _print_table(rows: list[dict[str, Any]], wanted: float) -> None:
    print(f"\n{'':<33} {'tokens/s':>9} {'ratio':>6} {'range':>13} {'of the peak':>12}")
    for row in rows:
        spread = " - ".join(f"{ratio:.2f}" for ratio in row["ratio_range"])
        print(f"{row['name']:<33} {row['tokens_per_second']:>9,} {row['ratio']:>6.2f} {spread:>13} {row['share_of_peak']:>12.1%}")
    print(f"wanted: {wanted} times the faster of {' and '.join(contender.name for contender in PLAIN)}")


def _in_its_own_process(name: str) -> float:
    command = [sys.executable, "-m", "benchmarks.training_speed", *sys.argv[1:], "--measure", name]
    return float(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()[-1])


def _operations_per_token(config: GPT2Config) -> int:
    num_parameters = config.num_parameters - config.n_positions * config.n_embd
    return 6 * num_parameters + 6 * config.n_layer * config.n_embd * config.n_positions


def _row(name: str, rates: list[float], best: list[float], peak_rate: float) -> dict[str, Any]:
    """`best` has the rates of the one to compare with; at `peak_rate` tokens a second the processor would reach its peak."""
    ratios = [rate / other for rate, other in zip(rates, best, strict=True)]
    return {
        "name": name,
        "tokens_per_second": round(statistics.median(rates)),
        "ratio": round(statistics.median(ratios) - 0.005, 2),
        "ratio_range": [round(min(ratios) - 0.005, 2), round(max(ratios), 2)],
        "share_of_peak": round(statistics.median(rates) / peak_rate, 4),
    }


if __name__ == "__main__":
    main()
