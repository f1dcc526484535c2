"""What the service and the process that inspects send each other: frames of bytes, each behind its length.

Knows nothing of what is in them.
"""

import struct
from typing import BinaryIO

LENGTH = struct.Struct("<Q")


def write_frame(stream: BinaryIO, content: bytes) -> None:
    stream.write(LENGTH.pack(len(content)))
    stream.write(content)
    stream.flush()


def read_frame(stream: BinaryIO) -> bytes:
    """Waits for all of it; raises EOFError where the other process has ended."""
    (length,) = LENGTH.unpack(_read(stream, LENGTH.size))
    return _read(stream, length)


def _read(stream: BinaryIO, length: int) -> bytes:
    content = stream.read(length)
    if len(content) < length:
        raise EOFError
    return content
