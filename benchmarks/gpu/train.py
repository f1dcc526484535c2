"""Trains a model on what benchmarks.gpu.pack_corpus packed, and measures it on the held-out text.

    python -m benchmarks.gpu.train corpus.tar.xz MODEL

The trainer is that of `gpt2 train pretrain`; the sizes are those of the default checkpoint where no others are given. It ends by
the clock, unless steps are given: nobody knows the speed of a card before its first step is compiled.
"""

import argparse
import importlib
import json
import shlex
import signal
import sys
import tarfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from app.commands.pretrain import SIZES
from app.commands.training import add_run_options, recipe_fields, report, training_errors
from app.environment import prepare_for_training
from app.errors import CommandError
from benchmarks.gpu.held_out import read_held_out
from model.config import GPT2Config
from model.network_files import load_model
from model.training.data.described import counts_of_text, data_story
from model.training.data.shards import map_shards
from model.training.deadline import Deadline
from model.training.defaults import MAX_EPOCHS
from model.training.distributed import Processes, training_device
from model.training.evaluation import evaluate
from model.training.precision import choose_bfloat16
from model.training.pretrain import PretrainPlan, resume
from model.training.recipe import Recipe
from model.training.run_directory import NOTHING_SAVED, RunDirectory
from model.training.segments import Story
from model.training.vocabulary import load_vocabulary

DEFAULT_SIZES = {"n_positions": 512, "n_embd": 512, "n_layer": 8, "n_head": 8}
# 65,536 tokens in a step, for a GPU is far from full with 8,192, and rates that are higher for them. One length of windows: each
# more would be compiled anew, for longer than short ones save. A validation and its saving take two seconds.
RECIPE = {"batch_size": 128, "windows": ((0.0, 1),), "learning_rate": 4e-3, "muon_learning_rate": 0.03, "validate_every": 1000}
MINUTES, BEGAN = 3.5, time.time()
FIRST_STEP_SECONDS = 110  # at most, with its compilation: later there would be no time left to train without


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("packed", type=Path, metavar="FILE.tar.xz")
    parser.add_argument("out", type=Path, metavar="MODEL", help="directory of the new checkpoint")
    for name, text in SIZES.items():
        parser.add_argument("--" + name.replace("_", "-"), type=int, metavar="N", help=text, default=DEFAULT_SIZES[name])
    add_run_options(parser, "windows of the whole context", minutes=f"{MINUTES:g}")
    parser.add_argument("--until", type=float, metavar="TIME", help="end training then, in seconds since 1970")
    options = parser.parse_args()
    prepare_for_training()
    # It would look for fonts while a card waits; parts.join draws the losses.
    sys.modules["matplotlib"] = None  # type: ignore[assignment]
    try:
        with training_errors():
            return _train(options)
    except CommandError as error:
        print(error, file=sys.stderr)
        return 2


def _train(options: argparse.Namespace) -> int:
    directory, device = RunDirectory(options.out), training_device(options.device)
    directory.check_unused()
    with ThreadPoolExecutor() as pool:
        unpacking = pool.submit(_unpack, options)
        if device.type == "cuda":  # whose start and whose compiler's import take as many seconds
            torch.zeros(1, device=device)
            importlib.import_module("torch._inductor.compile_fx")
        unpacking.result()
    _plan(directory, device, options)
    is_whole = resume(options.out, device, Processes(), _report_of_new_run, deadline=_deadline(options))
    _measure(directory, device)
    return 0 if is_whole else 130


def _unpack(options: argparse.Namespace) -> None:
    with tarfile.open(options.packed) as archive:
        archive.extractall(options.out, filter="data")


class _WatchedDeadline(Deadline):
    """A first step that hangs ends the process, whatever it hangs in: train.sh tries without compiling."""

    def __init__(self, at: float) -> None:
        super().__init__(at)
        signal.alarm(FIRST_STEP_SECONDS)

    def begin(self) -> None:
        signal.alarm(0)
        super().begin()


def _deadline(options: argparse.Namespace) -> Deadline | None:
    if options.max_steps is not None:
        return None
    until = options.until or BEGAN + 60 * (options.minutes or MINUTES)
    return _WatchedDeadline(time.monotonic() + until - time.time())


def _report_of_new_run(line: str) -> None:
    if line != NOTHING_SAVED:  # which says that a run begins anew, as this one is meant to
        report(line)


def _plan(directory: RunDirectory, device: torch.device, options: argparse.Namespace) -> None:
    """Write what a run is resumed by: the network, and a recipe of at most as many steps as pay."""
    tokenizer, shards = load_vocabulary(directory.out), map_shards(directory.tokens)
    sizes = {name: getattr(options, name) for name in SIZES}
    assert tokenizer.eos_token_id is not None
    config = GPT2Config(vocab_size=tokenizer.vocab_size, eos_token_ids=(tokenizer.eos_token_id,), **sizes)
    # A GPU compiles by what Triton brings, and gains by it; a short run on a CPU does not.
    given = RECIPE | {"compiled": device.type == "cuda"} | recipe_fields(options)
    if "bfloat16" not in given:
        given["bfloat16"] = choose_bfloat16(device, config.n_embd, Processes(), report)
    batch_tokens, train_tokens = int(str(given["batch_size"])) * config.n_positions, sum(map(len, shards.train))
    recipe = Recipe(**{"max_steps": MAX_EPOCHS * train_tokens // batch_tokens} | given)  # type: ignore[arg-type]
    story = Story(data_story([options.packed], counts_of_text(shards))).asked(0, shlex.join(sys.argv), recipe_fields(options))
    directory.write_plan(PretrainPlan(config=config, recipe=recipe, story=story).to_json())
    report(f"{config.num_parameters:,} parameters; steps of {batch_tokens:,} tokens, of which there are {train_tokens:,}")


def _measure(directory: RunDirectory, device: torch.device) -> None:
    token_ids, num_bytes = read_held_out(directory.training)
    found = evaluate(load_model(directory.out).to(device), token_ids, num_bytes, bfloat16=device.type == "cuda")
    result = {"bits_per_byte": found.bits_per_byte, "perplexity": found.perplexity, "tokens": found.num_tokens, "bytes": num_bytes}
    (directory.training / "evaluation.json").write_text(json.dumps(result, indent=1) + "\n")
    print(f"{found.bits_per_byte:.4f} bits per byte, perplexity {found.perplexity:.1f} a token, of {num_bytes:,} bytes held out")


if __name__ == "__main__":
    sys.exit(main())
