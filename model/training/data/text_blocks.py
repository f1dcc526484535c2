"""Files as text, a block at a time: unpacked on the way, UTF-8 alone. Knows neither documents nor records."""

import codecs
import gzip
import lzma
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from model.training.errors import TrainingError

COMPRESSED = (".xz", ".gz")
BLOCK_BYTES = 1 << 20
MAX_LINE_CHARS = 1 << 28  # of a record; a few kilobytes of .xz may come to any number of them, all to be held at once
# Suffixes of files that people do name, though they are no text, with what helps.
REMEDIES = dict.fromkeys((".pdf", ".docx", ".doc", ".odt", ".epub", ".rtf"), "save its text as .txt") | {
    ".parquet": "write its rows as .jsonl",
    ".arrow": "write its rows as .jsonl",
    ".xlsx": "save the sheet as .csv",
    ".xls": "save the sheet as .csv",
    ".zip": "unpack it and name the folder",
    ".tar": "unpack it and name the folder",
    ".tgz": "unpack it and name the folder",
    ".7z": "unpack it and name the folder",
    ".bz2": "unpack it, or pack it as .xz or .gz",
    ".zst": "unpack it, or pack it as .xz or .gz",
}
# Files that hold no text whoever reads them: nobody is to be told to.
BINARY = frozenset(
    (*REMEDIES, ".png", ".jpg", ".jpeg", ".gif", ".webp", ".ico", ".bmp", ".mp3", ".wav", ".ogg", ".mp4", ".mov", ".avi", ".webm")
) | frozenset((".so", ".o", ".a", ".dll", ".exe", ".pyc", ".bin", ".pt", ".npy", ".npz", ".safetensors", ".gguf", ".ttf", ".woff2"))
REMEDY = "convert it, or leave it out (--skip-bad)"
UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


class NoText(TrainingError):
    """A file or folder that cannot be read as text, with what helps: of many such, or of one left out, `cause` alone is told."""

    def __init__(self, cause: str, remedy: str = REMEDY) -> None:
        super().__init__(f"{cause}; {remedy}")
        self.cause, self.remedy = cause, remedy


def bare_suffix(file: Path) -> str:
    """The suffix, in lower case and without that of a compression."""
    return (Path(file.stem).suffix if file.suffix.lower() in COMPRESSED else file.suffix).lower()


def text_blocks(file: Path) -> Iterator[str]:
    """The text in blocks that are not empty; a byte order mark at its beginning is dropped, the ends of lines stay as they are.

    Raises TrainingError for what is no UTF-8 text, with the line.
    """
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    line = 1
    for number, block in enumerate(_blocks(file)):
        if not number and block.startswith(UTF_16):
            raise NoText(f"{file} is UTF-16, which Windows calls Unicode", "save it as UTF-8, or leave it out (--skip-bad)")
        if (zero := block.find(b"\0")) >= 0:
            line += block.count(b"\n", 0, zero)
            raise NoText(f"{file} is binary: line {line} has a zero byte")
        try:
            text = decoder.decode(block, final=not block)
        except UnicodeDecodeError as error:
            line += error.object.count(b"\n", 0, error.start)
            byte = f"byte {error.object[error.start]:#04x} in line {line}"
            raise NoText(f"{file} is not UTF-8 text ({byte})") from error
        line += block.count(b"\n")
        if text:
            yield text


def lines(file: Path) -> Iterator[tuple[int, str]]:
    """The numbered lines, each with its end."""
    number, held, size = 1, [""], 0
    for block in text_blocks(file):
        for place, text in enumerate(block.split("\n")):
            if place:
                yield number, "".join(held) + "\n"
                number, held, size = number + 1, [], 0
            held.append(text)
            size += len(text)
        if size > MAX_LINE_CHARS:
            raise TrainingError(f"{file}, line {number} has more than {MAX_LINE_CHARS} characters; cut it into several")
    if size:
        yield number, "".join(held)


def _blocks(file: Path) -> Iterator[bytes]:
    """The bytes, and at last none."""
    try:
        with _open(file) as raw:
            while block := raw.read(BLOCK_BYTES):
                yield block
            yield b""
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
