"""`gpt2 train tokenizer`: a vocabulary from text."""

import argparse
from typing import Any

from app.commands.data_options import TEXTS, add_selection_options, data_options
from app.commands.outputs import pasteable
from app.commands.parser import named_path
from app.commands.training import report, training_errors
from app.environment import prepare_for_training


def add_command(kinds: Any) -> None:  # argparse's subparsers, whose type is private
    parser = kinds.add_parser(
        "tokenizer",
        help="learn a vocabulary from text",
        description="Learn a byte-level BPE vocabulary with GPT-2's splitting pattern; writes vocab.json and merges.txt.",
    )
    parser.set_defaults(run=_train_tokenizer)
    parser.add_argument("paths", nargs="+", type=named_path, metavar="PATH", help=TEXTS)
    add_selection_options(parser)
    parser.add_argument("--out", type=named_path, required=True, metavar="DIR", help="directory for the two files")
    parser.add_argument("--vocab-size", type=int, metavar="N", help="tokens; 257 are the bytes alone (default: for the text)")
    parser.add_argument(
        "--characters", action="store_true", help="no token longer than a character: for Chinese and other scripts without spaces"
    )


def _train_tokenizer(options: argparse.Namespace) -> int:
    prepare_for_training()
    with training_errors():
        from model.training.data.corpus import survey
        from model.training.data.selection import select
        from model.training.distributed import Processes
        from model.training.run_directory import RunDirectory
        from model.training.vocabulary import check_size, learn_vocabulary

        if options.vocab_size is not None:
            check_size(options.vocab_size)
        corpus = survey(select(data_options(options)), report)
        report(str(corpus))
        directory = RunDirectory(options.out)
        with directory.locked(Processes()):
            directory.take_debris_away(report)
            learn_vocabulary(corpus, options.vocab_size, options.out, report, options.characters)
    print(pasteable("train", "pretrain", "--tokenizer", options.out))
    return 0
