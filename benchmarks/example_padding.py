"""How much of the batches of fine-tuning is padding: examples are not packed into rows, but laid beside others of like length.

python -m benchmarks.example_padding pairs.jsonl

An epoch's batches at several sizes, on the default checkpoint's vocabulary. Computes nothing but the batches themselves.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path

from app.settings import DEFAULT_MODEL
from model.chat_template import PLAIN, ChatTemplate
from model.checkpoint import load_config, load_tokenizer
from model.training.data.conversations import ChatWriter
from model.training.data.example_batches import ExampleData
from model.training.data.example_files import ExampleEncoder, read_examples
from model.training.data.examples import Examples
from model.training.distributed import Processes
from model.training.recipe import Recipe

BATCH_SIZES = (8, 16, 32, 64)


def padding(examples: Examples, batch_size: int) -> float:
    """The share of all positions of an epoch that nothing stands at."""
    data = ExampleData(examples, examples, replace(Recipe(max_steps=1), batch_size=batch_size), Processes())
    rows = [tokens for step in range(data.batches_per_epoch) for tokens, _ in data.batch(step).parts]
    num_examples = data.batches_per_epoch * batch_size  # the last batch is filled up with some that were there before
    return 1 - float(examples.lengths.mean()) * num_examples / sum(tokens.numel() for tokens in rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("examples", type=Path, nargs="+", help="files as gpt2 train finetune takes them")
    options = parser.parse_args()
    tokenizer, config = load_tokenizer(DEFAULT_MODEL), load_config(DEFAULT_MODEL)
    end = tokenizer.name(config.eos_token_id)
    template = ChatTemplate(PLAIN, "plain", {"bos_token": end, "eos_token": end})
    encoder = ExampleEncoder(tokenizer, config.eos_token_id, lambda: ChatWriter(template, tokenizer, config.eos_token_id))
    examples = read_examples(options.examples, encoder, config.n_positions, print)
    shares = {str(size): round(padding(examples, size), 3) for size in BATCH_SIZES if size <= len(examples)}
    print(json.dumps({"examples": len(examples), "mean_tokens": round(float(examples.lengths.mean()), 1), "padding": shares}))


if __name__ == "__main__":
    main()
