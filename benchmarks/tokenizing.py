"""How long a megabyte of text takes to tokenise, beside tiktoken alone on the same vocabulary: in pairs, medians.

    python -m benchmarks.tokenizing

No longer wanted: added and special tokens are looked for in every text, which must cost next to nothing.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import tiktoken

from benchmarks.machine import VOCABULARY, gpt2_tokenizer, write_result
from model.added_tokens import AddedToken
from model.bpe import SPLIT_PATTERN, BPETokenizer

NUM_BYTES = 1_000_000
DIALOGUE = ["<|user|>", "<|bot|>", "<|system|>", *(f"<extra_{i}>" for i in range(100))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    plain = gpt2_tokenizer()
    added = [AddedToken(plain.vocab_size + i, content) for i, content in enumerate(DIALOGUE)]
    end = AddedToken(plain.vocab["<|endoftext|>"], "<|endoftext|>")
    tokenizers = {"plain": plain, f"{len(added)}_added_tokens": BPETokenizer(plain.vocab, plain.merges, [end, *added])}
    ranks = {plain.token_bytes(i): i for i in range(plain.vocab_size) if not plain.is_special(i)}
    alone = tiktoken.Encoding("alone", pat_str=SPLIT_PATTERN, mergeable_ranks=ranks, special_tokens={})
    result = {
        f"{kind}, {name}": _compare(tokenizer.encode, alone.encode_ordinary, text, options.rounds)
        for kind, tokenizer in tokenizers.items()
        for name, text in _texts().items()
    }
    write_result("tokenizing", "python -m benchmarks.tokenizing", result)


def _texts() -> dict[str, str]:
    """English, text without spaces in other scripts, and much that begins like a token and is none."""
    english = (VOCABULARY / "shakespeare.txt").read_text(encoding="utf-8")
    pieces = {
        "english": english,
        "chinese": "今天天气很好，我们去公园散步吧。🙂",
        "markup": "a <b> <i>x</i> <|us er|> <extra> if a <b || c> d\n",
    }
    return {name: piece * (NUM_BYTES // len(piece.encode())) for name, piece in pieces.items()}


def _compare(ours: Callable[[str], list[int]], alone: Callable[[str], list[int]], text: str, rounds: int) -> dict[str, float]:
    seconds: list[tuple[float, float]] = []
    assert ours(text) == alone(text)
    for i in range(rounds):
        pair = [_seconds(encode, text) for encode in ((ours, alone) if i % 2 else (alone, ours))]
        seconds.append((pair[0], pair[1]) if i % 2 else (pair[1], pair[0]))
    result = {
        "ours_ms": round(1000 * statistics.median(a for a, _ in seconds), 1),
        "tiktoken_ms": round(1000 * statistics.median(b for _, b in seconds), 1),
        "ratio": round(statistics.median(a / b for a, b in seconds), 3),
    }
    print(result)
    return result


def _seconds(encode: Callable[[str], list[int]], text: str) -> float:
    """Of this thread's own time, in which both do all they do: others on the machine do not count."""
    started = time.thread_time()
    encode(text)
    return time.thread_time() - started


if __name__ == "__main__":
    main()
