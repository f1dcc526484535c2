"""Sentiment: is a passage of a novel happy or sad? Learned from labels that nobody wrote, without the words that give it away.

`python examples/recipes/sentiment.py BOOKS OTHERS --out DIR` learns from the one file and is tested on the other. A passage with at
least two words of one list below, and none of the other, is labelled by them (distant supervision); then these words are blanked,
so that only the rest of the passage is left to judge by.
"""

import argparse
import random
import re
from pathlib import Path

from common import Result, main, parser, read_documents
from labels import Passage, learned, passages

from model.training.errors import TrainingError

NUM_TRAIN = 4000  # passages of each label
LEAST = 2  # words of a list that label a passage: one alone is often said of something else
MIN_CHARACTERS, MAX_CHARACTERS = 100, 320  # of a passage: some sentences
BLANK = "----"  # as the novels write a name that they keep to themselves
LABELS = ("happy", "sad")
LEXICON = {
    "happy": """
        happy happily happiness happier happiest joy joys joyful joyous joyfully joyously delight delighted delightful
        delightfully glad gladly gladness cheerful cheerfully merry merrily pleasure pleasant pleasantly charming smile
        smiled smiles smiling laugh laughed laughing laughter love loved lovely beautiful beauty gay gaily sweet enjoy
        enjoyed hopeful kindness kindly rejoice rejoiced""",
    "sad": """
        sad sadly sadness unhappy misery miserable miserably wretched grief grieved sorrow sorrowful sorrows despair
        despairing tears weep weeping wept sob sobbed sobbing gloom gloomy gloomily mournful pain painful suffering
        suffered anguish agony terror terrible terribly horror horrible dreadful dread fear fears feared afraid
        frightened hate hated hatred angry angrily anger rage fury furious bitter bitterly bitterness cruel cruelty
        death dying lonely hopeless shame ashamed moan moaned groan groaned""",
}
WORDS = {label: re.compile(rf"\b(?:{'|'.join(words.split())})\b", flags=re.IGNORECASE) for label, words in LEXICON.items()}


def prompt(passage: str) -> str:
    return f"{passage}\n\nThe passage above is"


def label(passage: str) -> str | None:
    """The label whose words are in the passage; None if there are too few, or some of both."""
    counts = {label: len(words.findall(passage)) for label, words in WORDS.items()}
    found = [label for label, count in counts.items() if count]
    return found[0] if len(found) == 1 and counts[found[0]] >= LEAST else None


def blanked(passage: str) -> str:
    for words in WORDS.values():
        passage = words.sub(BLANK, passage)
    return passage


def labelled(books: Path, num_each: int) -> list[Passage]:
    """Passages of a text file drawn in equal numbers for each label, as many as the rarer one has, and in a drawn order."""
    cut = (passage for book in read_documents(books) for passage in passages(book, MIN_CHARACTERS, MAX_CHARACTERS))
    found: dict[str, list[str]] = {name: [] for name in LABELS}
    for passage in cut:
        if name := label(passage):
            found[name].append(blanked(passage))
    num_each = min(num_each, *map(len, found.values()))
    if not num_each:
        raise TrainingError(f"{books} has no passages of two words of the one list and none of the other; is it novels?")
    generator = random.Random(0)
    drawn = [(passage, name) for name in LABELS for passage in generator.sample(found[name], num_each)]
    return generator.sample(drawn, len(drawn))


def sentiment(options: argparse.Namespace) -> Result:
    train, test = labelled(options.books, NUM_TRAIN), labelled(options.others, options.tests // len(LABELS))
    result, after = learned(options, train, test, LABELS, prompt, "other books")
    judged = [{"passage": text, "expected": name, "after": now} for (text, name), now in zip(test, after, strict=True)]
    return result | {"samples": judged[:5]}


def arguments() -> argparse.ArgumentParser:
    options = parser(__doc__, steps=200)
    options.add_argument("books", type=Path, metavar="BOOKS", help="text of novels to learn from, plain, .xz or .gz")
    options.add_argument("others", type=Path, metavar="OTHERS", help="text of other novels, to test on")
    return options


if __name__ == "__main__":
    main(sentiment, arguments())
