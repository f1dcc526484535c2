"""What torch and OpenMP read from the environment once, when they are first imported. Whoever has set a variable keeps it."""

import os

FOR_TORCH = {
    # OpenMP's helpers spin a little while they wait for the next layer, but not for long: with the default, 300 times as much,
    # another busy process made a decoding step of GPT-2 124M on two cores take 600 ms in place of 25; with this, 45.
    "GOMP_SPINCOUNT": "1000",
    # Weights and cache in huge pages: read at 31 GB/s in place of 12 to 20.
    "THP_MEM_ALLOC_ENABLE": "1",
}


def prepare_for_torch() -> None:
    """To be called before torch is imported; nothing in app.cli does so at its head."""
    for name, value in FOR_TORCH.items():
        os.environ.setdefault(name, value)
