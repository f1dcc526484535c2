"""API keys: where they are read, and whose a client's is. Holds digests alone; knows no HTTP.

An entry is `KEY`, `NAME:KEY` or `NAME:sha256:HEX`, the SHA-256 of a key in its place.
"""

import hashlib
import hmac
import logging
import re
import stat
from dataclasses import dataclass
from pathlib import Path

from model.input_files import FileUnusable, read_text

MAX_KEYS = 1000  # each request is compared with all of them, which takes 0.2 ms for so many
MAX_FILE_BYTES = 1 << 20
NAME = re.compile(r"[\w.-]{1,64}", re.ASCII)
KEY = re.compile(r"[!-~]{16,512}")  # what a header can carry; a short one could be guessed, or found from its digest
DIGEST = re.compile(r"[0-9a-fA-F]{64}")
log = logging.getLogger("gpt2.keys")


class KeysError(ValueError):
    """The keys cannot be used; the message says where and why, and never what stands there."""


@dataclass(frozen=True, slots=True)
class ApiKey:
    name: str  # for log lines and limits
    digest: bytes


class Keys:
    """Those of a setting and of a file together; the file may be read anew while requests are served."""

    def __init__(self, given: str, file: Path | None) -> None:
        """`given` holds entries parted by commas. Raises KeysError."""
        entries = [(f"GPT2_API_KEYS, entry {i}", text.strip()) for i, text in enumerate(given.split(","), start=1)]
        self.file = file
        self._given = parsed(entries, first=1)
        self._keys = self._read()

    def __len__(self) -> int:
        return len(self._keys)

    def holder(self, key: bytes) -> str | None:
        """The name of this key, None if there is none; takes as long whichever it is, and however much of it is right."""
        digest = hashlib.sha256(key).digest()
        found = [hmac.compare_digest(known.digest, digest) for known in self._keys]
        return next((known.name for known, is_it in zip(self._keys, found, strict=True) if is_it), None)

    def reload(self) -> None:
        """Read the file anew; a broken one changes nothing, and a line of the log says so."""
        try:
            self._keys = self._read()
        except KeysError as error:
            log.error("the API keys stay as they were: %s", error)
        else:
            log.info("%d API keys are known now", len(self))

    def _read(self) -> tuple[ApiKey, ...]:
        keys = [*self._given, *([] if self.file is None else _of_file(self.file, first=len(self._given) + 1))]
        if not keys:
            raise KeysError(f"{self.file or 'GPT2_API_KEYS'} has no key")
        if len(keys) > MAX_KEYS:
            raise KeysError(f"there are {len(keys)} API keys; at most {MAX_KEYS} are taken")
        for what, values in (("name", [key.name for key in keys]), ("key", [key.digest.hex() for key in keys])):
            if len(set(values)) < len(keys):
                twice = next(key.name for i, key in enumerate(keys) if values[i] in values[:i])
                raise KeysError(f"the {what} of the API key {twice} stands there twice")
        return tuple(keys)


def parsed(entries: list[tuple[str, str]], first: int) -> list[ApiKey]:
    """The keys of entries, each with where it stands; empty ones and comments are passed over, nameless ones are numbered."""
    kept = [(place, entry) for place, entry in entries if entry and not entry.startswith("#")]
    return [_parsed(place, entry, f"key-{i}") for i, (place, entry) in enumerate(kept, start=first)]


def _parsed(place: str, entry: str, default_name: str) -> ApiKey:
    name, colon, key = entry.partition(":")
    if not colon or name == "sha256":  # a key, or a digest, without a name
        name, key = default_name, entry
    if not NAME.fullmatch(name):
        raise KeysError(f"{place}: a key's name is up to 64 letters, digits, points, hyphens and underscores")
    if key.startswith("sha256:"):
        digest = key.removeprefix("sha256:")
        if not DIGEST.fullmatch(digest):
            raise KeysError(f"{place}: behind sha256: come 64 hexadecimal digits, not these {len(digest)} characters")
        return ApiKey(name, bytes.fromhex(digest))
    if not KEY.fullmatch(key):
        raise KeysError(
            f"{place}: a key has 16 to 512 characters of ASCII and no space; this one has {len(key)}. "
            "`openssl rand -hex 24` makes one"
        )
    return ApiKey(name, hashlib.sha256(key.encode()).digest())


def _of_file(file: Path, first: int) -> list[ApiKey]:
    lines = _text_of(file).splitlines()
    return parsed([(f"{file}, line {i}", line.strip()) for i, line in enumerate(lines, start=1)], first)


def _text_of(file: Path) -> str:
    try:
        text = read_text(file, MAX_FILE_BYTES)
        if file.stat().st_mode & stat.S_IROTH:
            log.warning("%s can be read by every user of this machine; chmod o-r takes that away", file)
    except (FileUnusable, OSError) as error:
        raise KeysError(f"GPT2_API_KEYS_FILE: {error}") from None
    return text
