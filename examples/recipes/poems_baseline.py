"""What a network has to beat: the next character by the two before it, counted, with what was seen less often from fewer.

Interpolated by Witten and Bell: a context that is followed by many different characters trusts the shorter one more.
"""

import math
import random
from collections import Counter, defaultdict
from collections.abc import Iterable


class CharacterModel:
    """p(next character | the `order` before it); each text begins anew. Order 0 knows how frequent a character is, no more."""

    def __init__(self, texts: Iterable[str], order: int) -> None:
        self.order = order
        self._following: defaultdict[str, Counter[str]] = defaultdict(Counter)  # of each context of 0 to `order` characters
        for text in texts:
            for i in range(len(text) + 1):
                for length in range(min(order, i) + 1):
                    self._following[text[i - length : i]][text[i : i + 1]] += 1  # "" where the text ends
        self._totals = {context: seen.total() for context, seen in self._following.items()}
        self._uniform = 1 / (len(self._following[""]) + 1)  # of a character never seen, too

    def probability(self, character: str, before: str) -> float:
        context = before[max(0, len(before) - self.order) :]
        probability = self._uniform
        for length in range(len(context) + 1):
            seen = self._following.get(context[len(context) - length :])
            if seen is not None:
                total = self._totals[context[len(context) - length :]]
                probability = (seen[character] + len(seen) * probability) / (total + len(seen))
        return probability

    def bits(self, text: str, prompt: str) -> float:
        """-log2 of the probability of the text after the prompt."""
        whole = prompt + text
        return -sum(math.log2(self.probability(whole[i], whole[:i])) for i in range(len(prompt), len(whole)))

    def write(self, prompt: str, max_characters: int, draw: random.Random) -> str:
        """Go on by drawn characters to the end of a text, or so many."""
        text = prompt
        while len(text) < len(prompt) + max_characters and (drawn := self._drawn(text[max(0, len(text) - self.order) :], draw)):
            text += drawn
        return text[len(prompt) :]

    def _drawn(self, context: str, draw: random.Random) -> str:
        """By the same probabilities: from each context by its weight, otherwise from the shorter one."""
        for begin in range(len(context)):
            seen = self._following.get(context[begin:])
            if seen is not None and draw.random() * (self._totals[context[begin:]] + len(seen)) >= len(seen):
                return draw.choices(list(seen), list(seen.values()))[0]
        seen = self._following[""]
        return draw.choices(list(seen), list(seen.values()))[0]
