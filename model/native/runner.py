"""NativeRunner: a Runner whose whole step is one native call. Owns weights, cache and threads; knows no text, no requests.

A row's bits depend on its own sequence alone: not on the other rows, the cuts of its prompt, the number of threads, or whether
its prefix was computed here or copied.
"""

import ctypes
import struct
from array import array
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from model.batch import Chunk, Draw, ForwardBatch, SampledToken, SamplingParams, StepOutput
from model.config import GPT2Config
from model.native.library import (
    Config,
    Dtype,
    ErrorCode,
    KernelsUnavailable,
    NativeUnavailable,
    NotFinite,
    Precision,
    Token,
    available_kernels,
    load_library,
)
from model.philox import uniform
from model.weights import Weight

MAX_TOP_K = 2**31 - 1  # more than any vocabulary; a client may send any number
DRAW = struct.Struct("<4i8d8i")  # gpt2_draw
PLAIN = (1, 0, 0, 0.0, 1.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0, 0, 0, 0, 0, 0, 0, 0)


class NativeRunner:
    """A Runner in C++, for x86-64 and ARM.

    `kernels` is one of `available_kernels()`, or "auto" for the fastest; `arithmetic` names one of bfloat16's, where the kernels
    have several. The weights are copied, and may be let go of afterwards, unless `is_streamed`: then they are read where they lie,
    in every step, which is slower, but there at once (float32 alone). Raises KernelsUnavailable, NativeUnavailable if this CPU
    cannot compute so, NotFinite for a weight that is no number, MemoryError if there is no room.
    """

    exact_at_any_cut = True

    def __init__(
        self,
        config: GPT2Config,
        weights: Mapping[str, Weight],
        num_slots: int,
        precision: Precision,
        num_threads: int,
        kernels: str = "auto",
        *,
        arithmetic: str | None = None,
        is_streamed: bool = False,
    ) -> None:
        self._library = load_library()
        if kernels not in ("auto", *available_kernels()):
            raise KernelsUnavailable(f"the kernels {kernels} cannot run on this CPU; {', '.join(available_kernels())} can")
        self.config, self.precision, self._num_slots = config, precision, num_slots
        self._model = ctypes.c_void_p()
        native = Config(
            precision=precision,
            is_streamed=is_streamed,
            kernels=None if kernels == "auto" else kernels.encode(),
            arithmetic=None if arithmetic is None else arithmetic.encode(),
            vocab_size=config.vocab_size,
            n_positions=config.n_positions,
            n_embd=config.n_embd,
            n_layer=config.n_layer,
            n_head=config.n_head,
            n_inner=config.inner_size,
            layer_norm_epsilon=config.layer_norm_epsilon,
            num_slots=num_slots,
            num_threads=num_threads,
        )
        self._check(self._library.gpt2_create(ctypes.byref(native), ctypes.byref(self._model)))
        self._weights = weights if is_streamed else None
        for name, weight in sorted(weights.items(), key=lambda item: item[1].values.ndim):
            self._load(name, weight)

    def _load(self, name: str, weight: Weight) -> None:
        assert weight.values.flags.c_contiguous
        data, size, dtype = weight.values.ctypes.data, weight.values.size, Dtype[weight.dtype]
        code = self._library.gpt2_load(self._model, name.encode(), data, size, dtype, weight.is_transposed)
        if code == ErrorCode.NOT_FINITE:
            raise NotFinite(name)
        self._check(code)

    def __del__(self) -> None:
        if getattr(self, "_model", None):
            self._library.gpt2_destroy(self._model)
            self._model = ctypes.c_void_p()

    @property
    def kernels(self) -> str:
        """Which set of kernels computes."""
        return self._library.gpt2_kernels_of(self._model).decode()  # type: ignore[no-any-return]

    @property
    def arithmetic(self) -> str:
        """What fixes the bits, whichever kernels compute: "float32", "int8", or bfloat16 with what adds its products up."""
        return self._library.gpt2_arithmetic_of(self._model).decode()  # type: ignore[no-any-return]

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
            )
        )
        return StepOutput(tuple(SampledToken(token.token_id, token.logprob) for token in tokens))

    def logits(self, batch: ForwardBatch, of_rows: Iterable[int]) -> NDArray[np.float32]:
        """Run a batch and return the logits (N, V) of the given rows, counted through the chunks' tokens; nothing is drawn."""
        rows, num_rows, _ = _rows(batch)
        wanted = array("i", of_rows)
        logits = np.empty((len(wanted), self.vocab_size), np.float32)
        self._check(self._library.gpt2_logits(self._model, rows, num_rows, wanted.tobytes(), len(wanted), logits.ctypes.data))
        return logits

    def logprobs(self, batch: ForwardBatch, next_ids: Sequence[int]) -> NDArray[np.float64]:
        """Run a batch and return the log-probability (R,) of the token that comes after each of its rows; nothing is drawn."""
        rows, num_rows, _ = _rows(batch)
        assert len(next_ids) == num_rows
        logprobs = np.empty(num_rows, np.float64)
        ids = array("i", next_ids).tobytes()
        self._check(self._library.gpt2_logprobs(self._model, rows, num_rows, ids, logprobs.ctypes.data))
        return logprobs

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
