"""Guest memory that was read, kept page by page. Pages of zeros take no room."""

from __future__ import annotations

import mmap
import os
from bisect import bisect_right
from collections.abc import Iterator
from typing import Final

import numpy as np

from pydump.errors import SourceError
from pydump.interfaces.arch import SMALLEST_PAGE
from pydump.model.memory import Ranges

_ZEROS: Final = bytes(1 << 18)


class Store:
    """Room for guest memory. Forked processes inherit it.

    Args:
        memory: All of the guest's.

    Raises:
        SourceError: There is no room.
    """

    def __init__(self, memory: Ranges) -> None:
        self._memory = memory
        self._pages = memory.page_aligned(SMALLEST_PAGE)
        self._starts: list[int] = []
        self._offsets: list[int] = []
        size = 0
        for start, end in self._pages:
            self._starts.append(start)
            self._offsets.append(size)
            size += end - start
        self._held = np.zeros(size // SMALLEST_PAGE, bool)
        try:
            fd = os.memfd_create("guest memory")
            try:
                os.ftruncate(fd, size)
                self._map = mmap.mmap(fd, size)
            finally:
                os.close(fd)
        except (OSError, ValueError) as error:
            raise SourceError(f"no room for {size >> 20} MiB of guest memory: {error}") from None
        self._view = memoryview(self._map)

    def _pieces(self, start: int, end: int) -> Iterator[tuple[int, int, int]]:
        """``(start, end, offset)`` of the parts of a range that lie in one piece here."""
        i = bisect_right(self._starts, start) - 1
        for a, b in self._memory.clip(start, end):
            while i + 1 < len(self._starts) and self._starts[i + 1] <= a:
                i += 1
            yield a, b, self._offsets[i] + a - self._starts[i]

    def lacks(self, wanted: Ranges) -> Ranges:
        """What of ``wanted`` is not here, in whole pages."""
        missing: list[tuple[int, int]] = []
        for start, end in wanted.page_aligned(SMALLEST_PAGE):
            for a, b, offset in self._pieces(start, end):
                first, last = offset // SMALLEST_PAGE, -(-(offset + b - a) // SMALLEST_PAGE)
                held = np.concatenate([[True], self._held[first:last], [True]])
                edges = np.flatnonzero(held[1:] != held[:-1]).reshape(-1, 2) * SMALLEST_PAGE
                base = a - offset % SMALLEST_PAGE
                missing += [(max(a, base + x), min(b, base + y)) for x, y in edges.tolist()]
        return Ranges.of(missing)

    def holds(self, ranges: Ranges) -> None:
        """Take note that these ranges are here now."""
        for start, end in ranges:
            for a, b, offset in self._pieces(start, end):
                self._held[offset // SMALLEST_PAGE : -(-(offset + b - a) // SMALLEST_PAGE)] = True

    def write(self, paddr: int, data: bytes) -> None:
        """Keep ``data``, which lies in one piece."""
        if data != _ZEROS[: len(data)]:
            for a, b, offset in self._pieces(paddr, paddr + len(data)):
                self._view[offset : offset + b - a] = data[a - paddr : b - paddr]

    def read_into(self, paddr: int, buffer: memoryview) -> None:
        """Fill ``buffer`` from ``paddr`` on; what is not here is zero."""
        for a, b, offset in self._pieces(paddr, paddr + len(buffer)):
            buffer[a - paddr : b - paddr] = self._view[offset : offset + b - a]
