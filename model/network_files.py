"""The network built from a checkpoint and saved as one: what `model.checkpoint` reads without torch, as tensors.

For PyTorch's runner, for training and for measuring. The native step takes a checkpoint's weights as they are.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.overrides import TorchFunctionMode

from model.checkpoint import TRANSPOSED, Checkpoint, Inherited, open_checkpoint, save_config, save_tokenizer
from model.files import all_or_none, replace_file
from model.gpt2 import GPT2
from model.tokenizer import Tokenizer
from model.weights import PREFIX, Weight

Progress = Callable[[int, int], None]


def load_model(directory: Path, on_progress: Progress | None = None) -> GPT2:
    """The network with its weights in float32 on the CPU; `on_progress(done, total)` counts the bytes read."""
    return network_of(open_checkpoint(directory), on_progress)


def network_of(checkpoint: Checkpoint, on_progress: Progress | None = None) -> GPT2:
    """The network with copies of the weights: their file may be replaced, or cut short, while it is in use."""
    with torch.device("meta"), _NothingDrawn():  # no memory and no random numbers for weights that are about to be replaced
        model = GPT2(checkpoint.config)
    tensors, done, total = {}, 0, sum(weight.values.nbytes for weight in checkpoint.weights.values())
    for name, weight in checkpoint.weights.items():
        tensors[name] = _read(weight)
        # The sum is finite only if all are, and quicker; a sum that overflows is looked at again.
        if not tensors[name].sum().isfinite() and not tensors[name].isfinite().all():
            raise checkpoint.not_finite(name)
        done += weight.values.nbytes
        if on_progress is not None:
            on_progress(done, total)
    model.load_state_dict({**tensors, "lm_head.weight": tensors["wte.weight"]}, assign=True)
    model.lm_head.weight = model.wte.weight  # Assigning has parted the two.
    return model


def _read(weight: Weight) -> Tensor:
    """A float32 copy, linear weights as (out, in)."""
    source = torch.from_numpy(weight.values)
    source = source.view(torch.bfloat16) if weight.dtype == "BF16" else source
    source = source.t() if weight.is_transposed else source
    return torch.empty(source.shape, dtype=torch.float32).copy_(source)


class _NothingDrawn(TorchFunctionMode):
    """Leaves out torch.nn.init: on the meta device alone it draws nothing either, but imports torch's compiler for that, 0.7 s."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # torch's own signature
        if getattr(func, "__module__", None) == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        return func(*args, **(kwargs or {}))


def weights_of(model: GPT2) -> dict[str, Weight]:
    """A float32 network's weights as the native step takes them: views of its own memory."""
    return {name: Weight(parameter.detach().numpy(), "F32", is_transposed=False) for name, parameter in model.named_parameters()}


def save_checkpoint(
    directory: Path, model: GPT2, tokenizer: Tokenizer, dtype: torch.dtype, inherited: Inherited | None = None
) -> None:
    """Write weights, config and vocabulary, each file whole or not at all, over those of an older checkpoint.

    `inherited` is what the checkpoint that the network was made of hands on.
    """
    tensors = {}
    for name, parameter in model.named_parameters():
        weight = parameter.detach().to("cpu", dtype)
        tensors[PREFIX + name] = (weight.t() if name.endswith(TRANSPOSED) else weight).contiguous()
    with all_or_none(directory, ("model.safetensors", "config.json", *(inherited.files if inherited else ()))):
        directory.mkdir(parents=True, exist_ok=True)
        replace_file(directory / "model.safetensors", lambda file: save_file(tensors, file, metadata={"format": "pt"}))
        save_config(directory, model.config, str(dtype).removeprefix("torch."), inherited)
        save_tokenizer(directory, tokenizer)
