"""What the recipes that choose a label share: passages cut from texts, how labels are learned, and naive Bayes to beat."""

import argparse
import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from common import Result, finetune, log_probabilities, share, write_pairs

Passage = tuple[str, str]  # the text, and its label

HOW = ("--batch-size", 32, "--learning-rate", 3e-4)
WORD = re.compile(r"[a-z']+|[!?]")


def passages(text: str, shortest: int, longest: int) -> list[str]:
    """The text cut into passages of whole sentences, each on one line; sentences that are too long are left out."""
    found, passage = [], ""
    for sentence in re.split(r"(?<=[.!?;])\s+|\n\n", text):
        line = " ".join(sentence.split())
        if len(passage) + len(line) >= longest:
            found.append(passage)
            passage = ""
        if len(line) < longest:
            passage = f"{passage} {line}".strip()
    return [passage for passage in [*found, passage] if len(passage) >= shortest]


def learned(
    options: argparse.Namespace,
    train: Sequence[Passage],
    test: Sequence[Passage],
    labels: Sequence[str],
    prompt: Callable[[str], str],
    of_what: str,
) -> tuple[Result, list[str]]:
    """Train on passages in their prompts, each followed by its label: how well those of the test were judged, before and after, and
    what each is taken for now. `of_what` says where these come from.
    """
    for name, labelled in (("train", train), ("test", test)):
        write_pairs(options.out / f"{name}.jsonl", [(prompt(text), f" {label}") for text, label in labelled])
    model = options.out / "model"
    finetune(options, options.out / "train.jsonl", model, *HOW)
    texts, expected = [text for text, _ in test], [label for _, label in test]
    prompts = [prompt(text) for text in texts]
    *before, prior = score(options.model, [*prompts, prompt("")], labels)
    after = likeliest(score(model, prompts, labels), labels)
    result: Result = {
        "labels": labels,
        "trained_on": f"{len(train):,} passages",
        "tested_on": f"{len(test):,} passages of {of_what}",
        "measure": "accuracy",
        "beside": ["chance", most_frequent(expected), "naive Bayes", accuracy(naive_bayes(train, texts), expected)],
        "before": accuracy(likeliest(before, labels), expected),
        "before_calibrated": accuracy(likeliest(before, labels, prior), expected),
        "after": accuracy(after, expected),
        "confusion": confusion(after, expected, labels),
    }
    return result, after


def score(model: str | Path, prompts: Sequence[str], labels: Sequence[str]) -> list[list[float]]:
    """The log-probability of each label after each prompt."""
    scores = log_probabilities(model, [(prompt, f" {label}") for prompt in prompts for label in labels])
    return [scores[i : i + len(labels)] for i in range(0, len(scores), len(labels))]


def likeliest(scores: Sequence[Sequence[float]], labels: Sequence[str], prior: Sequence[float] | None = None) -> list[str]:
    """Each row's label of the highest score or, with a prior, of the one that rises most above it."""
    floor = prior or [0.0] * len(labels)
    return [max(zip(row, floor, labels, strict=True), key=lambda entry: entry[0] - entry[1])[2] for row in scores]


def naive_bayes(train: Sequence[Passage], texts: Sequence[str]) -> list[str]:
    """The label of each text by the words that are in it, each counted once and smoothed by one: a classifier of the 1960s."""
    num_passages = Counter(label for _, label in train)
    num_with = {label: Counter(word for text, its in train if its == label for word in _words(text)) for label in num_passages}
    known = set().union(*num_with.values())

    def log_probability(text: str, label: str) -> float:
        of_words = (math.log((num_with[label][word] + 1) / (num_passages[label] + 2)) for word in _words(text) & known)
        return math.log(num_passages[label]) + sum(of_words)

    return [max(num_passages, key=lambda label: log_probability(text, label)) for text in texts]


def _words(text: str) -> set[str]:
    return set(WORD.findall(text.lower()))


def most_frequent(expected: Sequence[str]) -> float:
    """The accuracy of saying the commonest label of them each time."""
    return share([label == Counter(expected).most_common(1)[0][0] for label in expected])


def accuracy(predicted: Sequence[str], expected: Sequence[str]) -> float:
    return share([a == b for a, b in zip(predicted, expected, strict=True)])


def confusion(predicted: Sequence[str], expected: Sequence[str], labels: Sequence[str]) -> dict[str, dict[str, int]]:
    """How often each label was taken for each, the true one first."""
    counts = Counter(zip(expected, predicted, strict=True))
    return {is_: {taken: counts[is_, taken] for taken in labels} for is_ in labels}
