"""What it costs that a row's bits do not depend on the number of rows: our fixed tiles against the fastest for each number of rows.

Each matrix product of a step is timed with the tiles that it has and with others that the same kernel could be given if bits might
change with the batch. First all are compiled, by several processes at once; what is not compiled in time is left out.
"""

import argparse
import itertools
import multiprocessing
import os
import random
import time
from collections.abc import Iterator
from dataclasses import astuple, replace
from functools import cache
from multiprocessing.pool import Pool
from typing import TYPE_CHECKING, NamedTuple

import torch

from benchmarks.gpu.on_device import dtype_of, median_seconds
from benchmarks.gpu.results import add_checkpoint, add_dtype, results_of, rounded, stage_parser
from model.checkpoint import open_checkpoint
from model.config import GPT2Config
from model.cuda.tiles import Tiles

if TYPE_CHECKING:
    from benchmarks.gpu.products import Product

ROUNDS, CALLS = 5, 4
# Rows of a tile that are tried with so many rows of a step, and what else a tile may be in 16 bits.
BLOCK_M = {1: (16,), 64: (16, 32, 64), 256: (32, 64, 128)}
BLOCK_N, BLOCK_K, NUM_WARPS, NUM_STAGES = (16, 32, 64, 128), (64, 128, 256), (4, 8), (3, 5)
PROCESSES = 14  # of the compilation


class Candidate(NamedTuple):
    """Other tiles for one of a step's products."""

    product: str
    tiles: Tiles


class Task(NamedTuple):
    config: GPT2Config
    dtype: str
    candidate: Candidate


def main() -> None:
    parser = stage_parser(__doc__)
    add_checkpoint(parser)
    add_dtype(parser)
    parser.add_argument("--rows", type=int, nargs="+", choices=BLOCK_M, default=list(BLOCK_M))
    parser.add_argument("--candidates", type=int, default=48, help="at most, for each product (default: %(default)s)")
    parser.add_argument("--compile-seconds", type=float, default=18.0, help="for compiling candidates (default: %(default)s)")
    options = parser.parse_args()
    if options.device == "cpu":
        os.environ["TRITON_INTERPRET"] = "1"  # before the kernels are imported
    results, config = results_of(options), open_checkpoint(options.checkpoint).config
    candidates = _candidates(config, options)
    usable = _compiled(config, candidates, options)
    found: dict[str, object] = {"candidates": len(candidates), "compiled": len(usable)}
    found["by_rows"] = rows = list[dict[str, object]]()
    for num_rows in options.rows:
        rows.append(_tax(config, num_rows, [one for one in usable if one.tiles.block_m in BLOCK_M[num_rows]], options))
        results.put("tax", found)
        print(f"{num_rows:4} rows: fixed tiles take {rows[-1]['tax_percent']} % more than the fastest", flush=True)


def _candidates(config: GPT2Config, options: argparse.Namespace) -> list[Candidate]:
    """In an order drawn by a seed: what the time leaves out is of no one kind. One binary serves all numbers of rows."""
    draw = random.Random(0)
    blocks_m = sorted({block_m for rows in options.rows for block_m in BLOCK_M[rows]})
    every = [Tiles(*numbers) for numbers in itertools.product(blocks_m, BLOCK_N, BLOCK_K, NUM_WARPS, NUM_STAGES)]
    found = [
        Candidate(product.name, tiles)
        for product in _products(config, 1, options.dtype, options.device)
        for tiles in draw.sample(every, min(options.candidates, len(every)))
    ]
    return draw.sample(found, len(found))


def _products(config: GPT2Config, rows: int, dtype: str, device: str) -> "list[Product]":
    """Imports the kernels, after the environment has said whether they are interpreted."""
    from benchmarks.gpu.products import products

    return products(config, rows, dtype_of(dtype), torch.device(device))


def _compiled(config: GPT2Config, candidates: list[Candidate], options: argparse.Namespace) -> list[Candidate]:
    """Those that the card takes and that are compiled in time, in Triton's cache on disk."""
    if options.device == "cpu":
        return candidates
    deadline = time.monotonic() + options.compile_seconds
    tasks = [Task(config, options.dtype, one) for one in candidates]
    with multiprocessing.get_context("spawn").Pool(PROCESSES) as pool:  # CUDA bears no fork
        return list(_until(deadline, pool, tasks))


def _until(deadline: float, pool: Pool, tasks: list[Task]) -> Iterator[Candidate]:
    finished = pool.imap_unordered(_compile, tasks)
    try:
        while True:
            candidate = finished.next(timeout=max(0.0, deadline - time.monotonic()))
            if candidate is not None:
                yield candidate
    except (StopIteration, multiprocessing.TimeoutError):
        return


def _compile(task: Task) -> Candidate | None:
    """None where the compiler or the card refuses such tiles: too much shared memory, most often."""
    one = task.candidate
    try:
        launch = next(
            product.launch for product in _kept(replace(task.config, n_layer=1), task.dtype) if product.name == one.product
        )
        launch(one.tiles, 0)
        torch.cuda.synchronize()
    except Exception as error:
        print(f"{one}: {type(error).__name__}")
        return None
    return one


@cache
def _kept(config: GPT2Config, dtype: str) -> "list[Product]":
    return _products(config, max(BLOCK_M), dtype, "cuda")


def _tax(config: GPT2Config, num_rows: int, candidates: list[Candidate], options: argparse.Namespace) -> dict[str, object]:
    """Seconds of a step's products, with the fixed tiles and with the fastest of each, and which these are."""
    device, fixed_seconds, fastest_seconds = torch.device(options.device), 0.0, 0.0
    by_product = {}
    for product in _products(config, num_rows, options.dtype, options.device):
        seconds = {
            tiles: product.num_launches * _launch_seconds(product, tiles, device)
            for tiles in [product.fixed, *(one.tiles for one in candidates if one.product == product.name)]
        }
        found = min(seconds, key=lambda tiles: seconds[tiles])
        # Once more, these two alone: the least of many measurements is partly luck.
        again = {tiles: product.num_launches * _launch_seconds(product, tiles, device) for tiles in (product.fixed, found)}
        fixed, fastest = again[product.fixed], min(again, key=lambda tiles: again[tiles])
        fixed_seconds, fastest_seconds = fixed_seconds + fixed, fastest_seconds + again[fastest]
        by_product[product.name] = {
            "tried": len(seconds),
            "fixed": astuple(product.fixed),
            "fixed_seconds": rounded(fixed),
            "fastest": astuple(fastest),
            "fastest_seconds": rounded(again[fastest]),
        }
    return {
        "rows": num_rows,
        "fixed_seconds": rounded(fixed_seconds),
        "fastest_seconds": rounded(fastest_seconds),
        "tax_percent": round(100 * (fixed_seconds / fastest_seconds - 1), 1),
        "products": by_product,
    }


def _launch_seconds(product: "Product", tiles: Tiles, device: torch.device) -> float:
    """Of one launch among those of all layers, in a graph as in a step."""

    def run() -> None:
        for i in range(product.num_weights):
            product.launch(tiles, i)

    if device.type == "cpu":
        return median_seconds(run, device, rounds=1) / product.num_weights
    run()  # loaded before it is captured
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return median_seconds(graph.replay, device, ROUNDS, CALLS) / product.num_weights


if __name__ == "__main__":
    main()
