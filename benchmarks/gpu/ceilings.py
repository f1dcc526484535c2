"""What the card can do at most: copy, multiply, and begin a kernel of a graph.

The floors that benchmarks.gpu.table holds every speed against are made of these, measured on the same card in the same minute.
"""

import platform
from importlib.metadata import version

import torch
from torch import Tensor

from benchmarks.gpu.on_device import median_seconds
from benchmarks.gpu.results import results_of, rounded, stage_parser

ROUNDS = 9
NUM_NODES = 1000
PACKAGES = ("torch", "triton", "transformers")


def main() -> None:
    parser = stage_parser(__doc__)
    parser.add_argument("--copy-megabytes", type=int, default=1024, help="of each buffer, far more than caches hold")
    parser.add_argument("--side", type=int, default=8192, help="of the matrices")
    options = parser.parse_args()
    results, device = results_of(options), torch.device(options.device)
    results.put("machine", _machine(device))
    copy, product = rounded(_copy(options.copy_megabytes << 20, device)), rounded(_product(options.side, device))
    node = rounded(_node()) if device.type == "cuda" else None
    results.put("ceilings", {"copy_bytes_per_second": copy, "bfloat16_flops": product, "graph_node_seconds": node})
    print(
        f"copy {copy / 1e12:.3f} TB/s, read and written; bfloat16 {product / 1e12:.1f} TFLOP/s; "
        f"an empty kernel in a graph {'not measured' if node is None else f'{1e6 * node:.2f} us'}"
    )


def _machine(device: torch.device) -> dict[str, str]:
    card = torch.cuda.get_device_name(device) if device.type == "cuda" else "none"
    return {"card": card, "python": platform.python_version(), **{name: version(name) for name in PACKAGES}}


def _copy(num_bytes: int, device: torch.device) -> float:
    """Bytes a second, those read and those written; two pairs of buffers by turns, so that no cache keeps any."""
    pairs = [tuple(torch.randint(255, (num_bytes,), dtype=torch.uint8, device=device) for _ in range(2)) for _ in range(2)]

    def run() -> None:
        for source, target in pairs:
            target.copy_(source)

    return len(pairs) * 2 * num_bytes / median_seconds(run, device, ROUNDS)


def _product(side: int, device: torch.device) -> float:
    """Operations a second of a product of random matrices: on zeros, which take less power, a card clocks higher."""
    a, b = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    return 2 * side**3 / median_seconds(lambda: a @ b, device, ROUNDS)


def _node() -> float:
    """Seconds that a kernel which does nothing takes among others in a replayed graph, each behind the one before."""
    from benchmarks.gpu.empty_kernel import launch_empty

    anything = torch.zeros(1, device="cuda")
    launch_empty(anything)  # compiled before it is captured
    graph = _captured(anything)
    return median_seconds(graph.replay, torch.device("cuda"), ROUNDS) / NUM_NODES


def _captured(anything: Tensor) -> torch.cuda.CUDAGraph:
    from benchmarks.gpu.empty_kernel import launch_empty

    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(NUM_NODES):
            launch_empty(anything)
    return graph


if __name__ == "__main__":
    main()
