"""How far each precision is from exact arithmetic: float64 on the CPU, float32, then bfloat16 and float16, ours beside PyTorch's.

Compared are the log-probabilities of a text's tokens; an error is given in standard deviations of the exact ones. Ours in float32
must have float32's error, not that of tensor cores' shortened products; in 16 bits no more than PyTorch's with the same weights,
whose residual stream is rounded too. A text that is decoded token by token must have the bits of one that is prefilled.
"""

import random
import sys

import torch
from torch import Tensor

from benchmarks.gpu.on_device import dtype_of
from benchmarks.gpu.results import DTYPES, add_checkpoint, results_of, rounded, stage_parser
from benchmarks.gpu.runner import PREFILL_CHUNK, build_runner
from model.batch import Chunk, ForwardBatch, Runner, Scores
from model.gpt2 import GPT2
from model.network_files import load_model

FLOAT32_LIMIT = 1e-4  # tensor cores' tf32 errs by about 1e-3
PYTORCH_LIMIT = 1.25  # of PyTorch's error in the same 16 bits: two roundings of one text differ a little by chance


def main() -> None:
    parser = stage_parser(__doc__)
    add_checkpoint(parser)
    parser.add_argument("--dtypes", choices=DTYPES, nargs="+", default=["float32", "bfloat16", "float16"])
    parser.add_argument("--tokens", type=int, default=PREFILL_CHUNK, help="of the text (default: %(default)s)")
    options = parser.parse_args()
    results, device = results_of(options), torch.device(options.device)
    model = load_model(options.checkpoint)
    text = random.Random(0).choices(range(model.config.vocab_size), k=options.tokens)
    exact = _of_network(model.double(), text, torch.device("cpu"), torch.float64)
    rungs = [_rung("PyTorch on the CPU", "float32", _of_network(model, text, torch.device("cpu"), torch.float32), exact)]
    model = model.float()
    for name in options.dtypes:
        rungs.append(_rung("PyTorch", name, _of_network(model, text, device, dtype_of(name)), exact))
        ours, rest = _ours(model, text, device, dtype_of(name), exact)
        rungs.append({**_rung("ours", name, ours, exact), **rest})
        results.put("ladder", rungs)
    failures = [failure for rung in rungs for failure in _failures(rung, rungs)]
    results.put("ladder", [{**rung, "failures": _failures(rung, rungs)} for rung in rungs])
    sys.exit("; ".join(failures) or None)


def _of_network(model: GPT2, text: list[int], device: torch.device, dtype: torch.dtype) -> Tensor:
    """Log-probabilities (T - 1,) of the text's tokens behind the first, by PyTorch's own operations."""
    with torch.inference_mode():
        network = model.for_inference(device, dtype)
        logits = network(torch.tensor([text[:-1]], device=device))[0].cpu().double()  # (T - 1, V)
        return logits.log_softmax(dim=-1).gather(-1, torch.tensor(text[1:])[:, None])[:, 0]


def _ours(
    model: GPT2, text: list[int], device: torch.device, dtype: torch.dtype, exact: Tensor
) -> tuple[Tensor, dict[str, object]]:
    runner = build_runner(model, 2, dtype, device)
    prefilled, decoded = _prefilled(runner, text), _decoded(runner, text)
    return prefilled, {"decoded_error": _error(decoded, exact), "same_bits_decoded": bool(torch.equal(prefilled, decoded))}


def _prefilled(runner: Runner, text: list[int]) -> Tensor:
    return _scores(runner, Chunk(0, 0, tuple(text[:-1]), scores=Scores(0, tuple(text[1:]))))


def _decoded(runner: Runner, text: list[int]) -> Tensor:
    chunks = (Chunk(1, i, (text[i],), scores=Scores(0, (text[i + 1],))) for i in range(len(text) - 1))
    return torch.cat([_scores(runner, chunk) for chunk in chunks])


def _scores(runner: Runner, chunk: Chunk) -> Tensor:
    (output,) = runner.launch(ForwardBatch((chunk,))).collect().chunks
    assert output.error is None, output.error
    return torch.tensor([score.logprob for score in output.scores], dtype=torch.float64)


def _rung(who: str, dtype: str, found: Tensor, exact: Tensor) -> dict[str, object]:
    rung: dict[str, object] = {"who": who, "dtype": dtype, "error": _error(found, exact)}
    print(f"{dtype}, {who}: {rung['error']:.3g} standard deviations from float64", flush=True)
    return rung


def _error(found: Tensor, exact: Tensor) -> float:
    """Root of the mean square, in standard deviations of what is exact."""
    return rounded(((found - exact).square().mean().sqrt() / exact.std()).item())


def _failures(rung: dict[str, object], rungs: list[dict[str, object]]) -> list[str]:
    if rung["who"] != "ours":
        return []
    failures, dtype = [], rung["dtype"]
    limit = FLOAT32_LIMIT
    if dtype != "float32":
        limit = PYTORCH_LIMIT * next(float(str(r["error"])) for r in rungs if (r["who"], r["dtype"]) == ("PyTorch", dtype))
    for kind in ("error", "decoded_error"):
        if not float(str(rung[kind])) <= limit:  # nor if it is not a number
            failures.append(f"{dtype}: {kind} {rung[kind]} is above {limit:.3g}")
    if not rung["same_bits_decoded"]:
        failures.append(f"{dtype}: decoding gives other bits than prefilling")
    return failures


if __name__ == "__main__":
    main()
