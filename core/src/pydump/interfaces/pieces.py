"""Guest memory that a file holds as it is, in pieces: what readers of uncompressed formats share."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence

from pydump.errors import ReadError
from pydump.interfaces.backing import Backing
from pydump.interfaces.image import MemoryImage, Place
from pydump.model.memory import MemoryMap, Ranges

#: ``(paddr, end, offset in the file)`` of memory that a file holds.
Piece = tuple[int, int, int]


def held_pieces(backing: Backing, rows: Iterable[tuple[int, int, int]]) -> tuple[list[Piece], Ranges]:
    """Find which of the memory that a file should hold it does hold.

    Args:
        backing: The file, which may be cut off.
        rows: ``(paddr, file offset, size)`` of memory that should be there, in any order. Where rows overlap, the one
            with the lowest paddr has the bytes, and of those the longest.

    Returns:
        Pieces that do not overlap, in ascending paddr, and the memory that the file lacks.
    """
    there: list[Piece] = []
    lost: list[tuple[int, int]] = []
    for paddr, offset, size in rows:
        at = offset
        for start, stop in backing.missing(offset, size) if size else ():
            lost.append((paddr + start - offset, paddr + stop - offset))
            there.append((paddr + at - offset, paddr + start - offset, at))
            at = stop
        there.append((paddr + at - offset, paddr + size, at))
    pieces: list[Piece] = []
    covered = 0
    for paddr, end, offset in sorted(there, key=lambda piece: (piece[0], -piece[1])):
        start = max(paddr, covered)
        if end > start:
            pieces.append((start, end, offset + start - paddr))
            covered = end
    held = Ranges.of((start, end) for start, end, _ in pieces)
    return pieces, Ranges.of(lost).subtract(held)


class PiecesImage(MemoryImage):
    """Guest memory in pieces of one file. A subclass gives the facts.

    Args:
        backing: The file.
        pieces: What it holds, ascending, without overlaps.
        memory: RAM; what of it is in no piece reads as zero.
    """

    def __init__(self, backing: Backing, pieces: Sequence[Piece], memory: MemoryMap) -> None:
        self._backing = backing
        self._memory = memory
        self._pieces = pieces
        self._starts = [start for start, _, _ in pieces]
        self.path = backing.path

    def read_into(self, paddr: int, buffer: memoryview) -> None:
        at, end = paddr, paddr + len(buffer)
        while at < end:
            i = bisect_right(self._starts, at) - 1
            if i >= 0 and at < self._pieces[i][1]:
                start, stop, offset = self._pieces[i]
                stop = min(stop, end)
                self._backing.read_into(offset + at - start, buffer[at - paddr : stop - paddr])
            else:
                if self._memory.find(at) is None:
                    raise ReadError(paddr, len(buffer), f"there is no RAM at {at:#x}")
                stop = min(end, self._starts[i + 1]) if i + 1 < len(self._starts) else end
                buffer[at - paddr : stop - paddr] = bytes(stop - at)
            at = stop

    def read_runs(self, runs: Sequence[tuple[int, int]], buffer: memoryview) -> None:
        """Ranges that follow each other in the file, as those between which pages were left out do, are one read."""
        at = done = 0
        offset = next_offset = -1
        for start, end in runs:
            i = bisect_right(self._starts, start) - 1
            here = self._pieces[i][2] + start - self._pieces[i][0] if i >= 0 and end <= self._pieces[i][1] else -1
            if here < 0 or here != next_offset:
                if at > done:
                    self._backing.read_into(offset, buffer[done:at])
                done, offset = at, here
            at += end - start
            next_offset = here + end - start
            if here < 0:
                self.read_into(start, buffer[done:at])
                done, next_offset = at, -1
        if at > done:
            self._backing.read_into(offset, buffer[done:at])

    def data_ranges(self, paddr: int, size: int) -> Iterator[tuple[int, int]]:
        """What the holes of a sparse file leave over."""
        end = paddr + size
        i = max(0, bisect_right(self._starts, paddr) - 1)
        while i < len(self._pieces) and self._pieces[i][0] < end:
            start, stop, offset = self._pieces[i]
            first, last = max(start, paddr), min(stop, end)
            if last > first:
                base = offset - start
                for a, b in self._backing.data_ranges(first + base, last - first):
                    yield a - base, b - base
            i += 1

    def place(self, paddr: int) -> Place | None:
        """Where the byte at ``paddr`` is stored, and how many follow it to the end of its 4 KiB."""
        i = bisect_right(self._starts, paddr) - 1
        if i < 0 or paddr >= self._pieces[i][1]:
            return None
        start, stop, offset = self._pieces[i]
        size = min(stop, paddr - paddr % 4096 + 4096) - paddr
        return Place(self.path, offset + paddr - start, size, "none")

    def close(self) -> None:
        self._backing.close()
