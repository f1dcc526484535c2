"""The sizes that a pass may have: powers of two, each captured once; what is there is padded to the next."""

from collections.abc import Iterator

from model.cuda.tiles import QUERY_TILE


def bucket_of(num: int) -> int:
    """The least power of two that is not below `num`, a positive number."""
    return 1 << (num - 1).bit_length()


def buckets(most: int) -> Iterator[int]:
    """All of them up to the one that holds `most`."""
    size = 1
    while size < most:
        yield size
        size *= 2
    yield size


def num_tiles(num_rows: int, max_chunks: int) -> int:
    """The most query tiles that so many rows can have, of at most so many sequences."""
    return min(num_rows, max_chunks + num_rows // QUERY_TILE)
