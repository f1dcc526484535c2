"""Chinese poems as text: their lines and forms, what of a collection can be learned from, and what of it is held out.

Knows nothing of models. A form is told by counting alone, as a reader sees it; tones and rhymes are not looked at.
"""

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from model.training.data.records import records
from model.training.errors import TrainingError

HAN = "\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
STOPS = "，。？！；：、"
FORMS = {(4, 5): "五絕", (8, 5): "五律", (4, 7): "七絕", (8, 7): "七律"}  # lines, characters of each
OTHERS = {5: "五古", 7: "七古"}  # any other even number of lines
MAX_TITLE = 20
HELD_OUT = 50  # one title in so many
SHARED_LINES = 2  # with a held-out poem, from which a poem is too like it to be trained on

NOTE = re.compile(r"（.*?）|〖.*?〗|\[.*?\]", re.DOTALL)
STRAY_MARKS = re.compile(f"(\n+[{STOPS}]+)+$")  # what is left of notes on lines of their own
NUMBER_IN_SERIES = re.compile(r" [一二三四五六七八九十百〇]+$")
TITLE = re.compile(f"[{HAN}]+( [{HAN}]+)*")
TEXT = re.compile(f"[{HAN}{STOPS}\n]+")
CLOSED_LINES = re.compile(f"([{HAN}]+[{STOPS}]\n?)+")


@dataclass(frozen=True, slots=True)
class Poem:
    author: str
    title: str
    form: str
    text: str  # a couplet a line, with its punctuation

    @property
    def prompt(self) -> str:
        """What a poem is asked for by: as 七律·長征 is written."""
        return f"{self.form}·{self.title}\n"

    @property
    def document(self) -> str:
        return f"{self.prompt}{self.text}\n"


def lines(text: str) -> list[str]:
    """The lines as they are counted: what stands between marks and line ends."""
    return [line for line in re.split(f"[{STOPS}\\s]+", text) if line]


def form(text: str) -> str | None:
    """五絕, 五律, 七絕 or 七律: four or eight lines of five or seven characters, each closed by one mark; otherwise None."""
    return FORMS.get(_shape(text) or (0, 0)) if CLOSED_LINES.fullmatch(text) else None


def _shape(text: str) -> tuple[int, int] | None:
    """The number of lines and their length, if it is one and all are characters."""
    found = lines(text)
    if not TEXT.fullmatch(text.strip()) or len({len(line) for line in found}) != 1:
        return None
    return len(found), len(found[0])


def read_poems(file: Path) -> tuple[list[Poem], int]:
    """The poems that are regular, and how many there are in all.

    Editors' notes are taken out. Left out are poems whose lines are not all of five or all of seven characters, fewer than four
    or odd in number, and those whose title has other signs than characters, or more than MAX_TITLE.
    """
    poems, num_all = [], 0
    for line, record in records(file):
        num_all += 1
        fields = [record.get(name) for name in ("author", "title", "text")]
        if not all(isinstance(field, str) for field in fields):
            raise TrainingError(f'{file}, line {line}: "author", "title" and "text" must be there, and strings')
        poem = _poem(*map(str, fields))
        if poem is not None:
            poems.append(poem)
    if not poems:
        raise TrainingError(f"{file} has no poems of lines of five or seven Chinese characters")
    return poems, num_all


def _poem(author: str, title: str, text: str) -> Poem | None:
    text = STRAY_MARKS.sub("", NOTE.sub("", text).strip())
    title = NUMBER_IN_SERIES.sub("", NOTE.sub("", title)).strip()
    num_lines, length = _shape(text) or (0, 0)
    if length not in OTHERS or num_lines < 4 or num_lines % 2 or len(title) > MAX_TITLE or not TITLE.fullmatch(title):
        return None
    return Poem(author, title, FORMS.get((num_lines, length), OTHERS[length]), text)


def split(poems: Iterable[Poem]) -> tuple[list[Poem], list[Poem]]:
    """To train on and to test on, by a hash of author and title, in its order: a series of one title stays together.

    Of the first are left out those that share SHARED_LINES with one of the second: other versions of it.
    """
    numbered = sorted(((_hash(poem), poem) for poem in poems), key=lambda pair: pair[0])
    test = [poem for number, poem in numbered if number % HELD_OUT == 0]
    poems_with = defaultdict(set)
    for index, poem in enumerate(test):
        for line in lines(poem.text):
            poems_with[line].add(index)

    def is_like_one_held_out(poem: Poem) -> bool:
        shared = Counter(index for line in set(lines(poem.text)) for index in poems_with.get(line, ()))
        return any(count >= SHARED_LINES for count in shared.values())

    return [poem for number, poem in numbered if number % HELD_OUT and not is_like_one_held_out(poem)], test


def _hash(poem: Poem) -> int:
    return int.from_bytes(hashlib.sha256(f"{poem.author}\n{poem.title}".encode()).digest())


def share_of_copied_lines(texts: Iterable[str], known: Collection[str]) -> float:
    """What part of the texts' lines is among the known ones, letter by letter; 0 if they have no line."""
    written = [line for text in texts for line in lines(text)]
    return sum(line in known for line in written) / max(1, len(written))
