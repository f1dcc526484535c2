"""The memory that one large document takes, read and tokenised as for training, in a process that does nothing else.

    python -m benchmarks.document_memory books_wide.txt.xz

The document is the text, its marks taken out, as often as it takes to be as large as wanted. Wanted: 1 GB within 1 GB.
"""

import argparse
import resource
import tempfile
import time
from pathlib import Path

from app.settings import DEFAULT_MODEL
from benchmarks.machine import write_result
from model.checkpoint import load_tokenizer
from model.tokenizer import END_OF_TEXT
from model.training.data.corpus import documents, read_corpus
from model.training.data.shards import tokenize


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=Path)
    parser.add_argument("--bytes", type=int, default=1_000_000_000, help="of the document (default: %(default)s)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "document.txt"
        num_bytes = _write(options.text, options.bytes, file)
        began = time.monotonic()
        shards = tokenize(read_corpus([file]), load_tokenizer(DEFAULT_MODEL), Path(folder) / "tokens", None, lambda size: None)
        seconds = time.monotonic() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    result = {"bytes": num_bytes, "tokens": shards.num_tokens, "seconds": round(seconds, 1), "peak_bytes": peak}
    print(f"{num_bytes:,} bytes, {shards.num_tokens:,} tokens in {seconds:.0f} s; at most {peak / 1e6:,.0f} MB of memory")
    write_result("document_memory", f"python -m benchmarks.document_memory {options.text.name}", result)


def _write(text: Path, num_bytes: int, file: Path) -> int:
    """A document at a time, so that the memory of this process stays that of reading."""
    written = 0
    with file.open("wb") as stream:
        while written < num_bytes:
            for document in documents(text):
                written += stream.write(document.replace(END_OF_TEXT, "").encode())
                if written >= num_bytes:
                    break
    return written


if __name__ == "__main__":
    main()
