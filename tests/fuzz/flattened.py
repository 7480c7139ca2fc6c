"""Flattened streams: their records, in any order, and what lies between them."""

from __future__ import annotations

import os

from pydump.builtin.files import FileBacking
from pydump.builtin.flattened import FlattenedBacking

#: Bytes that are read at each end of each range.
PIECE = 4096


def one(data: bytes) -> None:
    """Open a stream, and read around the beginning and the end of each range that it has."""
    fd = os.memfd_create("flattened")
    os.write(fd, data)
    inner = FileBacking("input", fd)
    try:
        backing = FlattenedBacking(inner)
        ranges = [*backing.data_ranges(0, backing.size)]
        missing = [*backing.missing(0, backing.size)]
        held = sum(end - start for start, end in ranges)
        assert held <= len(data)
        if missing:
            assert backing.warnings
            assert held + sum(end - start for start, end in missing) == backing.size
        for start, end in ranges[:64]:
            for at in (max(0, start - PIECE), max(0, end - PIECE)):
                backing.read(at, min(2 * PIECE, backing.size - at))
    finally:
        inner.close()
