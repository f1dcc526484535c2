"""Text files as documents: folders, plain text, .xz, .gz and JSONL. Knows nothing of tokens.

A document ends at a line `<|endoftext|>`, at the end of its JSONL line or at the end of its file.
"""

import gzip
import json
import lzma
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO

from tqdm import tqdm

from model.input_files import FileUnusable, is_there
from model.tokenizer import END_OF_TEXT
from model.training.errors import TrainingError

TEXT_SUFFIXES = (".txt", ".text", ".md", ".jsonl")
MAX_LINE_BYTES = 1 << 28  # a few kilobytes of .xz may come to any number of them, all to be held at once
COMPRESSED = (".xz", ".gz")


def text_files(paths: Sequence[Path]) -> list[Path]:
    """The files named, and those below the folders named that hold text by their suffix, in a fixed order."""
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            files += _text_files_below(path)
        else:
            _check_file(path)
            files.append(path)
    return list(dict.fromkeys(files))


def _check_file(path: Path) -> None:
    """Texts are read more than once: of a pipe nothing would be left, and a device never ends."""
    try:
        if is_there(path):
            return
    except FileUnusable as error:
        raise TrainingError(str(error)) from error
    raise TrainingError(f"no such file or folder: {path}")


def documents(file: Path) -> Iterator[str]:
    """The documents of one file, in order; raises TrainingError for what is not UTF-8 text or JSONL with a `text` field."""
    return _jsonl_texts(file) if is_jsonl(file) else _marked_texts(line for _, line in _lines(file))


def records(file: Path) -> Iterator[tuple[int, dict[str, object]]]:
    """The numbered JSON objects of a JSONL file; blank lines are passed over."""
    for number, line in _lines(file):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise TrainingError(f"{file}, line {number} is not JSON: {error}") from error
        if not isinstance(record, dict):
            raise TrainingError(f"{file}, line {number} is not a JSON object")
        yield number, record


def count_bytes(files: Sequence[Path]) -> int:
    """Bytes of UTF-8 text in the files; raises TrainingError if there are none, or a file cannot be read to its end."""
    num_bytes = 0
    with tqdm(unit="B", unit_scale=True, desc="reading", leave=False, disable=None) as bar:
        for text in (text for file in files for text in documents(file)):
            num_bytes += (size := len(text.encode()))
            bar.update(size)
    if not num_bytes:
        raise TrainingError(f"there is no text in {', '.join(map(str, files[:3]))}{' and others' if len(files) > 3 else ''}")
    return num_bytes


def check_characters(text: str, name: str) -> None:
    """JSON can write half a surrogate pair, which no tokenizer can read."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise TrainingError(f"{name} has half a surrogate pair, which is no character") from error


def is_jsonl(file: Path) -> bool:
    return _bare_suffix(file) == ".jsonl"


def _text_files_below(folder: Path) -> list[Path]:
    files = sorted(file for file in folder.rglob("*") if file.is_file() and not _is_hidden(file, folder))
    # A vocabulary's merges.txt is no text, though it has the suffix.
    texts = [file for file in files if _bare_suffix(file) in TEXT_SUFFIXES and file.name != "merges.txt"]
    if not texts:
        found = sorted({file.suffix or file.name for file in files})
        raise TrainingError(
            f"{folder} has no text files ({', '.join(TEXT_SUFFIXES)}, also with .xz or .gz)"
            + (f" but {', '.join(found[:5])}; name such a file itself if it holds text" if found else "; put some there")
        )
    return texts


def _is_hidden(file: Path, folder: Path) -> bool:
    return any(part.startswith(".") for part in file.relative_to(folder).parts)


def _bare_suffix(file: Path) -> str:
    """The suffix, in lower case and without that of a compression."""
    return (Path(file.stem).suffix if file.suffix.lower() in COMPRESSED else file.suffix).lower()


def _lines(file: Path) -> Iterator[tuple[int, str]]:
    """The numbered lines, each with its end; a byte order mark at the beginning is dropped."""
    try:
        with _open(file) as raw:
            for number, line in enumerate(iter(lambda: raw.readline(MAX_LINE_BYTES + 1), b""), start=1):
                if len(line) > MAX_LINE_BYTES:
                    raise TrainingError(f"{file}, line {number} has more than {MAX_LINE_BYTES} bytes; cut it into several")
                if b"\0" in line:
                    raise TrainingError(f"{file} is binary: line {number} has a zero byte; leave it out")
                yield number, line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        raise TrainingError(f"{file} is not UTF-8 text (byte {byte:#04x} in line {number}); leave it out or convert it") from error
    except (lzma.LZMAError, gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise TrainingError(f"{file} is damaged, or not what its suffix says: {error}") from error
    except OSError as error:
        raise TrainingError(f"{file} cannot be read: {error.strerror or error}") from error


def _open(file: Path) -> IO[bytes]:
    if file.suffix.lower() == ".xz":
        return lzma.open(file, "rb")
    if file.suffix.lower() == ".gz":
        return gzip.open(file, "rb")  # type: ignore[return-value]
    return file.open("rb")


def _marked_texts(lines: Iterable[str]) -> Iterator[str]:
    document: list[str] = []
    for line in lines:
        if line.rstrip("\r\n") == END_OF_TEXT:
            yield from _document(document)
            document = []
        else:
            document.append(line)
    yield from _document(document)


def _document(lines: list[str]) -> Iterator[str]:
    text = "".join(lines)
    if text.strip():
        yield text


def _jsonl_texts(file: Path) -> Iterator[str]:
    for number, record in records(file):
        text = record.get("text")
        if not isinstance(text, str):
            raise TrainingError(f'{file}, line {number}: no "text" field that is a string')
        check_characters(text, f'{file}, line {number}: "text"')
        if text.strip():
            yield text
