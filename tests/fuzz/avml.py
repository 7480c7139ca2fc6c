"""The AVML reader: everything that a command asks of it, for any bytes."""

from __future__ import annotations

import contextlib

from elf import MOST, Bytes

from pydump.errors import DamagedPageError
from pydump_format_avml.reader import AvmlImage


def one(data: bytes) -> None:
    """Open the file, ask for its facts, and read its memory in one go and in pieces."""
    image = AvmlImage(Bytes(data))
    image.describe(), image.warnings()
    left = MOST
    for start, end in image.guest().memory.ranges().subtract(image.unreadable()):
        size = min(end - start, left)
        left -= size
        whole = memoryview(bytearray(size))
        try:
            image.read_into(start, whole)
        except DamagedPageError:
            whole = memoryview(b"")
        for at in range(0, size, 1 << 14):
            piece = memoryview(bytearray(min(1 << 14, size - at)))
            with contextlib.suppress(DamagedPageError):
                image.read_into(start + at, piece)
                assert not whole or piece == whole[at : at + len(piece)]
