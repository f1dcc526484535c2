"""Stop strings in a stream of text: found anywhere, across and inside tokens, and cut off exactly."""

from collections.abc import Sequence


class StopStrings:
    """Releases text as it comes, holding back what may be the beginning of a stop string; `keep` leaves the one found in the text.

    Of several stop strings the one that is complete first counts (the longest, if two end together), so that the cut does not
    depend on how the text was divided into pieces.
    """

    def __init__(self, stops: Sequence[str], keep: bool = False) -> None:
        self._stops, self._keep = stops, keep
        self._held = ""

    def feed(self, text: str, may_end: bool = True) -> tuple[str, bool]:
        """The text that may be shown now, and whether a stop string has been found (nothing is to be fed after that).

        One that is complete within a text that may not end there does not count.
        """
        if not self._stops:
            return text, False
        num_before, text = len(self._held), self._held + text
        first = ((stop, text.find(stop, max(num_before - len(stop) + 1, 0))) for stop in self._stops)  # complete in the new text
        matches = [(start + len(stop), start) for stop, start in first if start >= 0]
        if matches and may_end:
            self._held = ""
            end, start = min(matches)
            return text[: end if self._keep else start], True
        num_held = max(_overlap(text, stop) for stop in self._stops)
        self._held = text[len(text) - num_held :]
        return text[: len(text) - num_held], False

    def flush(self) -> str:
        """What was held back, once no more text can follow."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that is a beginning of `stop`, but not all of it."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0)
