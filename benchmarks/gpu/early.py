"""What a step gains where each kernel starts while the one before ends (`model.cuda.kernels.early`), and whether all bits stay."""

import argparse
from itertools import pairwise

import torch

from benchmarks.gpu.decode import KINDS, Sequences, step_seconds
from benchmarks.gpu.on_device import dtype_of
from benchmarks.gpu.results import add_checkpoint, add_dtype, results_of, rounded, stage_parser
from model.batch import Runner
from model.cuda.kernel_set import EARLY, TRITON, TWINS
from model.cuda.runner import CudaRunner
from model.network_files import load_model

SETS = {"late": TRITON, "early": EARLY}


def main() -> None:
    parser = stage_parser(__doc__)
    add_checkpoint(parser)
    add_dtype(parser)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 64, 256], help="rows of a step")
    parser.add_argument("--context", type=int, default=224, help="tokens of each prompt (default: %(default)s)")
    parser.add_argument("--new-tokens", type=int, default=64, help="that are decoded in a round (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="of which the median is taken (default: %(default)s)")
    options = parser.parse_args()
    results, rows = results_of(options), list[dict[str, object]]()
    runners = _runners(options)
    for batch in options.batches:
        rows.append({"rows": batch, "same_bits": _same_bits(runners, batch, options)} | _seconds(runners, batch, options))
        print(rows[-1], flush=True)
        results.put("early", rows)


def _runners(options: argparse.Namespace) -> dict[str, CudaRunner]:
    """One a set of kernels, warm; on a CPU both have the twins."""
    model, device, dtype = load_model(options.checkpoint), torch.device(options.device), dtype_of(options.dtype)
    runners = {
        name: CudaRunner(model, max(options.batches), device, dtype, TWINS if device.type == "cpu" else kernels)
        for name, kernels in SETS.items()
    }
    for runner in runners.values():
        runner.warm_up()
    return runners


def _same_bits(runners: dict[str, CudaRunner], batch: int, options: argparse.Namespace) -> bool:
    """Tokens and log-probabilities of every kind of draw, of prompts that each runner has computed itself."""
    told = [[_sequences(runner, batch, options).next_tokens(params) for params in KINDS.values()] for runner in runners.values()]
    return all(one == other for one, other in pairwise(told))


def _seconds(runners: dict[str, CudaRunner], batch: int, options: argparse.Namespace) -> dict[str, object]:
    """Of a step, in turns."""
    seconds: dict[str, object] = {}
    for name, runner in runners.items():
        sequences = _sequences(runner, batch, options)
        seconds[name] = rounded(step_seconds(sequences, KINDS["greedy"], options.new_tokens, options.rounds))
    return seconds


def _sequences(runner: Runner, batch: int, options: argparse.Namespace) -> Sequences:
    sequences = Sequences(runner, batch, options.context)
    sequences.prefill()
    return sequences


if __name__ == "__main__":
    main()
