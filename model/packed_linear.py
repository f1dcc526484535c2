"""Linear layers in oneDNN's own weight layout: faster on a CPU, and each row's bits do not depend on the other rows.

Measured with torch 2.13: plain F.linear changes a row's bits with the number of rows; this does not, for two rows or more.
"""

import functools

import torch
from torch import Tensor, nn

from model.gpt2 import GPT2, MLP

MIN_ROWS = 2  # A single row takes oneDNN's matrix-vector path, which rounds otherwise.
# In bfloat16 on a CPU with AMX oneDNN takes another kernel above 32 rows (above 36, 48 and 64 again for some widths), which rounds
# otherwise. Measured at 128 rows of 768 to 3072: one call 0.43 ms, four of 32 rows 0.92 ms, without AMX 5.2 ms.
MAX_ROWS_BFLOAT16 = 32


@functools.cache
def packs_bfloat16() -> bool:
    """Whether oneDNN takes bfloat16 into its layout on this CPU; it needs AVX512BW. Tried once."""
    try:
        torch.ops.mkldnn._reorder_linear_weight(torch.zeros(2, 2, dtype=torch.bfloat16), None)
    except RuntimeError:
        return False
    return True


def padded_rows(num_rows: int) -> int:
    """The number of rows, of a few, that so many are padded to; at least MIN_ROWS.

    oneDNN compiles and keeps a kernel for each number of rows that it meets: left alone, these grew by 200 MB over 1,500 mixed
    requests, and each new one delayed a step.
    """
    step = 2 if num_rows <= 16 else 8 if num_rows <= 64 else 16
    return max(-(-num_rows // step) * step, MIN_ROWS)


class PackedLinear(nn.Module):
    """y = x Wᵀ + b, then the tanh-GELU if `gelu`: x (R, in) to (R, out) for R of at least MIN_ROWS.

    The fused GELU is also the exact one here: torch's own rounds differently in a vector's body and in its scalar tail, whose place
    depends on the number of rows.
    """

    def __init__(self, linear: nn.Linear, gelu: bool = False) -> None:
        super().__init__()
        self.weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), None)
        self.bias = None if linear.bias is None else linear.bias.detach()
        self.activation, self.algorithm = ("gelu", "tanh") if gelu else ("none", "")

    def forward(self, x: Tensor) -> Tensor:
        if x.dtype == torch.bfloat16 and x.shape[0] > MAX_ROWS_BFLOAT16:
            # Parts of nearly equal size, so that none is a single row.
            return torch.cat([self._linear(part) for part in x.tensor_split(-(-x.shape[0] // MAX_ROWS_BFLOAT16))])
        return self._linear(x)

    def _linear(self, x: Tensor) -> Tensor:
        y: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, self.activation, [], self.algorithm)
        return y


def packed(model: GPT2, dtype: torch.dtype = torch.float32) -> GPT2:
    """A copy of the network on the CPU in `dtype` whose linear layers are packed; it can only infer.

    The network stays as it is. The copy shares its embeddings, LayerNorms and biases, if these are in `dtype`.
    """
    copy = model.for_inference(torch.device("cpu"), dtype)
    for module in list(copy.modules()):
        for name, child in module.named_children():
            if type(child) is nn.Linear:  # not one that does more
                setattr(module, name, PackedLinear(child, gelu=isinstance(module, MLP) and name == "c_fc"))
        if isinstance(module, MLP) and isinstance(module.c_fc, PackedLinear):
            module.act = nn.Identity()
    return copy
