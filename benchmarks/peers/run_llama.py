"""llama.cpp as a worker, its library called by llama-cpp-python's bindings: all prompts of a job in one batch, then all in step."""

import argparse
import os
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
from places import llama_bindings, llama_flash_attention, llama_server
from worker import Generate, serve

MAX_SEQUENCES, MAX_TOKENS = 32, 512  # as llama-server has them
Tokens = npt.NDArray[np.int32]


def load(options: argparse.Namespace) -> Generate:
    llama = _bindings(options.model.parents[2], options.hold)
    llama.llama_backend_init()
    model = llama.llama_model_load_from_file(bytes(options.model), llama.llama_model_default_params())
    vocab_size = llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(model))
    context = llama.llama_init_from_model(model, _context_params(llama, options.threads, options.hold))
    batch = llama.llama_batch_init(MAX_SEQUENCES * MAX_TOKENS, 0, 1)

    def decode(tokens: Tokens, begin: int) -> Tokens:  # (B, T), the first at position `begin` -> (B, 1)
        _fill(batch, tokens, begin)
        if status := llama.llama_decode(context, batch):
            raise RuntimeError(f"llama_decode returned {status} for {tokens.shape} tokens at {begin}")
        # 6 us a row; the library's greedy sampler takes 80, since it first copies all logits into candidates.
        logits = np.ctypeslib.as_array(llama.llama_get_logits(context), (len(tokens), vocab_size))
        return logits.argmax(1, keepdims=True).astype(np.int32)

    def generate(prompts: list[list[int]], max_new_tokens: int) -> list[list[float]]:
        llama.llama_memory_clear(llama.llama_get_memory(context), False)
        tokens, begin = np.array(prompts, np.int32), 0
        times: list[float] = []
        for _ in range(max_new_tokens):
            length = tokens.shape[1]
            tokens, begin = decode(tokens, begin), begin + length
            times.append(time.perf_counter())
        return [times] * len(prompts)

    return generate


def _bindings(root: Path, hold: str) -> Any:
    """The module of C functions alone: the package's own `__init__` imports packages that these do not need."""
    package = ModuleType("llama_cpp")
    package.__path__ = [str(llama_bindings(root))]
    sys.modules["llama_cpp"] = package
    os.environ["LLAMA_CPP_LIB_PATH"] = str(llama_server(root, hold).parent)
    from llama_cpp import llama_cpp

    return llama_cpp


def _context_params(llama: Any, threads: int, hold: str) -> Any:
    """What was fastest, by decoded tokens/s on an EPYC.

    A cache of its own for each sequence: Q8_0 at 32 sequences 370-420, with a common one (`kv_unified`) 200-250.
    Flash attention: Q8_0 at 32 sequences 530-570, without 370-420. Keys and values in float16, the library's default, for
    every type of weights: F32 at 8 sequences 220-250, with a float32 cache 150-200.
    """
    params = llama.llama_context_default_params()
    params.n_ctx, params.n_seq_max = MAX_SEQUENCES * MAX_TOKENS, MAX_SEQUENCES
    params.n_batch = MAX_SEQUENCES * MAX_TOKENS  # what one call may take; it computes 512 at a time, 128 or 2048 are no faster
    params.n_threads = params.n_threads_batch = threads
    params.kv_unified = False
    params.flash_attn_type = int(llama_flash_attention(hold))
    return params


def _fill(batch: Any, tokens: Tokens, begin: int) -> None:
    """A sequence a row, its tokens from position `begin` on; logits for each row's last alone."""
    num_rows, length = tokens.shape
    batch.n_tokens = tokens.size
    shape = (tokens.size,)
    np.ctypeslib.as_array(batch.token, shape)[:] = tokens.ravel()
    np.ctypeslib.as_array(batch.pos, shape)[:] = np.tile(np.arange(begin, begin + length), num_rows)
    np.ctypeslib.as_array(batch.n_seq_id, shape)[:] = 1
    np.ctypeslib.as_array(batch.logits, shape)[:] = np.tile(np.arange(length) == length - 1, num_rows)
    for i in range(tokens.size):
        batch.seq_id[i][0] = i // length


if __name__ == "__main__":
    serve(load, ["q8_0", "bf16", "f32"])
