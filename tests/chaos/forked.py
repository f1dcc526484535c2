"""Commands of `gpt2`, each in a process of its own, forked from one that has made all imports: half a second, not twelve."""

import multiprocessing
import os
import shlex
import sys
from collections.abc import Callable
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import NamedTuple

PRELOADED = [
    "app.cli",
    "model.training.adapter",
    "model.training.finetune",
    "model.training.pretrain",
    "matplotlib.backends.backend_agg",
    "matplotlib.image",
    "torch._dynamo",  # which optimizers import when they are made
    "tqdm",
]
PATIENCE_SECONDS = 120.0


class Done(NamedTuple):
    """How a command ended: a negative code is the signal that killed it, None one that had to be."""

    code: int | None
    said: str


def run(line: str, output: Path, limit: Callable[[], None] | None = None) -> Done:
    """`gpt2 LINE`; `limit` is called in its process first, and must be a function that can be pickled."""
    process = _context().Process(target=_main, args=(shlex.split(line), output, limit))
    process.start()
    process.join(PATIENCE_SECONDS)
    code = process.exitcode
    if code is None:
        process.kill()
        process.join()
    return Done(code, output.read_text(errors="replace"))


def _context() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    return context


def _main(arguments: list[str], output: Path, limit: Callable[[], None] | None) -> None:
    import torch

    from app.cli import main

    with output.open("wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    torch.set_num_threads(1)
    if limit is not None:
        limit()
    sys.exit(main(arguments))
