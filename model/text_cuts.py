"""Where a long text may be cut so that GPT-2's splitting pattern reads the parts as it reads the whole.

Two reasons: a pattern that looks ahead of a million blanks runs out of its stack, which the library takes for a bug of its own; and
a call that takes a whole megabyte keeps every other thread from the interpreter while its answer becomes Python's.
"""

import re
from collections.abc import Iterator

# Characters; one of these takes a millisecond or two. A run of blanks is never longer within a part, but for one at its end.
PART = 1 << 14
# What Rust's regular expressions, and so tiktoken and `tokenizers`, call \s. Python's has four control characters more.
BLANK = "\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
# Before a blank behind something else a new piece begins in any case: blanks stand at a piece's beginning alone. And of a run of
# blanks the pattern takes all but the last, which belongs to what follows: before that one the run ends as at a text's end.
PLACE = re.compile(f"(?<=[^{BLANK}])[{BLANK}]|(?<=[{BLANK}])[{BLANK}](?=[^{BLANK}])")


def parts(text: str) -> Iterator[str]:
    """The text in parts of PART characters or a little more; longer where a run of one kind goes on."""
    start = 0
    while len(text) - start > PART:
        place = _place_behind(text, start + PART)
        if place is None:
            break
        yield text[start:place]
        start = place
    yield text[start:] if start else text


def _place_behind(text: str, position: int) -> int | None:
    """The next place to cut from a position on; looked for a part at a time, since the expression lets nobody else run."""
    while position < len(text):
        if found := PLACE.search(text, position, position + PART):
            return found.start()
        position += PART - 1  # what follows the last blank was out of sight
    return None
