"""Text as token ids in one file, to be trained on by train.sh on a machine that has no text and no time to read it.

    python -m benchmarks.gpu.pack_corpus TEXT... --out corpus.tar.xz --tokenizer model/default --held-out books_eval.txt.xz

The file holds what a run of `gpt2 train pretrain` begins with, its vocabulary and its shards of token ids, and the held-out text as
token ids of its own. xz halves it: 43 million tokens of a vocabulary of 8,192 take 40 MB.
"""

import argparse
import tarfile
import tempfile
from pathlib import Path

from app.commands.training import report
from app.settings import DEFAULT_MODEL
from benchmarks.gpu.held_out import write_held_out
from model.checkpoint import save_tokenizer
from model.training.data.corpus import read_corpus
from model.training.data.shards import tokenize
from model.training.run_directory import RunDirectory
from model.training.vocabulary import load_vocabulary


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("paths", nargs="+", type=Path, metavar="TEXT", help="to train on, as for gpt2 train pretrain")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.tar.xz")
    parser.add_argument("--held-out", type=Path, required=True, metavar="TEXT", help="to measure bits per byte on")
    parser.add_argument(
        "--tokenizer", type=Path, default=DEFAULT_MODEL, metavar="DIR", help="vocabulary (default: that of the default model)"
    )
    parser.add_argument("--validation-fraction", type=float, default=0.01, help="of the text (default: %(default)s)")
    options = parser.parse_args()
    tokenizer = load_vocabulary(options.tokenizer)
    with tempfile.TemporaryDirectory() as folder:
        directory = RunDirectory(Path(folder))
        save_tokenizer(directory.out, tokenizer)
        shards = tokenize(read_corpus(options.paths), tokenizer, directory.tokens, options.validation_fraction)
        write_held_out(options.held_out, tokenizer, directory.training)
        report(f"{shards.num_tokens:,} tokens of {shards.num_bytes:,} bytes; packing")
        with tarfile.open(options.out, "w:xz", preset=9) as archive:
            for file in sorted(file for file in directory.out.rglob("*") if file.is_file()):
                archive.add(file, file.relative_to(directory.out), filter=_without_owner)
    print(f"{options.out}: {options.out.stat().st_size / 1e6:.1f} MB")


def _without_owner(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """Names and times of who packs it stay here."""
    member.uid = member.gid = member.mtime = 0
    member.uname = member.gname = ""
    return member


if __name__ == "__main__":
    main()
