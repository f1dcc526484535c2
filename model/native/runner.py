"""NativeRunner: a Runner whose whole step is one native call. Owns weights, cache and threads; knows no text, no requests.

A row's bits depend on its own sequence alone: not on the other rows, the cuts of its prompt, the number of threads, or whether
its prefix was computed here or copied.
"""

import ctypes
from array import array
from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from model.batch import Capabilities, Chunk, Draw, ForwardBatch, SamplingParams, StepOutput
from model.config import GPT2Config
from model.native.library import (
    Config,
    Dtype,
    ErrorCode,
    NativeUnavailable,
    NotFinite,
    Precision,
    check_available,
    load_library,
)
from model.native.packing import PackedBatch
from model.steps import Done, run_steps
from model.weights import Weight

MAX_DRAWS = 1024  # the step knows no bound; its draws of one row wait for each other


class NativeRunner:
    """A Runner in C++, for x86-64 and ARM.

    `kernels` is one of `available_kernels()`, or "auto" for the fastest; `arithmetic` names one of bfloat16's, where the kernels
    have several. The weights are copied, and may be let go of afterwards, unless `is_streamed`: then they are read where they lie,
    in every step, which is slower, but there at once (float32 alone). Raises KernelsUnavailable, NativeUnavailable if this CPU
    cannot compute so, NotFinite for a weight that is no number, MemoryError if there is no room.
    """

    capabilities = Capabilities(exact_at_any_cut=True, max_draws=MAX_DRAWS)

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
        check_available(kernels)
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

    def launch(self, batch: ForwardBatch) -> Done:
        """Run the batch to its end.

        Raises IndexError, before anything is changed, for what the model does not hold: a token, position, slot, row or mask.
        """
        return Done(run_steps(self._step, batch))

    def _step(self, batch: ForwardBatch) -> StepOutput:
        packed = PackedBatch(batch, self.vocab_size)
        self._check(self._library.gpt2_step(self._model, packed.input, packed.output))
        return packed.answers()

    def logits(self, batch: ForwardBatch, of_rows: Iterable[int]) -> NDArray[np.float32]:
        """Run a batch and return the logits (N, V) of the given rows, counted through the chunks' tokens; nothing is drawn."""
        packed, rows = PackedBatch(batch, self.vocab_size), array("i", of_rows)
        logits = np.empty((len(rows), self.vocab_size), np.float32)
        self._check(
            self._library.gpt2_logits(self._model, packed.input, rows.tobytes(), len(rows), logits.ctypes.data, logits.size)
        )
        return logits

    def warm_up(self) -> None:
        """Start the threads and take the memory of the usual steps."""
        num_tokens = min(128, self.max_positions - 1)
        params = SamplingParams(temperature=1.0)
        self.launch(ForwardBatch((Chunk(0, 0, (0,) * num_tokens, (Draw(num_tokens - 1, params),)),)))
        self.launch(ForwardBatch((Chunk(0, num_tokens, (0,), (Draw(0, params),)),)))

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
