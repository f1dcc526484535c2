"""Stories in one author's voice: train on a book's first nine tenths, measure its last chapters.

`python examples/recipes/story.py BOOKS --out DIR` takes the last book of a text file in which lines `<|endoftext|>` part the books.
"""

import argparse
from pathlib import Path

from common import Result, bits_per_byte, finetune, gpt2, main, parser, read_documents, write_text, xz_bits_per_byte

HELD_OUT = 0.1
HOW = ("--batch-size", 8, "--learning-rate", 3e-4)
OPENING = "The old man looked at the sea and"
SAMPLE = ("--max-new-tokens", 60, "--temperature", 0.8, "--seed", 0)


def split_book(book: str) -> tuple[str, str]:
    """All but its last paragraphs, and these: HELD_OUT of its characters."""
    paragraphs = book.strip().split("\n\n")
    last: list[str] = []
    while paragraphs and sum(map(len, last)) < HELD_OUT * len(book):
        last.insert(0, paragraphs.pop())
    return "\n\n".join(paragraphs) + "\n", "\n\n".join(last) + "\n"


def story(options: argparse.Namespace) -> Result:
    first, last = split_book(read_documents(options.books)[-1])
    train, test = write_text(options.out / "train.txt", first), write_text(options.out / "last_chapters.txt", last)
    model = options.out / "model"
    finetune(options, train, model, *HOW)
    return {
        "book": options.title,
        "trained_on": f"{len(first.encode()):,} bytes",
        "tested_on": f"the last {len(last.encode()):,} bytes",
        "measure": "bits per byte",
        "beside": ["xz, after the training text", xz_bits_per_byte(first, last)],
        "before": bits_per_byte(options.model, test),
        "after": bits_per_byte(model, test),
        "sample_before": gpt2("generate", options.opening, *SAMPLE, "--model", options.model).strip(),
        "sample_after": gpt2("generate", options.opening, *SAMPLE, "--model", model).strip(),
    }


def arguments() -> argparse.ArgumentParser:
    options = parser(__doc__, steps=100)
    options.add_argument("books", type=Path, metavar="BOOKS", help="text file, plain, .xz or .gz; its last book is taken")
    options.add_argument("--title", default="the last book of the file", help="what to call the book in the result")
    options.add_argument("--opening", default=OPENING, help="beginning of the sample")
    return options


if __name__ == "__main__":
    main(story, arguments())
