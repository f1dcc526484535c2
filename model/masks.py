"""Token masks on the device, made of their bits once and kept while they are in use."""

from collections import OrderedDict

import numpy as np
import torch
from torch import Tensor

from model.batch import TokenMask

MAX_MASKS = 64  # 3 MB of GPT-2's 50,257 tokens


class Masks:
    """The last MAX_MASKS masks that were asked for."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._forbidden: OrderedDict[TokenMask, Tensor] = OrderedDict()

    def forbidden(self, mask: TokenMask, vocab_size: int) -> Tensor:
        """What the mask leaves out: bool (V,)."""
        if mask in self._forbidden:
            self._forbidden.move_to_end(mask)
            return self._forbidden[mask]
        assert len(mask.bits) == -(-vocab_size // 8), "a mask has a bit for each token of the vocabulary"
        allowed = np.unpackbits(np.frombuffer(mask.bits, np.uint8), count=vocab_size, bitorder="little")
        host = torch.from_numpy(allowed == 0)
        if self._device.type == "cuda":
            host = host.pin_memory()  # from where a copy does not wait
        self._forbidden[mask] = host.to(self._device, non_blocking=True)
        if len(self._forbidden) > MAX_MASKS:
            self._forbidden.popitem(last=False)
        return self._forbidden[mask]
