"""Question answering: facts that a passage of the World Factbook states, asked with the passage at hand; countries held out.

`python examples/recipes/questions.py FACTBOOK --out DIR`. The text goes country by country in paragraphs without headings; the
patterns below find what can be asked of one.
"""

import argparse
import random
import re
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

from common import Result, answers, finetune, main, parser, read_documents, share, write_pairs

from model.training.errors import TrainingError

HELD_OUT = 0.2  # of the text, from its end
YEARS = (1800, 2029)  # of which one is drawn in place of another
NUM_EACH = 400  # examples of each kind of question
MAX_CHARACTERS = 280  # of a passage; it is cut at a word
HOW = ("--batch-size", 16, "--learning-rate", 1e-3)

# What is asked, and the pattern that finds its answer; a group `name` goes into the question.
PATTERNS = {
    "What is the country code?": r"^country code - (?P<answer>[\d-]+)",
    "How many satellite earth stations are there?": r"satellite earth stations? - (?P<answer>\d+)",
    "Has the parliament one chamber or two?": r"^(?P<answer>uni|bi)cameral",
    "How many seats has the {name}?": r"(?:^unicameral |the )(?P<name>[A-Z][\w' ]+?)(?: or [^()]+)? \((?P<answer>\d+) seats",
    "How long is a term in the {name}?": r"(?:^unicameral |the )(?P<name>[A-Z][\w' ]+?)(?: or [^()]+)? "
    r"\(\d+ seats[^()]*members serve (?P<answer>\d+)-year terms",
    "From what age may one serve?": r"^(?P<answer>\d+)(?:-\d+)? (?:years of age|is the legal minimum age)",
    "In which year did the country become independent?": r"independence(?: from [A-Z][^.;,(]{0,40}?)? "
    r"(?:in|on \d+ \w+) (?P<answer>\d{4})\b",
    "What are the forces called?": r"^(?P<answer>[A-Z][\w' ]+(?:Forces?|Army))\b(?= \(|:)",
    "Which tier is it?": r"^(?P<answer>Tier [123](?: Watch List)?) - ",
    "Which country is it?": r"^Tier [123](?: Watch List)? - (?P<answer>[A-Z]\w+(?: [A-Z]\w+)*) (?:does|is) ",
    "From which year is this?": r"^country code - .*\((?P<answer>\d{4})\)$",
}
WORDS = {"uni": "one", "bi": "two"}
NAMED = {"What are the forces called?", "Which country is it?"}  # answered by a name
# A number has other tokens after a bracket than after a space, as in the answer: a space there makes them the same, and copying
# them is what a network of this size learns in minutes.
BRACKETED = re.compile(r"\((?=\d)")


@dataclass(frozen=True, slots=True)
class Question:
    passage: str
    kind: str
    question: str
    answer: str

    @property
    def prompt(self) -> str:
        return f"Passage: {BRACKETED.sub('( ', self.passage)}\nQuestion: {self.question}\nAnswer:"


def ask(paragraph: str) -> list[Question]:
    """All that can be asked of a paragraph: each kind once, where the answer is in the part that is shown."""
    passage = paragraph if len(paragraph) <= MAX_CHARACTERS else paragraph[:MAX_CHARACTERS].rpartition(" ")[0]
    found = ((kind, re.search(pattern, passage)) for kind, pattern in PATTERNS.items())
    return [
        Question(passage, kind, kind.format(**match.groupdict()), WORDS.get(match["answer"], match["answer"]))
        for kind, match in found
        if match
    ]


def split(text: str) -> tuple[list[Question], list[Question]]:
    """The questions of the first countries, and of the last."""
    paragraphs = [" ".join(paragraph.split()) for paragraph in text.split("\n\n")]
    first_held_out = round(len(paragraphs) * (1 - HELD_OUT))
    parts = (paragraphs[:first_held_out], paragraphs[first_held_out:])
    train, test = ([question for paragraph in part for question in ask(paragraph)] for part in parts)
    return train, test


def variants(train: list[Question]) -> list[Question]:
    """As many examples of each kind, in a drawn order, each with another answer in its passage: it cannot be known, only read."""
    generator = random.Random(0)
    names = sorted({name for q in train for name in re.findall(r"\b[A-Z][a-z]{3,}\b", q.passage)})
    kinds = [[q for q in train if q.kind == kind] for kind in PATTERNS]
    drawn = [variant(generator.choice(kind), names, generator) for kind in kinds if kind for _ in range(NUM_EACH)]
    return generator.sample(drawn, len(drawn))


def variant(question: Question, names: list[str], generator: random.Random) -> Question:
    """The same with another year, number of as many digits, or name in the passage and the answer."""
    if re.fullmatch(r"\d{4}", question.answer):  # years have tokens of their own, which no other numbers have
        old, new = question.answer, str(generator.randint(*YEARS))
    elif question.answer.isdigit():
        digits = (generator.choice("123456789" if place == 0 else "0123456789") for place in range(len(question.answer)))
        old, new = question.answer, "".join(digits)
    elif question.kind in NAMED:
        old, new = question.answer.split()[0], generator.choice(names)
    else:
        return question
    passage = re.sub(rf"\b{old}\b", new, question.passage)
    return replace(question, passage=passage, answer=question.answer.replace(old, new, 1))


def usual_answers(train: list[Question]) -> dict[str, str]:
    """Each kind's most frequent answer: what one knows without reading."""
    return {kind: Counter(q.answer for q in train if q.kind == kind).most_common(1)[0][0] for kind in {q.kind for q in train}}


def questions(options: argparse.Namespace) -> Result:
    train, test = split("\n\n".join(read_documents(options.factbook)))
    test = test[:: max(1, len(test) // options.tests)][: options.tests]
    if not train or not test:
        raise TrainingError(f"{options.factbook} states too few of the facts that are asked for; is it the World Factbook?")
    pairs = write_pairs(options.out / "train.jsonl", [(q.prompt, f" {q.answer}") for q in variants(train)])
    write_pairs(options.out / "test.jsonl", [(q.prompt, f" {q.answer}") for q in test])
    model = options.out / "model"
    finetune(options, pairs, model, *HOW)
    usual = usual_answers(train)
    before, after = (answers(name, [q.prompt for q in test], max_new_tokens=16) for name in (options.model, model))
    right = [a == q.answer for q, a in zip(test, after, strict=True)]
    return {
        "trained_on": f"{len(train):,} questions",
        "tested_on": f"{len(test):,} questions on other countries",
        "measure": "exact match",
        "before": share([b == q.answer for q, b in zip(test, before, strict=True)]),
        "after": share(right),
        "beside": ["always the most frequent answer", share([usual.get(q.kind) == q.answer for q in test])],
        "by_kind": {
            kind: f"{sum(r for q, r in zip(test, right, strict=True) if q.kind == kind)} of {count}"
            for kind, count in Counter(q.kind for q in test).items()
        },
        "samples": [
            {"passage": q.passage, "question": q.question, "expected": q.answer, "before": b, "after": a}
            for q, b, a in list(zip(test, before, after, strict=True))[:: max(1, len(test) // 5)][:5]
        ],
    }


def arguments() -> argparse.ArgumentParser:
    options = parser(__doc__, steps=250)
    options.add_argument(
        "factbook", type=Path, metavar="FACTBOOK", help="the World Factbook's text, paragraphs parted by blank lines"
    )
    return options


if __name__ == "__main__":
    main(questions, arguments())
