"""What a native step takes of memory, by its sizes alone; src/model.cpp lays it out so."""

from model.config import GPT2Config
from model.memory import Needs
from model.native.library import Precision

BLOCK = TILE = 64  # src/kernels.h
ELEMENT_BYTES = {Precision.FLOAT32: 4, Precision.BFLOAT16: 2, Precision.INT8: 1}
# Beyond what the process had when it chose its slots: the vocabulary, what serves HTTP, a step's activations. Of the service on the
# default checkpoint, before its first request: 67 to 89 MB.
OTHER_BYTES = 100_000_000


def needs_of(config: GPT2Config, precision: Precision) -> Needs:
    return Needs(precision.label, _weight_bytes(config, precision), _slot_bytes(config, precision), OTHER_BYTES)


def _weight_bytes(config: GPT2Config, precision: Precision) -> int:
    """Linear layers packed in blocks, the output head among them, and positions in float32."""
    embd, inner = config.n_embd, config.inner_size
    layers = [(embd, 3 * embd), (embd, embd), (embd, inner), (inner, embd)] * config.n_layer
    packed = sum(_padded(num_in) * _padded(num_out) for num_in, num_out in [*layers, (embd, config.vocab_size)])
    return packed * ELEMENT_BYTES[precision] + config.n_positions * _padded(embd) * 4


def _slot_bytes(config: GPT2Config, precision: Precision) -> int:
    """Of keys and values in tiles of 64 positions of a head; int8 has a scale a row."""
    scales = TILE * 4 if precision is Precision.INT8 else 0
    tile = TILE * _padded(config.head_dim, 16) * ELEMENT_BYTES[precision] + scales
    return _padded(config.n_positions, TILE) // TILE * config.n_layer * config.n_head * 2 * tile


def _padded(size: int, multiple: int = BLOCK) -> int:
    return -(-size // multiple) * multiple
