"""Chinese poems from nothing: a vocabulary of characters and a small network, trained on poems by their forms and titles.

`python examples/recipes/poems.py POEMS --out DIR` takes lines of {"author", "title", "text"}. Asked for "七律·登高" and a line
end, the model writes eight lines of seven characters.
"""

import argparse
import json
import math
import random
from collections.abc import Sequence
from pathlib import Path

from common import TESTS, Result, describe, generate, gpt2, length, log_probabilities, main, share, write_text
from poems_baseline import CharacterModel
from poems_text import FORMS, Poem, form, lines, read_poems, share_of_copied_lines, split

from app.commands.parser import Parser
from app.generation import GenerationRequest
from model.batch import SamplingParams
from model.checkpoint import load_config, load_tokenizer
from model.training.errors import TrainingError

VOCABULARY = 4096
SIZES = ("--n-embd", 256, "--n-layer", 3, "--n-head", 4, "--n-positions", 128)
HOW = ("--batch-size", 32, "--validation-fraction", 0.01)
STEPS = 2500
TEMPERATURE = 0.9
MAX_CHARACTERS = 100  # of the baseline's poems; 七律 has 76 with marks and line ends, and a model writes to the end of its context
SHOWN = 10
ORDER = 2  # characters that the baseline looks back on


def poems(options: argparse.Namespace) -> Result:
    collected, num_all = read_poems(options.poems)
    train, test = split(collected)
    test = [poem for poem in test if poem.form in FORMS.values()][: options.tests]
    if not test:
        raise TrainingError(f"none of the {len(collected)} regular poems in {options.poems} is held out; give more of them")
    write_documents(options.out / "test.jsonl", test)
    model = pretrain(options, write_documents(options.out / "train.jsonl", train))
    counted = CharacterModel((poem.document for poem in train), ORDER)
    return {
        "trained_on": f"{len(train):,} poems of {num_all:,}",
        "tested_on": f"{len(test):,} poems of other titles",
        "measure": "bits per character",
        **likelihoods(model, test, counted),
        **forms(test, written(model, test), imitated(counted, test), train),
        "base": describe(str(model)),
    }


def write_documents(file: Path, poems: Sequence[Poem]) -> Path:
    return write_text(file, "".join(json.dumps({"text": poem.document}, ensure_ascii=False) + "\n" for poem in poems))


def pretrain(options: argparse.Namespace, data: Path) -> Path:
    """The vocabulary and the network; of the network's options those that the user gives count."""
    vocabulary, model = options.out / "vocabulary", options.out / "model"
    kind = () if options.pieces else ("--characters",)
    gpt2("train", "tokenizer", data, *kind, "--vocab-size", options.vocab_size, "--out", vocabulary)
    run = (*SIZES, *HOW, *length(options, 10), *options.further)
    gpt2("train", "pretrain", data, "--tokenizer", vocabulary, "--out", model, *run)
    return model


def likelihoods(model: Path, test: Sequence[Poem], counted: CharacterModel) -> Result:
    """Bits per character of the poems, marks and line ends included, given form and title; before: all tokens equally likely."""
    num_characters = sum(len(poem.text) for poem in test)
    tokenizer = load_tokenizer(model)
    num_tokens = sum(len(tokenizer.encode(poem.text)) for poem in test)
    bits = -sum(log_probabilities(model, [(poem.prompt, poem.text) for poem in test])) / math.log(2)
    baseline = sum(counted.bits(poem.text, poem.prompt) for poem in test)
    return {
        "before": round(math.log2(tokenizer.vocab_size) * num_tokens / num_characters, 4),
        "after": round(bits / num_characters, 4),
        "beside": [f"by the {ORDER} characters before", round(baseline / num_characters, 4)],
        "tokens_per_character": round(num_tokens / num_characters, 4),
    }


def written(model: Path, asked: Sequence[Poem]) -> list[str]:
    """A poem of each form and title, each drawn with a seed of its own."""
    samplings = (SamplingParams(temperature=TEMPERATURE, seed=seed) for seed in range(len(asked)))
    room = load_config(model).n_positions
    requests = [GenerationRequest((poem.prompt,), sampling, room) for poem, sampling in zip(asked, samplings, strict=True)]
    return generate(model, requests)


def imitated(counted: CharacterModel, asked: Sequence[Poem]) -> list[str]:
    draw = random.Random(0)
    return [counted.write(poem.prompt, MAX_CHARACTERS, draw) for poem in asked]


def forms(asked: Sequence[Poem], written: Sequence[str], imitated: Sequence[str], train: Sequence[Poem]) -> Result:
    """How many poems have a form at all, how many the one that they were asked for, and how many lines others had written."""
    known = {line for poem in train for line in lines(poem.text)}
    return {
        "in_a_form": share([form(text) is not None for text in written]),
        "in_the_form_asked": share([form(text) == poem.form for poem, text in zip(asked, written, strict=True)]),
        "in_a_form_beside": share([form(text) is not None for text in imitated]),
        "copied_lines": round(share_of_copied_lines(written, known), 4),
        "copied_lines_of_real_poems": round(share_of_copied_lines([poem.text for poem in asked], known), 4),
        "samples": [f"{poem.prompt}{text}" for poem, text in zip(asked[:SHOWN], written, strict=False)],
    }


def arguments() -> argparse.ArgumentParser:
    options = Parser(description=__doc__, epilog="Further options, at the end, go to gpt2 train pretrain.")
    options.add_argument("poems", type=Path, metavar="POEMS", help=".jsonl file of poems, plain, .xz or .gz")
    options.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="new folder for the data made and the new checkpoint"
    )
    options.add_argument("--steps", type=int, default=STEPS, metavar="N", help="steps of training (default: %(default)s)")
    options.add_argument("--tests", type=int, default=TESTS, metavar="N", help="poems tested, at most (default: %(default)s)")
    options.add_argument(
        "--vocab-size", type=int, default=VOCABULARY, metavar="N", help="tokens of the vocabulary (default: %(default)s)"
    )
    options.add_argument("--pieces", action="store_true", help="a vocabulary that may have tokens of several characters")
    return options


if __name__ == "__main__":
    main(poems, arguments())
