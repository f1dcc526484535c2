"""`gpt2 train tokenizer`: a vocabulary from text."""

import argparse
from pathlib import Path
from typing import Any

from app.commands.training import report, training_errors
from app.environment import prepare_for_training


def add_command(kinds: Any) -> None:  # argparse's subparsers, whose type is private
    parser = kinds.add_parser(
        "tokenizer",
        help="learn a vocabulary from text",
        description="Learn a byte-level BPE vocabulary with GPT-2's splitting pattern; writes vocab.json and merges.txt.",
    )
    parser.set_defaults(run=_train_tokenizer)
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="text files and folders: plain, .jsonl, .xz, .gz")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="directory for the two files")
    parser.add_argument("--vocab-size", type=int, metavar="N", help="tokens; 257 are the bytes alone (default: for the text)")


def _train_tokenizer(options: argparse.Namespace) -> int:
    prepare_for_training()
    with training_errors():
        from model.training.corpus import count_bytes, text_files
        from model.training.vocabulary import learn_vocabulary

        files = text_files(options.paths)
        num_bytes = count_bytes(files)
        report(f"{num_bytes:,} bytes of text in {len(files)} file{'s' if len(files) > 1 else ''}")
        learn_vocabulary(files, num_bytes, options.vocab_size, options.out, report)
    print(f"gpt2 train pretrain --tokenizer {options.out}")
    return 0
