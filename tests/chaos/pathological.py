"""Goal 20: texts on which tokenizers are known to fail are read in linear time, or refused unread, and break nothing."""

import json
import tempfile
import time
from dataclasses import replace
from itertools import product
from pathlib import Path

from model.bpe import BPETokenizer
from model.checkpoint import load_tokenizer
from model.tokenizer import PLAIN_TEXT, Tokenizer
from tests.chaos.goals import Figure, Scale, at_least, at_most, exactly, goal
from tests.chaos.service import ServiceProcess, service
from tests.chaos.texts import FAMILIES
from tests.model.tokenizer_directories import KINDS, write_directory
from tests.tiny import DATA, make_tiny_checkpoint, tiny_sizes

# One of each way to read a text: the own byte-pair encoding, with added tokens, and the library's with its normalizers and words.
READERS = ("plain", "tokenizer_config.json", "lower case", "whitespace, then bytes", "WordPiece")
PIECE_BYTES = 128 * 1024
PIECE_MS, REFUSAL_MS = 100.0, 5.0
SETTLE_SECONDS = 0.05
Slowest = tuple[float, str]


@goal(20, "Pathological texts")
def pathological_texts(scale: Scale) -> list[Figure]:
    num_bytes = scale.of(8192, 1_000_000)
    with tempfile.TemporaryDirectory() as folder:
        slowest, num_broken = _read_by_all(scale, Path(folder), num_bytes)
        with service(_with_whole_vocabulary(Path(folder) / "gpt2")) as running:
            told, num_faults = _tokenized(scale, running, min(num_bytes, PIECE_BYTES))
            refused, num_taken = _refused(scale, running)
    size = f"{num_bytes:,} bytes"
    return [
        at_least("families of texts", 24, len(FAMILIES), "families", by_clock=False),
        exactly(f"exceptions of {len(READERS)} tokenizers over {size}", 0, num_broken),
        at_most(f"the slowest of them, of 128 KB ({slowest[1]})", PIECE_MS, slowest[0], "ms"),
        exactly("faults of /tokenize", 0, num_faults),
        at_most(f"the slowest answer of /tokenize, of 128 KB ({told[1]})", PIECE_MS, told[0], "ms"),
        exactly("prompts of a megabyte that were not refused", 0, num_taken),
        at_most(f"the slowest refusal of one ({refused[1]})", REFUSAL_MS, refused[0], "ms"),
    ]


def _read_by_all(scale: Scale, folder: Path, num_bytes: int) -> tuple[Slowest, int]:
    slowest, num_broken = (0.0, ""), 0
    readers = {kind: load_tokenizer(write_directory(folder / f"{i}", KINDS[kind]())) for i, kind in enumerate(READERS)}
    for name, (kind, reader) in scale.each([*product(FAMILIES, readers.items())]):
        text = FAMILIES[name](num_bytes)
        for read in (reader.encode, reader.spans):
            started = time.perf_counter()
            try:
                read(text, PLAIN_TEXT)
            except Exception:
                num_broken += 1
            slowest = max(slowest, (_of_a_piece(time.perf_counter() - started, text), f"{name}, {kind}"))
    return slowest, num_broken


def _of_a_piece(seconds: float, text: str) -> float:
    """Milliseconds of 128 KB; of a shorter text those that it took."""
    return 1000 * seconds * min(PIECE_BYTES / len(text.encode()), 1)


def _with_whole_vocabulary(directory: Path) -> Path:
    tokenizer: Tokenizer = BPETokenizer.from_files(DATA / "vocab.json", DATA / "merges.txt")
    sizes = replace(tiny_sizes(), vocab_size=tokenizer.vocab_size, eos_token_ids=(tokenizer.vocab_size - 1,))
    return make_tiny_checkpoint(directory, sizes, tokenizer)


def _tokenized(scale: Scale, running: ServiceProcess, num_bytes: int) -> tuple[Slowest, int]:
    slowest, num_faults = (0.0, ""), 0
    for name in scale.each([*FAMILIES]):
        text = FAMILIES[name](num_bytes)
        seconds, status = _ask(running, "/tokenize", {"inputs": text, "parse_special": False})
        num_faults += status not in (200, 413)
        slowest = max(slowest, (_of_a_piece(seconds, text), name))
    return slowest, num_faults


def _refused(scale: Scale, running: ServiceProcess) -> tuple[Slowest, int]:
    slowest, num_taken = (0.0, ""), 0
    for name in scale.each([*FAMILIES][:: scale.of(8, 1)]):
        seconds, status = _ask(running, "/generate", {"inputs": FAMILIES[name](1_000_000), "parameters": {"max_new_tokens": 1}})
        num_taken += status not in (413, 422)
        slowest = max(slowest, (1000 * seconds, name))
    return slowest, num_taken


def _ask(running: ServiceProcess, path: str, body: object) -> tuple[float, int]:
    """The seconds from a request's last byte to its answer's last one, and the status."""
    content = json.dumps(body, ensure_ascii=False).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: {len(content)}\r\n\r\n"
    answer = b""
    with running.connect() as connection:
        try:
            connection.sendall(head.encode() + content[:-1])
            time.sleep(SETTLE_SECONDS)  # so that what is before the last byte has been read
            started = time.perf_counter()
            connection.sendall(content[-1:])
        except ConnectionError:
            pass  # refused by its size
        while more := connection.recv(1 << 20):
            answer = answer or more
    return time.perf_counter() - started, int(answer[9:12])
