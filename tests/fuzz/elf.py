"""The ELF reader: everything that a command asks of it, for any bytes."""

from __future__ import annotations

from collections.abc import Iterator

from pydump.interfaces.backing import Backing
from pydump.interfaces.pieces import PiecesImage
from pydump_format_elf.reader import ElfImage

#: Bytes of guest memory that are read of one input.
MOST = 1 << 20


class Bytes(Backing):
    """A file in memory."""

    def __init__(self, data: bytes) -> None:
        self.path, self.size, self._data = "input", len(data), data

    def read_into(self, offset: int, buffer: memoryview) -> None:
        self.check(offset, len(buffer))
        buffer[:] = self._data[offset : offset + len(buffer)]


def pieces(source: PiecesImage) -> Iterator[tuple[int, int]]:
    """The first megabyte of what the source holds."""
    left = MOST
    for start, end in source.guest().memory.ranges().subtract(source.excluded()).subtract(source.unreadable()):
        if left > 0:
            yield start, min(end, start + left)
            left -= end - start


def one(data: bytes) -> None:
    """Open the file, ask for its facts, and read its memory."""
    source = ElfImage(Bytes(data))
    source.mappings()
    for section in source.guest().sections:
        section.data[: 1 << 16]
    read_pieces(source)


def read_pieces(source: PiecesImage) -> None:
    """Ask for the facts of an uncompressed file, and read its memory in one go and in pieces."""
    source.describe(), source.warnings(), list(source.defects())
    runs = list(pieces(source))
    whole = memoryview(bytearray(sum(end - start for start, end in runs)))
    source.read_runs(runs, whole)
    at = 0
    for start, end in runs:
        part = bytearray(end - start)
        source.read_into(start, memoryview(part))
        assert part == whole[at : at + end - start]
        list(source.data_ranges(start, end - start))
        at += end - start
