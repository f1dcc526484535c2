"""Which vocabulary, width and depth learn most in the same time: bits per byte on a held-out text after equal minutes of training.

python -m benchmarks.model_sizes books_core.txt.xz --held-out books_eval.txt.xz

The speeds of all networks are measured first, in alternating rounds; each is then trained for as many steps as its speed allows in
the minutes, so that other load on the machine makes the comparison slower but not unfair.
"""

import argparse
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch

from app.environment import prepare_for_training
from benchmarks.machine import write_result
from model.checkpoint import load_tokenizer
from model.config import GPT2Config
from model.network_files import load_model
from model.training.data.batches import WindowSampler
from model.training.data.corpus import Corpus, documents, read_corpus
from model.training.data.options import DataOptions
from model.training.data.shards import map_shards, tokenize
from model.training.defaults import measured_speed
from model.training.distributed import Processes
from model.training.evaluation import evaluate
from model.training.precision import compare_products
from model.training.pretrain import PretrainOptions, learn_vocabulary, load_vocabulary, pretrain
from model.training.recipe import Recipe

CONTEXT, BATCH_SIZE, ROUNDS = 512, 16, 2
CPU = torch.device("cpu")


@dataclass(frozen=True, slots=True)
class Size:
    vocab_size: int
    n_embd: int
    n_layer: int

    @property
    def name(self) -> str:
        return f"V {self.vocab_size:,}, {self.n_embd} wide, {self.n_layer} layers"

    @property
    def sizes(self) -> dict[str, int]:
        return {"n_positions": CONTEXT, "n_embd": self.n_embd, "n_layer": self.n_layer, "n_head": self.n_embd // 64}

    @property
    def config(self) -> GPT2Config:
        return GPT2Config(vocab_size=self.vocab_size, eos_token_ids=(self.vocab_size - 1,), **self.sizes)


SIZES = (Size(4096, 320, 7), Size(8192, 320, 7), Size(16384, 320, 7), Size(8192, 256, 8), Size(8192, 384, 6), Size(8192, 512, 6))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=Path, help="text to train on")
    parser.add_argument("--held-out", type=Path, required=True, help="text to measure on")
    parser.add_argument("--minutes", type=float, default=1.5, help="of training each (default: %(default)s)")
    options = parser.parse_args()
    prepare_for_training()
    with tempfile.TemporaryDirectory() as folder:
        corpus, tokenizers = read_corpus([options.text]), {}
        for vocab_size in sorted({size.vocab_size for size in SIZES}):
            tokenizers[vocab_size] = Path(folder) / f"vocabulary-{vocab_size}"
            learn_vocabulary(corpus, vocab_size, tokenizers[vocab_size], print)
        recipe = Recipe(max_steps=1, batch_size=BATCH_SIZE, bfloat16=compare_products(CPU, 256).bfloat16_pays, compiled=True)
        rates = _rates(corpus, tokenizers, Path(folder) / "tokens", recipe)
        rows = []
        for number, size in enumerate(SIZES):
            torch.compiler.reset()  # what is compiled for a network is no other's, and eight of them are all that is kept
            steps = int(60 * options.minutes * rates[size] / (BATCH_SIZE * CONTEXT))
            given = {"max_steps": steps, "batch_size": BATCH_SIZE, "compiled": True, "validate_every": steps}
            out = Path(folder) / str(number)
            wanted = PretrainOptions(
                data=DataOptions(paths=[options.text], validation_fraction=0.01),
                tokenizer=tokenizers[size.vocab_size],
                sizes=size.sizes,
                recipe=given,
            )
            pretrain(wanted, out, CPU, Processes(), print)
            rows.append(_row(size, rates[size], steps, out, options.held_out))
            print(rows[-1], flush=True)
    write_result(
        "model_sizes", f"python -m benchmarks.model_sizes {options.text.name} --minutes {options.minutes}", {"sizes": rows}
    )


def _rates(corpus: Corpus, tokenizers: dict[int, Path], tokens: Path, recipe: Recipe) -> dict[Size, float]:
    """Tokens a second of each size, the fastest of its rounds: what else runs on the machine only ever slows them."""
    vocabulary = tokenizers[min(tokenizers)]
    tokenize(corpus, load_vocabulary(vocabulary), tokens, 0.01)
    shards = map_shards(tokens)
    rates = dict.fromkeys(SIZES, 0.0)
    for _ in range(ROUNDS):
        for size in SIZES:
            torch.compiler.reset()
            sampler = WindowSampler(shards.train, CONTEXT, seed=0)
            rates[size] = max(rates[size], measured_speed(size.config, sampler, recipe, CPU, num_processes=1).tokens_per_second)
            print(f"{size.name}: {rates[size]:,.0f} tokens/s", flush=True)
    return rates


def _row(size: Size, rate: float, steps: int, checkpoint: Path, held_out: Path) -> dict[str, object]:
    text = "".join(documents(held_out))
    model, tokenizer = load_model(checkpoint), load_tokenizer(checkpoint)
    result = evaluate(model, tokenizer.encode(text), len(text.encode()), bfloat16=True)
    return {
        "size": size.name,
        "parameters": model.config.num_parameters,
        "tokens_per_second": round(rate),
        "tokens_seen": steps * BATCH_SIZE * CONTEXT,
        "bits_per_byte": round(result.bits_per_byte, 4),
    }


if __name__ == "__main__":
    main()
