"""NativeRunner: a Runner whose whole step is one native call. Owns weights, cache and threads; knows no text, no requests.

A row's bits depend on its own sequence alone: not on the other rows, the cuts of its prompt, the number of threads, or whether
its prefix was computed here or copied.
"""

import ctypes
import struct
from array import array
from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray

from model.batch import Chunk, Draw, ForwardBatch, SampledToken, SamplingParams, StepOutput
from model.config import GPT2Config
from model.gpt2 import GPT2
from model.native.library import Config, ErrorCode, Feature, NativeUnavailable, Precision, Token, available_features, load_library
from model.philox import uniform

MAX_TOP_K = 2**31 - 1  # more than any vocabulary; a client may send any number
DRAW = struct.Struct("<4i8d8i")  # gpt2_draw
PLAIN = (1, 0, 0, 0.0, 1.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0, 0, 0, 0, 0, 0, 0, 0)


class NativeRunner:
    """A Runner in C++ for x86-64 CPUs with AVX-512.

    `features` may name fewer instruction sets than the CPU has. The model's weights are copied; it may be let go of afterwards.
    Raises NativeUnavailable if the CPU cannot compute in this precision, MemoryError if there is no room.
    """

    exact_at_any_cut = True

    def __init__(
        self, model: GPT2, num_slots: int, precision: Precision, num_threads: int, features: Feature | None = None
    ) -> None:
        self._library = load_library()
        self.config, self.precision, self.num_threads, self._num_slots = model.config, precision, num_threads, num_slots
        config = _native_config(model.config, num_slots, precision, available_features() if features is None else features)
        self._model = ctypes.c_void_p()
        self._check(self._library.gpt2_create(ctypes.byref(config), ctypes.byref(self._model)))
        for name, parameter in model.named_parameters():
            values = parameter.detach().to(torch.float32).contiguous()
            self._check(self._library.gpt2_load(self._model, name.encode(), values.data_ptr(), values.numel(), num_threads))

    def __del__(self) -> None:
        if getattr(self, "_model", None):
            self._library.gpt2_destroy(self._model)
            self._model = ctypes.c_void_p()

    @property
    def num_slots(self) -> int:
        return self._num_slots

    @property
    def max_positions(self) -> int:
        return self.config.n_positions

    @property
    def vocab_size(self) -> int:
        return self.config.vocab_size

    @property
    def cache_bytes(self) -> int:
        """Of a full cache, padding apart; memory is taken as positions come into use."""
        element, scale = {Precision.FLOAT32: (4, 0), Precision.BFLOAT16: (2, 0), Precision.INT8: (1, 4)}[self.precision]
        per_layer = 2 * (self.config.n_embd * element + self.config.n_head * scale)
        return self.num_slots * self.max_positions * self.config.n_layer * per_layer

    def execute(self, batch: ForwardBatch) -> StepOutput:
        rows, num_rows, draw_rows = _rows(batch)
        draws = _Draws([chunk.draw for chunk in batch.chunks if chunk.draw is not None], draw_rows)
        tokens = (Token * draws.num)()
        self._check(
            self._library.gpt2_step(
                self._model,
                rows,
                num_rows,
                draws.packed,
                draws.num,
                draws.ids,
                draws.values,
                ctypes.addressof(tokens),
                self.num_threads,
            )
        )
        return StepOutput(tuple(SampledToken(token.token_id, token.logprob) for token in tokens))

    def logits(self, batch: ForwardBatch, of_rows: Iterable[int]) -> NDArray[np.float32]:
        """Run a batch and return the logits (N, V) of the given rows, counted through the chunks' tokens; nothing is drawn."""
        rows, num_rows, _ = _rows(batch)
        wanted = array("i", of_rows)
        logits = np.empty((len(wanted), self.vocab_size), np.float32)
        self._check(
            self._library.gpt2_logits(
                self._model, rows, num_rows, wanted.tobytes(), len(wanted), logits.ctypes.data, self.num_threads
            )
        )
        return logits

    def warm_up(self) -> None:
        """Start the threads and take the memory of the usual steps."""
        num_tokens = min(128, self.max_positions - 1)
        draw = Draw(SamplingParams(temperature=1.0), position=num_tokens)
        self.execute(ForwardBatch((Chunk(0, 0, (0,) * num_tokens, draw),)))
        self.execute(ForwardBatch((Chunk(0, num_tokens, (0,), draw),)))

    def copy_prefix(self, source: int, target: int, length: int) -> None:
        self._check(self._library.gpt2_copy_prefix(self._model, source, target, length))

    def _check(self, code: int) -> None:
        if code:
            message = self._library.gpt2_last_error().decode()
            errors = {
                ErrorCode.OUT_OF_MEMORY: MemoryError,
                ErrorCode.OUT_OF_RANGE: IndexError,
                ErrorCode.UNAVAILABLE: NativeUnavailable,
            }
            raise errors[ErrorCode(code)](message)


def _native_config(config: GPT2Config, num_slots: int, precision: Precision, features: Feature) -> Config:
    return Config(
        precision=precision,
        features=features,
        vocab_size=config.vocab_size,
        n_positions=config.n_positions,
        n_embd=config.n_embd,
        n_layer=config.n_layer,
        n_head=config.n_head,
        n_inner=config.inner_size,
        layer_norm_epsilon=config.layer_norm_epsilon,
        num_slots=num_slots,
    )


def _rows(batch: ForwardBatch) -> tuple[bytes, int, list[int]]:
    """The batch as gpt2_row values, how many these are, and the row of each draw."""
    values, draw_rows = array("i"), []
    for chunk in batch.chunks:
        for i, token_id in enumerate(chunk.token_ids):
            values.extend((token_id, chunk.start + i, chunk.slot))
        if chunk.draw is not None:
            draw_rows.append(len(values) // 3 - 1)
    return values.tobytes(), len(values) // 3, draw_rows


class _Draws:
    """A step's draws as gpt2_draw values, with the integers and floats that their ranges point into."""

    def __init__(self, draws: list[Draw], rows: list[int]) -> None:
        self._ids, self._values = array("i"), array("f")
        self.num = len(draws)
        self.packed = b"".join(self._pack(draw, row) for draw, row in zip(draws, rows, strict=True))
        self.ids, self.values = self._ids.tobytes(), self._values.tobytes()

    def _pack(self, draw: Draw, row: int) -> bytes:
        p = draw.params
        if p.greedy and not (p.needs_history or p.logit_bias or draw.banned_ids):
            return DRAW.pack(row, *PLAIN)
        self._values.extend([0.0] * (len(self._ids) - len(self._values)))
        bias = self._range([token_id for token_id, _ in p.logit_bias])
        self._values.extend(value for _, value in p.logit_bias)
        return DRAW.pack(
            row, 0, min(p.top_k, MAX_TOP_K), 0, p.temperature, p.top_p, p.min_p, p.typical_p,
            p.repetition_penalty, p.frequency_penalty, p.presence_penalty, 0.0 if p.greedy else uniform(p.seed, draw.position),
            *bias, *self._range(draw.banned_ids), *self._range(draw.prompt_ids), *self._range(draw.generated_ids),
        )  # fmt: skip

    def _range(self, ids: Iterable[int]) -> tuple[int, int]:
        begin = len(self._ids)
        self._ids.extend(ids)
        return begin, len(self._ids)
