"""An output cut into the parts that object stores take: numbered, in any order, each once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from pydump.interfaces.sink import Extent, Hole

#: Bytes of each of the first parts. Stores take 5 MiB and more.
#: Source: Amazon S3 User Guide, "Multipart upload limits".
SMALLEST: Final = 16 << 20
#: After so many parts they become twice as large: 10,000 of them, the most there can be, would hold 5,100,000 MiB.
STEP: Final = 1250
#: The last few say what the upload is made of, see :mod:`pydump_storage_fsspec.unfinished`.
MOST: Final = 9_990


class Part(NamedTuple):
    """A part that is complete.

    Attributes:
        number: From 1 on, in the order of the output.
        data: Its bytes.
    """

    number: int
    data: bytes


class _Open:
    """A part that something is still missing of."""

    def __init__(self, start: int, size: int) -> None:
        self.start = start
        self.size = size
        self.filled = 0
        self.data: bytearray | None = None  # none before it has bytes other than zero

    def put(self, offset: int, data: memoryview) -> None:
        """Keep bytes that lie within the part."""
        if self.data is None:
            self.data = bytearray(self.size)
        self.data[offset - self.start : offset - self.start + len(data)] = data
        self.filled += len(data)


def place_of(offset: int) -> tuple[int, int, int]:
    """The part in which a byte of the output lies: its number, where it begins, and its size."""
    start, size, number = 0, SMALLEST, 1
    while offset >= start + STEP * size:
        start += STEP * size
        number += STEP
        size *= 2
    index = (offset - start) // size
    return number + index, start + index * size, size


class Assembly:
    """Puts extents together to parts.

    The first part is complete at the end alone: a writer may write its headers again. Any other is complete when as
    many bytes of it are written as it has, since each comes once. So what is kept is the first part and those in which
    a stream of extents has arrived: a few.
    """

    def __init__(self) -> None:
        self._open: dict[int, _Open] = {}
        self._done: set[int] = set()

    def add(self, extent: Extent | Hole) -> Iterator[Part]:
        """Take an extent; gives the parts that are complete with it.

        Raises:
            ValueError: It lies in a part that was complete before, or past the last that there can be.
        """
        view = memoryview(extent.data).cast("B") if isinstance(extent, Extent) else None
        at, end = extent.offset, extent.offset + extent.size
        while at < end:
            number, start, size = place_of(at)
            if number in self._done:
                raise ValueError(f"the bytes at {at:#x} were written before")
            if number > MOST:
                raise ValueError(f"the bytes at {at:#x} are past the largest object that there can be")
            part = self._open.setdefault(number, _Open(start, size))
            stop = min(end, start + size)
            if view is not None:
                part.put(at, view[at - extent.offset : stop - extent.offset])
            else:
                part.filled += stop - at
            if part.filled >= size and number > 1:
                yield self._complete(number, size)
            at = stop

    def leave(self, number: int) -> None:
        """A part that nothing is written of here is complete elsewhere.

        Raises:
            ValueError: Something is written of it here.
        """
        if number in self._open or number in self._done:
            raise ValueError(f"part {number} was written before")
        self._done.add(number)

    def finish(self, size: int) -> Iterator[Part]:
        """The rest of an output of ``size`` bytes, last part first; what was never written is zero."""
        number, start, _ = place_of(max(0, size - 1))
        for last in range(number, 0, -1):
            if last not in self._done:
                yield self._complete(last, min(self._size(last), size - start if last == number else self._size(last)))

    def _size(self, number: int) -> int:
        return SMALLEST << (number - 1) // STEP

    def _complete(self, number: int, size: int) -> Part:
        part = self._open.pop(number, None)
        self._done.add(number)
        data = part.data if part is not None and part.data is not None else bytearray(size)
        del data[size:]
        return Part(number, bytes(data))
