"""Every way in which the native step can compute, and small networks to compute with."""

import functools
import platform
from typing import NamedTuple

import torch

from model.config import GPT2Config
from model.gpt2 import GPT2
from model.native.library import MACHINES, NativeUnavailable, Precision
from model.native.runner import NativeRunner
from model.network_files import weights_of
from model.weights import Weight

KERNELS = {"x86_64": ("amx", "avx512", "avx2", "scalar"), "aarch64": ("neon", "scalar")}.get(MACHINES.get(platform.machine()), ())
# What fixes the bits. Every set of kernels has the first three; the others round as one set's instructions do.
ARITHMETICS = {
    "float32": Precision.FLOAT32,
    "int8": Precision.INT8,
    "bfloat16-fma": Precision.BFLOAT16,
    "bfloat16-vdpbf16ps": Precision.BFLOAT16,
    "bfloat16-tdpbf16ps": Precision.BFLOAT16,
}
COMMON = ("float32", "int8", "bfloat16-fma")
OF_ONE_SET = {"bfloat16-vdpbf16ps": "avx512", "bfloat16-tdpbf16ps": "amx"}


class Kind(NamedTuple):
    """A set of kernels, and the arithmetic that it computes in."""

    kernels: str
    arithmetic: str

    @property
    def precision(self) -> Precision:
        return ARITHMETICS[self.arithmetic]

    @property
    def is_slow(self) -> bool:
        """Scalar kernels take tens of times as long: their tests are smaller."""
        return self.kernels == "scalar"

    def runner(
        self, config: GPT2Config, weights: dict[str, Weight], num_slots: int = 1, num_threads: int = 1, is_streamed: bool = False
    ) -> NativeRunner:
        return NativeRunner(
            config,
            weights,
            num_slots,
            self.precision,
            num_threads,
            self.kernels,
            arithmetic=self.arithmetic,
            is_streamed=is_streamed,
        )


KINDS = {
    f"{arithmetic}_{kernels}": Kind(kernels, arithmetic)
    for arithmetic in ARITHMETICS
    for kernels in KERNELS
    if OF_ONE_SET.get(arithmetic, kernels) == kernels
}


@functools.cache
def missing(kind: Kind) -> str | None:
    """Why this CPU cannot compute so."""
    config = GPT2Config(vocab_size=2, n_positions=1, n_embd=2, n_layer=1, n_head=1, eos_token_ids=(0,))
    try:
        kind.runner(config, weights_of(GPT2(config)))
    except NativeUnavailable as error:
        return str(error)
    return None


@functools.cache
def network(config: GPT2Config) -> GPT2:
    """Random weights and biases, large enough that attention is far from uniform. Whoever changes it takes a copy."""
    chance = torch.Generator().manual_seed(0)
    model = GPT2(config).init_weights(chance).eval().requires_grad_(False)
    for parameter in model.parameters():
        if parameter.ndim == 2:
            parameter.mul_(4)
        else:
            parameter.add_(torch.randn(parameter.shape, generator=chance) * 0.1)
    return model
