"""Topic classification: which label is likeliest to follow a passage, before and after training on labelled passages.

`python examples/recipes/topics.py novel=BOOKS speech=SPEECHES almanac=FACTBOOK play=PLAYS --out DIR`: each LABEL=PATH is a word and
a text file of its kind; the last tenth of each file is held out.
"""

import argparse
import random
import re
from itertools import chain
from pathlib import Path

from common import Result, main, parser, read_documents
from labels import Passage, learned, passages

from model.training.errors import TrainingError

HELD_OUT = 0.1
NUM_TRAIN = 600  # passages of each label
MIN_CHARACTERS, MAX_CHARACTERS = 80, 200  # of a passage: a sentence or two
SPEAKER = re.compile(r"^[^\n:]{1,30}:$", flags=re.MULTILINE)  # a play's layout would give it away


def prompt(passage: str) -> str:
    return f"{passage}\n\nThe passage above is from a kind of text called:"


def passages_of(document: str) -> list[str]:
    return passages(SPEAKER.sub("", document), MIN_CHARACTERS, MAX_CHARACTERS)


def labelled(label: str, path: Path, num_test: int) -> tuple[list[Passage], list[Passage]]:
    """Passages drawn from the first part of the texts of one kind, and from the last."""
    found = [(passage, label) for document in read_documents(path) for passage in passages_of(document)]
    first_held_out = round(len(found) * (1 - HELD_OUT))
    if not 0 < first_held_out < len(found):
        raise TrainingError(f"{path} has {len(found)} passages of {MIN_CHARACTERS} characters or more; that is too few")
    parts = (found[:first_held_out], NUM_TRAIN), (found[first_held_out:], num_test)
    train, test = (random.Random(0).sample(part, min(size, len(part))) for part, size in parts)
    return train, test


def topics(options: argparse.Namespace) -> Result:
    labels = [label for label, _ in options.texts]
    parts = [labelled(label, path, max(1, options.tests // len(labels))) for label, path in options.texts]
    train, test = (list(chain.from_iterable(lists)) for lists in zip(*parts, strict=True))
    mixed = random.Random(0).sample(train, len(train))
    result, after = learned(options, mixed, test, labels, prompt, "the files' ends")
    judged = [{"passage": text, "expected": label, "after": now} for (text, label), now in zip(test, after, strict=True)]
    return result | {"mistakes": [one for one in judged if one["after"] != one["expected"]][:3]}


def label_and_path(argument: str) -> tuple[str, Path]:
    label, separator, path = argument.partition("=")
    if not (label and separator and path):
        raise argparse.ArgumentTypeError(f"{argument!r} is not of the form LABEL=PATH")
    return label, Path(path)


def arguments() -> argparse.ArgumentParser:
    options = parser(__doc__, steps=150)
    options.add_argument("texts", nargs="+", type=label_and_path, metavar="LABEL=PATH", help="a kind of text, and a file of it")
    return options


if __name__ == "__main__":
    main(topics, arguments())
