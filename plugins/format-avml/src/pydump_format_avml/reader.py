"""Reads AVML memory images."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

import numpy as np

from pydump.errors import DamagedPageError, ReadError
from pydump.interfaces.backing import Backing
from pydump.interfaces.image import MemoryImage, Place
from pydump.model.guest import Guest
from pydump.model.memory import MemoryMap, Ranges
from pydump_format_avml.blocks import read_index
from pydump_format_avml.framing import STREAM_IDENTIFIER

#: Bytes of the file that are read in one go, at most.
READ_AT_ONCE: Final = 8 << 20
#: Frames that are kept decompressed for reads of less than one.
MAX_KEPT: Final = 16


class AvmlImage(MemoryImage):
    """An AVML memory image.

    Raises:
        FormatError: It has no block.
    """

    def __init__(self, backing: Backing) -> None:
        self._backing = backing
        self.path = backing.path
        self._index = read_index(backing)
        frames = self._index.frames
        self._paddrs, self._sizes, self._offsets, self._stored = (np.ascontiguousarray(row) for row in frames.T)
        self._memory = MemoryMap.of((start, end - start) for start, end in self._index.memory)
        self._kept: OrderedDict[int, bytes] = OrderedDict()

    def guest(self) -> Guest:
        return Guest(self._memory)

    def unreadable(self) -> Ranges:
        return self._index.lost

    def more_lost(self) -> bool:
        return self._index.cut

    def describe(self) -> tuple[tuple[str, str], ...]:
        count = self._index.n_blocks
        return (("format", f"AVML, {count} block{'' if count == 1 else 's'}"), ("compression", "snappy"))

    def warnings(self) -> tuple[str, ...]:
        return (*self._backing.warnings, *self._index.warnings)

    def read_into(self, paddr: int, buffer: memoryview) -> None:
        end = paddr + len(buffer)
        i = max(0, int(np.searchsorted(self._paddrs, paddr, "right")) - 1)
        last = int(np.searchsorted(self._paddrs, end, "left"))
        done = paddr
        while i < last:
            begin, tail = int(self._paddrs[i]), int(self._paddrs[i] + self._sizes[i])
            count = 1
            if tail > done:
                self._zero(done, begin, buffer[done - paddr :])
                at, to = max(begin, done), min(tail, end)
                if not self._stored[i]:
                    self._backing.read_into(int(self._offsets[i]) + at - begin, buffer[at - paddr : to - paddr])
                elif (at, to) != (begin, tail):
                    buffer[at - paddr : to - paddr] = self._frame(i)[at - begin : to - begin]
                else:
                    count = self._followers(i, last, end)
                    to = int(self._paddrs[i + count - 1] + self._sizes[i + count - 1])
                    self._decompress(i, i + count, buffer[at - paddr : to - paddr])
                done = to
            i += count
        self._zero(done, end, buffer[done - paddr :])

    def place(self, paddr: int) -> Place | None:
        """Where the frame with the byte at ``paddr`` is stored."""
        i = int(np.searchsorted(self._paddrs, paddr, "right")) - 1
        if i < 0 or paddr >= int(self._paddrs[i] + self._sizes[i]):
            return None
        offset, stored, size = int(self._offsets[i]), int(self._stored[i]), int(self._sizes[i])
        if not stored:
            return Place(self.path, offset + paddr - int(self._paddrs[i]), min(size, 4096), "none")
        return Place(self.path, offset, stored, "snappy")

    def close(self) -> None:
        self._backing.close()

    def _followers(self, first: int, last: int, end: int) -> int:
        """How many frames from ``first`` on follow each other in file and memory and lie before ``end``, itself too."""
        i, size = first, int(self._stored[first])
        while i + 1 < last and self._stored[i + 1]:
            size += int(self._stored[i + 1])
            follows = self._offsets[i + 1] == self._offsets[i] + self._stored[i]
            touches = self._paddrs[i + 1] == self._paddrs[i] + self._sizes[i]
            if not (follows and touches) or self._paddrs[i + 1] + self._sizes[i + 1] > end or size > READ_AT_ONCE:
                break
            i += 1
        return i + 1 - first

    def _decompress(self, start: int, stop: int, buffer: memoryview) -> None:
        """Decompress frames ``[start, stop)``, which follow each other in the file, into a buffer of their size.

        Raises:
            DamagedPageError: One of them is damaged.
        """
        import cramjam

        offset = int(self._offsets[start])
        size = int(self._offsets[stop - 1] + self._stored[stop - 1]) - offset
        stream = bytearray(len(STREAM_IDENTIFIER) + size)
        stream[: len(STREAM_IDENTIFIER)] = STREAM_IDENTIFIER
        self._backing.read_into(offset, memoryview(stream)[len(STREAM_IDENTIFIER) :])
        try:
            if cramjam.snappy.decompress_into(stream, buffer) == len(buffer):
                return
            why = "its frame is shorter than it says"
        except cramjam.DecompressionError as error:
            why = str(error).removeprefix("snappy: ")
        raise DamagedPageError(int(self._paddrs[start]), len(buffer), f"its frame does not decompress: {why}")

    def _frame(self, number: int) -> bytes:
        """A frame, decompressed."""
        frame = self._kept.pop(number, None)
        if frame is None:
            data = bytearray(int(self._sizes[number]))
            self._decompress(number, number + 1, memoryview(data))
            frame = bytes(data)
        self._kept[number] = frame
        if len(self._kept) > MAX_KEPT:
            self._kept.popitem(last=False)
        return frame

    def _zero(self, at: int, end: int, buffer: memoryview) -> None:
        """Memory from ``at`` to ``end`` that the file lacks is zero; it begins where ``buffer`` does.

        Raises:
            ReadError: It is not RAM.
        """
        if at < end:
            block = self._memory.find(at)
            if block is None or block.end < end:
                raise ReadError(at, end - at, f"there is no RAM at {at if block is None else block.end:#x}")
            buffer[: end - at] = bytes(end - at)
