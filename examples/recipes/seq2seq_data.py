"""Pairs of an English and a French sentence with a date and a number in words, and their words as tokens.

What makes it a translation: the date goes from the front to the end and its month behind the day, the adjective goes behind the
noun and takes its gender, as the number's last word does ("vingt et une"), and neither language counts or names years regularly.
"""

import datetime as dt
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

from translation import english, french

from model.training.errors import TrainingError

PAD, BEGIN, END, TO_FRENCH, TO_ENGLISH = SPECIAL = ("<pad>", "<begin>", "<end>", "<fr>", "<en>")
LARGEST = 9999
FIRST_DAY, LAST_DAY = dt.date(1100, 1, 1), dt.date(2099, 12, 31)

WEEKDAYS = """
monday tuesday wednesday thursday friday saturday sunday
lundi mardi mercredi jeudi vendredi samedi dimanche
"""
MONTHS = """
january february march april may june july august september october november december
janvier février mars avril mai juin juillet août septembre octobre novembre décembre
"""
ORDINALS = """
first second third fourth fifth sixth seventh eighth ninth tenth
eleventh twelfth thirteenth fourteenth fifteenth sixteenth seventeenth eighteenth nineteenth twentieth
"""
SUBJECTS = {"i": "j'ai", "we": "nous avons", "you": "vous avez", "they": "ils ont"}
VERBS = {"bought": "acheté", "sold": "vendu", "lost": "perdu", "found": "trouvé", "painted": "peint", "counted": "compté"}
NOUNS = {  # and whether they are feminine
    "apples": ("pommes", True),
    "flowers": ("fleurs", True),
    "houses": ("maisons", True),
    "doors": ("portes", True),
    "books": ("livres", False),
    "hats": ("chapeaux", False),
    "boats": ("bateaux", False),
    "stones": ("cailloux", False),
}
ADJECTIVES = {  # masculine and feminine, in the plural
    "green": ("verts", "vertes"),
    "white": ("blancs", "blanches"),
    "black": ("noirs", "noires"),
    "red": ("rouges", "rouges"),
    "heavy": ("lourds", "lourdes"),
    "old-fashioned": ("démodés", "démodées"),
}


@dataclass(frozen=True, slots=True)
class Statement:
    """What a sentence says, in whatever language."""

    day: dt.date
    subject: str
    verb: str
    number: int
    adjective: str
    noun: str

    @property
    def english(self) -> str:
        date = f"{_words(WEEKDAYS, 0)[self.day.weekday()]} {_words(MONTHS, 0)[self.day.month - 1]} {ordinal(self.day.day)}"
        what = f"{english(self.number)} {self.adjective} {self.noun}"
        return f"on {date} {english_year(self.day.year)} {self.subject} {self.verb} {what}"

    @property
    def french(self) -> str:
        noun, is_feminine = NOUNS[self.noun]
        number = french(self.number) + ("e" if is_feminine and french(self.number).split()[-1].endswith("un") else "")
        day = "premier" if self.day.day == 1 else french(self.day.day)
        date = f"{_words(WEEKDAYS, 1)[self.day.weekday()]} {day} {_words(MONTHS, 1)[self.day.month - 1]} {french(self.day.year)}"
        what = f"{number} {noun} {ADJECTIVES[self.adjective][is_feminine]}"
        return f"{SUBJECTS[self.subject]} {VERBS[self.verb]} {what} le {date}"


def _words(table: str, line: int) -> list[str]:
    return table.strip().splitlines()[line].split()


def ordinal(day: int) -> str:
    """1 to 31, as in "twenty-third"."""
    if day <= 20:
        return ORDINALS.split()[day - 1]
    return "thirtieth" if day == 30 else f"{english(day // 10 * 10)}-{ORDINALS.split()[day % 10 - 1]}"


def english_year(year: int) -> str:
    """1100 to 2099, as in "nineteen oh five" and "two thousand and five"."""
    century, rest = divmod(year, 100)
    if century == 20 and rest < 10:
        return english(year)
    if not rest:
        return f"{english(century)} hundred"
    return f"{english(century)} oh {english(rest)}" if rest < 10 else f"{english(century)} {english(rest)}"


def statements(num: int, seed: int = 0) -> list[Statement]:
    """So many different ones."""
    chance = random.Random(seed)
    found: dict[Statement, None] = {}
    while len(found) < num:
        day = FIRST_DAY + dt.timedelta(days=chance.randrange((LAST_DAY - FIRST_DAY).days + 1))
        subject, verb, adjective, noun = (chance.choice(list(table)) for table in (SUBJECTS, VERBS, ADJECTIVES, NOUNS))
        found[Statement(day, subject, verb, chance.randint(2, LARGEST), adjective, noun)] = None
    return list(found)


def text_pairs(given: Sequence[Statement]) -> list[tuple[str, str]]:
    """Sources and targets by turns into French and into English; the source's first word says into which."""
    return [
        (f"{TO_ENGLISH} {one.french}", one.english) if i % 2 else (f"{TO_FRENCH} {one.english}", one.french)
        for i, one in enumerate(given)
    ]


class Words:
    """A vocabulary of the words of some texts; what follows a hyphen is a word of its own, which keeps its hyphen."""

    def __init__(self, texts: Sequence[str]) -> None:
        words = sorted({word for text in texts for word in split(text)} - set(SPECIAL))
        self.words = [*SPECIAL, *words]
        self._ids = {word: i for i, word in enumerate(self.words)}

    def __len__(self) -> int:
        return len(self.words)

    def encode(self, text: str) -> list[int]:
        try:
            return [self._ids[word] for word in split(text)]
        except KeyError as error:
            raise TrainingError(f"the word {error} is not in the {len(self)} of the training pairs; make more of these") from error

    def decode(self, ids: Sequence[int]) -> str:
        words = (self.words[i] for i in ids)
        return "".join(word if word.startswith("-") else f" {word}" for word in words).strip()


def split(text: str) -> list[str]:
    return re.findall(r"-?[^\s-]+", text)
