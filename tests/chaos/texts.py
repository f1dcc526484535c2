"""Families of texts on which tokenizers are known to fail, or to take long: each a text of any number of UTF-8 bytes.

Plain data: the tests of tokenizers and of `/tokenize` take them at their sizes, and the chaos suite measures each at a megabyte.
"""

import unicodedata
from collections.abc import Callable
from itertools import cycle, islice
from random import Random

Family = Callable[[int], str]


def repeated(unit: str) -> Family:
    """The unit over and over, the last one whole: at most so many bytes."""
    size = len(unit.encode())
    return lambda num_bytes: unit * max(num_bytes // size, 1)


def then(family: Family, end: str) -> Family:
    """A run with something behind it: what a splitting pattern has to look ahead for."""
    return lambda num_bytes: family(num_bytes - len(end.encode())) + end


def drawn(alphabet: str, seed: int = 0) -> Family:
    """Characters by chance, the same at every call."""

    def draw(num_bytes: int) -> str:
        random, mean = Random(seed), sum(len(char.encode()) for char in alphabet) / len(alphabet)
        return _cut("".join(random.choices(alphabet, k=int(num_bytes / mean * 1.1) + 8)), num_bytes)

    return draw


def _in_turn(alphabet: str) -> Family:
    return lambda num_bytes: _cut("".join(islice(cycle(alphabet), num_bytes)), num_bytes)


def _cut(text: str, num_bytes: int) -> str:
    return text.encode()[:num_bytes].decode(errors="ignore")


# Every character that Unicode calls white space, which is not what Python's str.isspace() tells.
WHITE_SPACE = "\t\n\v\f\r \x85\xa0\u1680" + "".join(map(chr, range(0x2000, 0x200B))) + "\u2028\u2029\u202f\u205f\u3000"
SEPARATORS = "\x1c\x1d\x1e\x1f"  # white space to Python alone
MARKS = "".join(chr(code) for code in range(0x300, 0x370))
FORMATS = "\u200b\u200c\u200d\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\ufeff\u00ad"
CONTROLS = "".join(chr(code) for code in (*range(1, 9), *range(0x0E, 0x20), 0x7F, *range(0x80, 0x85), *range(0x86, 0xA0)))
LETTERS = "abcdefghijklmnopqrstuvwxyzéßœжщλאبकก中日한"
KINDS = "a1 !\n\u00a0é²中🙂'\t\u0301"
SPECIAL = "<|endoftext|>"

FAMILIES: dict[str, Family] = {
    "spaces": repeated(" "),
    "spaces and a letter": then(repeated(" "), "a"),
    "spaces and a line end": then(repeated(" "), "\n"),
    "tabs and a letter": then(repeated("\t"), "a"),
    "newlines": repeated("\n"),
    "newlines and a letter": then(repeated("\n"), "a"),
    "CR LF and a letter": then(repeated("\r\n"), "a"),
    "mixed white space and a letter": then(drawn(" \t\n\r\v\f"), "a"),
    "no-break spaces and a letter": then(repeated("\u00a0"), "a"),
    "all Unicode white space and a letter": then(drawn(WHITE_SPACE), "a"),
    "Python's own white space": then(drawn(SEPARATORS + " "), "a"),
    "runs of spaces of every length": lambda num_bytes: _cut(
        "".join(" " * i + "x" for i in range(int((2 * num_bytes) ** 0.5) + 2)), num_bytes
    ),
    "a letter": repeated("a"),
    "letters by chance": drawn(LETTERS),
    "a space and a letter": repeated(" a"),
    "digits": repeated("7"),
    "digits by chance": drawn("0123456789²½٣"),
    "apostrophes": repeated("'"),
    "'s chains": repeated("'s"),
    "contractions": repeated("'ll've're'd'm't's"),
    "punctuation": drawn('!"#$%&()*+,-./:;<=>?@[\\]^_`{|}~'),
    "an exclamation mark": repeated("!"),
    "combining marks on a letter": lambda num_bytes: "a" + drawn(MARKS)(num_bytes - 1),
    "emoji joined": repeated("👩\u200d👩\u200d👧\u200d👦"),
    "emoji joined without an end": lambda num_bytes: repeated("👩\u200d")(num_bytes),
    "flags": repeated("🇫🇷"),
    "CJK": drawn("".join(map(chr, range(0x4E00, 0x9FA0, 7)))),
    "Hangul": drawn("".join(map(chr, range(0xAC00, 0xD7A0, 11)))),
    "Hangul taken apart": repeated(unicodedata.normalize("NFD", "한")),
    "beyond the basic plane": drawn("𝔘𝔫𝔦𐍈🜲\U000e0001\U0010fffd"),
    "noncharacters and private use": drawn("\ufdd0\ufffe\uffff\ue000\U0010ffff\ufffd"),
    "control characters": drawn(CONTROLS),
    "NUL": repeated("\0"),
    "every kind in turn": _in_turn(KINDS),
    "kinds by chance": drawn(KINDS),
    "special tokens": repeated(SPECIAL),
    "look-alikes of special tokens": repeated("<|endoftext|"),
    "special tokens broken": repeated("<|endof<|endoftext|>text|>"),
    "beginnings of special tokens": repeated("<|<"),
    "forms that are not normal": repeated("e\u0301\u0327\u0344ﬁ\u212b\u1e9b\u0323"),
    "right to left": drawn("אבגד\u200f\u202eابج\u202c "),
    "format characters": drawn(FORMATS),
    "bytes that are no characters' ends": drawn("\u00e9\u0800\uffed\U00010348"),
    "words": repeated("The old man looked at the sea and the sea looked back. "),
    "a word without end": repeated("Donaudampfschifffahrtsgesellschaft"),
    "base64": drawn("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"),
    "DNA": drawn("ACGT"),
    "indented JSON": repeated('{\n        "a": [\n                1,\n                null\n        ]\n}\n'),
}
