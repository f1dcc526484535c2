"""A draw's record as the kernels that sample read it: the words of `model.cuda.records.Field`, and what a record asks for."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from model.cuda.records import MAX_IDS, SIZE, Field

RECORD_SIZE = tl.constexpr(SIZE)
RECORD_IDS = tl.constexpr(MAX_IDS)
ROW = tl.constexpr(int(Field.ROW))
SLOT = tl.constexpr(int(Field.SLOT))
LENGTH = tl.constexpr(int(Field.LENGTH))
NUM_LEFT = tl.constexpr(int(Field.NUM_LEFT))
STEP = tl.constexpr(int(Field.STEP))
NUM_PROMPT = tl.constexpr(int(Field.NUM_PROMPT))
SEED = tl.constexpr(int(Field.SEED))
TOP_K = tl.constexpr(int(Field.TOP_K))
NUM_BANNED = tl.constexpr(int(Field.NUM_BANNED))
NUM_ENDS = tl.constexpr(int(Field.NUM_ENDS))
TEMPERATURE = tl.constexpr(int(Field.TEMPERATURE))
TOP_P = tl.constexpr(int(Field.TOP_P))
MIN_P = tl.constexpr(int(Field.MIN_P))
TYPICAL_P = tl.constexpr(int(Field.TYPICAL_P))
REPETITION = tl.constexpr(int(Field.REPETITION))
FREQUENCY = tl.constexpr(int(Field.FREQUENCY))
PRESENCE = tl.constexpr(int(Field.PRESENCE))
BANNED = tl.constexpr(int(Field.BANNED))
ENDS = tl.constexpr(int(Field.ENDS))


@triton.jit
def fraction(record: tl.tensor, field: tl.constexpr) -> tl.tensor:
    """A field that is a float64."""
    return tl.load(record + field).to(tl.float64, bitcast=True)


@triton.jit
def penalises(record: tl.tensor) -> tl.tensor:
    """Whether the tokens that came before change what is drawn."""
    return (fraction(record, REPETITION) != 1.0) | (fraction(record, FREQUENCY) != 0.0) | (fraction(record, PRESENCE) != 0.0)


@triton.jit
def ids_of(record: tl.tensor, field: tl.constexpr, num: tl.constexpr) -> tl.tensor:
    """The token ids that begin at `field`, of which field `num` says how many they are: (MAX_IDS,), the others -1."""
    index = tl.arange(0, RECORD_IDS)
    return tl.load(record + field + index, mask=index < tl.load(record + num), other=-1)


def fraction_of(record: Tensor, field: Field) -> float:
    """For the twins: a field that is a float64, of a record (SIZE,)."""
    return float(record[field].view(torch.float64))


def penalises_twin(record: Tensor) -> bool:
    return [fraction_of(record, field) for field in (Field.REPETITION, Field.FREQUENCY, Field.PRESENCE)] != [1.0, 0.0, 0.0]
