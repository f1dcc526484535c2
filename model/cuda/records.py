"""What a draw asks for, as a record of 64-bit words on the device: read and carried on by the kernels that sample.

Fractions lie in their words as float64's bits. No torch here.
"""

from enum import IntEnum

MAX_IDS = 8  # tokens that are banned, and tokens that end: a draw that names more of either is drawn by `model.sampler`


class Field(IntEnum):
    """The words of a record, by their index."""

    ROW = 0  # of the pass's rows, the one after which it is drawn
    SLOT = 1
    LENGTH = 2  # tokens in the slot up to that row: the position of the token that is drawn
    NUM_LEFT = 3  # tokens that may still be drawn; 0 is a record that does nothing
    STEP = 4  # of the launch's steps, the one that draws next
    NUM_PROMPT = 5
    SEED = 6
    TOP_K = 7
    NUM_BANNED = 8
    NUM_ENDS = 9
    TEMPERATURE = 10  # from here on float64
    TOP_P = 11
    MIN_P = 12
    TYPICAL_P = 13
    REPETITION = 14
    FREQUENCY = 15
    PRESENCE = 16
    BANNED = 17  # MAX_IDS token ids
    ENDS = BANNED + MAX_IDS  # as many


SIZE = Field.ENDS + MAX_IDS  # words


class Status(IntEnum):
    """What came of a draw in a step."""

    NOTHING = 0  # its record does nothing, or has come to its end in an earlier step
    DRAWN = 1
    NOT_FINITE = 2
    NOTHING_LEFT = 3
