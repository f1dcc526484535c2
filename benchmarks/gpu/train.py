"""Trains a model on what benchmarks.gpu.pack_corpus packed, and measures it on the held-out text.

    python -m benchmarks.gpu.train corpus.tar.xz MODEL

The trainer is that of `gpt2 train pretrain`; the sizes are those of the default checkpoint where no others are given.
"""

import argparse
import json
import sys
import tarfile
from dataclasses import asdict
from pathlib import Path

import torch

from app.commands.pretrain import SIZES
from app.commands.training import add_run_options, recipe_fields, report, training_errors
from app.environment import prepare_for_training
from app.errors import CommandError
from benchmarks.gpu.held_out import read_held_out
from model.config import GPT2Config
from model.network_files import load_model
from model.training.defaults import choose_recipe
from model.training.distributed import Processes, training_device
from model.training.evaluation import evaluate
from model.training.pretrain import resume
from model.training.run_directory import NOTHING_SAVED, RunDirectory
from model.training.shards import map_shards
from model.training.vocabulary import load_vocabulary

DEFAULT_SIZES = {"n_positions": 512, "n_embd": 384, "n_layer": 6, "n_head": 6}
# 32,768 tokens of windows of 512 in a step: the recipe's rates are for some ten thousand, and a GPU is far from full with 8,192.
BATCH_SIZE = 64
MINUTES = 3.5  # of the six that all takes: each of three lengths of windows is compiled twice, to train and to validate


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("packed", type=Path, metavar="FILE.tar.xz")
    parser.add_argument("out", type=Path, metavar="MODEL", help="directory of the new checkpoint")
    for name, text in SIZES.items():
        parser.add_argument("--" + name.replace("_", "-"), type=int, metavar="N", help=text, default=DEFAULT_SIZES[name])
    add_run_options(parser, minutes=f"{MINUTES:g}")
    options = parser.parse_args()
    prepare_for_training()
    try:
        with training_errors():
            return _train(options)
    except CommandError as error:
        print(error, file=sys.stderr)
        return 2


def _train(options: argparse.Namespace) -> int:
    directory, device = RunDirectory(options.out), training_device(options.device)
    directory.check_unused()
    with tarfile.open(options.packed) as archive:
        archive.extractall(options.out, filter="data")
    _plan(directory, device, options)
    is_whole = resume(options.out, device, Processes(), _report_of_new_run)
    _measure(directory, device)
    return 0 if is_whole else 130


def _report_of_new_run(line: str) -> None:
    if line != NOTHING_SAVED:  # which says that a run begins anew, as this one is meant to
        report(line)


def _plan(directory: RunDirectory, device: torch.device, options: argparse.Namespace) -> None:
    """Write what a run is resumed by: the network, and a recipe of as many steps as fit into the minutes here."""
    tokenizer, shards = load_vocabulary(directory.out), map_shards(directory.tokens)
    sizes = {name: getattr(options, name) for name in SIZES}
    assert tokenizer.eos_token_id is not None
    config = GPT2Config(vocab_size=tokenizer.vocab_size, eos_token_ids=(tokenizer.eos_token_id,), **sizes)
    # A GPU compiles by what Triton brings, and gains by it; a short run on a CPU does not.
    given = {"batch_size": BATCH_SIZE, "compiled": device.type == "cuda"} | recipe_fields(options)
    minutes = options.minutes or MINUTES
    recipe = choose_recipe(given, minutes, config, shards, device, Processes(), report)
    directory.write_plan({"kind": "pretrain", "config": asdict(config), "recipe": recipe.to_json()})
    tokens = recipe.max_steps * recipe.batch_size * config.n_positions
    report(f"{config.num_parameters:,} parameters; {recipe.max_steps:,} steps, {tokens:,} tokens of {shards.num_tokens:,}")


def _measure(directory: RunDirectory, device: torch.device) -> None:
    token_ids, num_bytes = read_held_out(directory.training)
    found = evaluate(load_model(directory.out).to(device), token_ids, num_bytes, bfloat16=device.type == "cuda")
    result = {"bits_per_byte": found.bits_per_byte, "perplexity": found.perplexity, "tokens": found.num_tokens, "bytes": num_bytes}
    (directory.training / "evaluation.json").write_text(json.dumps(result, indent=1) + "\n")
    print(f"{found.bits_per_byte:.4f} bits per byte, perplexity {found.perplexity:.1f} a token, of {num_bytes:,} bytes held out")


if __name__ == "__main__":
    sys.exit(main())
