"""Numbers and texts of a migration stream, read ahead and bounded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from pydump.errors import SourceError

#: Bytes read ahead.
BUFFER: Final = 4 << 20
#: Bytes of a stream beside those that its RAM takes.
MAX_OTHER: Final = 1 << 26


def damaged(why: str) -> SourceError:
    """The error for a stream that contradicts itself."""
    return SourceError(f"QEMU's snapshot is damaged: {why}")


class Reader:
    """Reads a stream in pieces.

    Args:
        fill: Fills the beginning of a buffer with what comes next, and gives how much; EOFError at the end.

    Attributes:
        data: What was read ahead.
        at: Where in it the next byte is.
        end: Where it ends.
        most: Bytes that may come in all.
    """

    def __init__(self, fill: Callable[[memoryview], int]) -> None:
        self._fill = fill
        self.data = bytearray(BUFFER)
        self._view = memoryview(self.data)
        self.at = self.end = 0
        self.most = MAX_OTHER
        self._taken = 0

    def need(self, size: int) -> None:
        """Have ``size`` bytes in the buffer.

        Raises:
            EOFError: The stream ends before.
            SourceError: More has come than a stream like this one has.
        """
        if self.end - self.at >= size:
            return
        if size > BUFFER:
            raise damaged(f"a part of {size:#x} bytes")
        rest = self.data[self.at : self.end]
        self.data[: len(rest)] = rest
        self.at, self.end = 0, len(rest)
        while self.end < size:
            n = self._fill(self._view[self.end :])
            self.end += n
            self._taken += n
        if self._taken - self.end > self.most:
            raise damaged("it goes on behind its end")

    def number(self, size: int) -> int:
        """A big-endian number of ``size`` bytes; raises as :meth:`need`."""
        self.need(size)
        self.at += size
        return int.from_bytes(self._view[self.at - size : self.at], "big")

    def text(self, length_size: int) -> str:
        """A text behind its length, a number of ``length_size`` bytes; raises as :meth:`need`."""
        size = self.number(length_size)
        self.need(size)
        self.at += size
        return bytes(self._view[self.at - size : self.at]).decode("latin-1")

    def peek(self) -> int:
        """The next byte, which stays; raises as :meth:`need`."""
        self.need(1)
        return self.data[self.at]

    def skip(self, size: int) -> None:
        """Throw ``size`` bytes away; raises as :meth:`need`."""
        while size > 0:
            step = min(size, len(self.data))
            self.need(step)
            self.at += step
            size -= step
