"""What a request, or a step, has taken of the runner, as counts and seconds. Knows no sizes of a model and no prices."""

from dataclasses import dataclass
from typing import NamedTuple


class Share(NamedTuple):
    """Of what the rows of a step take together; the passes are those over the weights of the blocks, and of the head."""

    num_passes: float = 0.0
    num_head_passes: float = 0.0
    compute_seconds: float = 0.0

    def plus(self, other: "Share") -> "Share":
        return Share(
            self.num_passes + other.num_passes,
            self.num_head_passes + other.num_head_passes,
            self.compute_seconds + other.compute_seconds,
        )

    def times(self, factor: float) -> "Share":
        return Share(self.num_passes * factor, self.num_head_passes * factor, self.compute_seconds * factor)


NOTHING = Share()


class Work(NamedTuple):
    """What was done: `num_tokens` went through the blocks, and `num_attended` is how many positions they looked at, all together.

    `num_read` counts the positions whose keys and values were read: by a chunk of a prompt each once, by a token that was decoded
    all that it attended to. `num_heads` are the rows for which the head ran, `num_copied` positions copied from another slot.
    """

    num_tokens: int = 0
    num_attended: int = 0
    num_read: int = 0
    num_heads: int = 0
    num_copied: int = 0
    share: Share = NOTHING

    def plus(self, other: "Work") -> "Work":
        return Work(
            self.num_tokens + other.num_tokens,
            self.num_attended + other.num_attended,
            self.num_read + other.num_read,
            self.num_heads + other.num_heads,
            self.num_copied + other.num_copied,
            self.share.plus(other.share),
        )


NO_WORK = Work()


@dataclass(slots=True, eq=False)
class Account:
    """What cannot be told from a sequence's length: where it began, what its prompt's chunks took, and since when it decodes.

    `since` is what anybody who decoded in every step so far owed then.
    """

    first: int = 0  # of the positions that it runs
    num_given: int = 0  # tokens that its leader's row has drawn
    num_copied: int = 0
    num_read: int = 0
    prefilled: Share = NOTHING
    since: Share = NOTHING
