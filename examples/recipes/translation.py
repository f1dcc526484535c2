"""Toy translation: English number words into French ones, learned from pairs that this script makes; the numbers tested are new.

`python examples/recipes/translation.py --out DIR` needs no data.
"""

import argparse
import random
import re

from common import Pair, Result, answers, finetune, main, parser, share, write_pairs

LARGEST = 9999
NUM_TRAIN = 5000
HOW = ("--batch-size", 32, "--learning-rate", 1e-3)

# What has a word of its own; "-" stands where there is none.
UP_TO_19 = """
zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen
zéro un deux trois quatre cinq six sept huit neuf dix onze douze treize quatorze quinze seize dix-sept dix-huit dix-neuf
"""
TENS = """
- - twenty thirty forty fifty sixty seventy eighty ninety
- - vingt trente quarante cinquante soixante soixante quatre-vingt quatre-vingt
"""
ENGLISH, FRENCH = (line.split() for line in UP_TO_19.strip().splitlines())
ENGLISH_TENS, FRENCH_TENS = (line.split() for line in TENS.strip().splitlines())


def english(n: int) -> str:
    """0 to 999,999 in words, as in "one thousand two hundred and five"."""
    if n < 20:
        return ENGLISH[n]
    if n < 100:
        return ENGLISH_TENS[n // 10] + (f"-{ENGLISH[n % 10]}" if n % 10 else "")
    unit, name = (1000, "thousand") if n >= 1000 else (100, "hundred")
    rest = n % unit
    link = " and " if 0 < rest < 100 else " "
    return f"{english(n // unit)} {name}" + (link + english(rest) if rest else "")


def french(n: int, final: bool = True) -> str:
    """0 to 999,999 in words, traditional spelling; not `final` before mille, where vingt and cent take no s."""
    if n < 20:
        return FRENCH[n]
    if n < 100:
        return _french_below_100(n, final)
    if n < 1000:
        hundreds, rest = divmod(n, 100)
        cent = "cent" if hundreds == 1 else f"{FRENCH[hundreds]} cent"
        if rest:
            return f"{cent} {french(rest, final)}"
        return cent + ("s" if hundreds > 1 and final else "")
    thousands, rest = divmod(n, 1000)
    mille = "mille" if thousands == 1 else f"{french(thousands, final=False)} mille"
    return mille + (f" {french(rest)}" if rest else "")


def _french_below_100(n: int, final: bool) -> str:
    tens = FRENCH_TENS[n // 10]
    rest = n % 20 if n >= 60 else n % 10  # soixante-dix, quatre-vingt-dix: counted by twenties
    if n == 80:
        return tens + ("s" if final else "")
    if not rest:
        return tens
    return f"{tens} et {FRENCH[rest]}" if rest in (1, 11) and n < 80 else f"{tens}-{FRENCH[rest]}"


def word_by_word(words: str) -> str:
    """Each word by its own French one in the English order, which is right where no rule interferes."""
    own = {english(n): french(n) for n in (*range(20), *range(20, 100, 10))} | {"hundred": "cent", "thousand": "mille"}
    return re.sub(r"[a-z]+", lambda match: own[match[0]], words.replace(" and ", " "))


def pairs(numbers: list[int]) -> list[Pair]:
    return [(f"English: {english(n)}\nFrench:", f" {french(n)}") for n in numbers]


def translation(options: argparse.Namespace) -> Result:
    numbers = random.Random(0).sample(range(LARGEST + 1), NUM_TRAIN + options.tests)
    test = pairs(numbers[: options.tests])
    train = write_pairs(options.out / "train.jsonl", pairs(numbers[options.tests :]))
    write_pairs(options.out / "test.jsonl", test)
    model = options.out / "model"
    finetune(options, train, model, *HOW)
    prompts, expected = [prompt for prompt, _ in test], [completion.strip() for _, completion in test]
    before, after = (answers(name, prompts, max_new_tokens=40) for name in (options.model, model))
    return {
        "trained_on": f"{NUM_TRAIN:,} numbers",
        "tested_on": f"{options.tests:,} others",
        "measure": "exact match",
        "beside": ["word by word", share([word_by_word(english(n)) == e for n, e in zip(numbers, expected, strict=False)])],
        "before": share([a == b for a, b in zip(before, expected, strict=True)]),
        "after": share([a == b for a, b in zip(after, expected, strict=True)]),
        "samples": [
            {"english": english(n), "expected": e, "before": b, "after": a}
            for n, e, b, a in zip(numbers[:5], expected, before, after, strict=False)
        ],
    }


def arguments() -> argparse.ArgumentParser:
    return parser(__doc__, steps=400)


if __name__ == "__main__":
    main(translation, arguments())
