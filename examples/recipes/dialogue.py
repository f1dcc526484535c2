"""Dialogue: from a play, what one says to what the other answers; measured on scenes held out.

`python examples/recipes/dialogue.py PLAYS --out DIR`, where PLAYS is tinyshakespeare.txt or another text of its layout: a line with
the speaker's name and a colon, the lines of the speech, a blank line. Trains a LoRA adapter, then merges it into its base, and puts
a chat template beside it, so that `gpt2 serve` answers `/v1/chat/completions`.
"""

import argparse
import re
from itertools import pairwise
from pathlib import Path

from common import (
    Pair,
    Result,
    answers,
    completion_bits_per_byte,
    finetune,
    gpt2,
    main,
    parser,
    read_documents,
    write_pairs,
    write_text,
    xz_bits_per_byte,
)

from model.training.errors import TrainingError

HELD_OUT = 0.1  # of the speeches, from the end
MAX_CHARACTERS = 400  # of a speech; longer ones are left out
HOW = ("--lora", "--lora-rank", 16, "--lora-alpha", 32, "--keep-adapter", "--batch-size", 16, "--learning-rate", 3e-3)
CONVERSATION = (
    "Who comes so late to the castle?",
    "What news of the king?",
    "Is there no hope, then?",
    "Go, and tell her that I come.",
)
SPEAKERS = "QUEEN", "MESSENGER"
# What is said and the reply as `prompt` and `replies` write them; a message may name who speaks. A system message, of which the
# training knows nothing, is a line of nobody.
CHAT_TEMPLATE = """\
{% for message in messages %}
{% set speaker = message.name or ("MESSENGER" if message.role == "assistant" else "QUEEN") %}
{{ speaker + ": " if message.role != "system" }}{{ message.content.split() | join(" ") }}
{% endfor %}
{% if add_generation_prompt %}MESSENGER:{% endif %}
"""

Speech = tuple[str, str]  # who, and what


def speeches(play: str) -> list[Speech]:
    """What is said, in order, with line ends as spaces."""
    matches = (re.fullmatch(r"([^\n:]+):\n(.+)", block, flags=re.DOTALL) for block in re.split(r"\n\s*\n", play.strip()))
    return [(match[1], " ".join(match[2].split())) for match in matches if match]


def prompt(speech: Speech, answering: str) -> str:
    return f"{speech[0]}: {speech[1]}\n{answering}:"


def replies(said: list[Speech]) -> list[Pair]:
    """Each speech with the one before it as its prompt."""
    return [(prompt(a, b[0]), f" {b[1]}") for a, b in pairwise(said) if max(len(a[1]), len(b[1])) <= MAX_CHARACTERS]


def after_other_lines(replies: list[Pair]) -> list[Pair]:
    """Each reply after the line that another one answers: what is said is then no help, only who answers.

    Not the next one's: the line that it answers is this very reply.
    """
    far = max(1, len(replies) // 2)
    moved = [*replies[far:], *replies[:far]]
    return [
        (f"{other.splitlines()[0]}\n{asked.splitlines()[1]}", reply)
        for (asked, reply), (other, _) in zip(replies, moved, strict=True)
    ]


def text_of(replies: list[Pair]) -> str:
    return "\n".join(reply for _, reply in replies)


def converse(model: str | Path) -> list[str]:
    """A conversation in which the model answers each line; it sees the last one alone, as in training."""
    lines = []
    for said in CONVERSATION:
        (reply,) = answers(model, [prompt((SPEAKERS[0], said), SPEAKERS[1])], max_new_tokens=40, temperature=0.7)
        lines += [f"{SPEAKERS[0]}: {said}", f"{SPEAKERS[1]}: {reply}"]
    return lines


def dialogue(options: argparse.Namespace) -> Result:
    said = [speech for play in read_documents(options.plays) for speech in speeches(play)]
    first_held_out = round(len(said) * (1 - HELD_OUT))
    learned, test = replies(said[:first_held_out]), replies(said[first_held_out:])[: options.tests]
    if not learned or not test:
        raise TrainingError(f"{options.plays} has {len(said)} speeches of the form NAME:, line end, words; that is too few")
    train = write_pairs(options.out / "train.jsonl", learned)
    write_pairs(options.out / "test.jsonl", test)
    adapter, model = options.out / "adapter", options.out / "model"
    finetune(options, train, adapter, *HOW)
    gpt2("train", "merge", "--adapter", adapter, "--model", options.model, "--out", model)
    write_text(model / "chat_template.jinja", CHAT_TEMPLATE)
    return {
        "trained_on": f"{len(learned):,} replies",
        "tested_on": f"{len(test):,} replies of later scenes",
        "measure": "bits per byte of the replies",
        "beside": ["xz, after the training replies", xz_bits_per_byte(text_of(learned), text_of(test))],
        "before": completion_bits_per_byte(options.model, test),
        "after": completion_bits_per_byte(model, test),
        "after_other_lines": completion_bits_per_byte(model, after_other_lines(test)),
        "adapter_bytes": (adapter / "adapter_model.safetensors").stat().st_size,
        "conversation_before": converse(options.model),
        "conversation_after": converse(model),
    }


def arguments() -> argparse.ArgumentParser:
    options = parser(__doc__, steps=300)
    options.add_argument("plays", type=Path, metavar="PLAYS", help="text of plays in the layout of tinyshakespeare.txt")
    return options


if __name__ == "__main__":
    main(dialogue, arguments())
