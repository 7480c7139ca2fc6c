"""Numbers and texts of a migration stream, read ahead and bounded."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from pydump.errors import SourceError

if TYPE_CHECKING:
    from pydump.interfaces.backing import Backing

#: Bytes read ahead.
BUFFER: Final = 4 << 20
#: Bytes of a stream beside those that its RAM takes, where it comes through a pipe.
MAX_OTHER: Final = 1 << 26


class StreamError(SourceError):
    """A migration stream contradicts itself, or has something that is not known."""


def damaged(why: str) -> StreamError:
    """The error for a stream that contradicts itself."""
    return StreamError(f"the migration stream is damaged: {why}")


class Reader:
    """Reads a stream in pieces.

    Args:
        fill: Fills the beginning of a buffer with what comes next, and gives how much; EOFError at the end. A subclass
            may have a way of its own.

    Attributes:
        data: What was read ahead.
        at: Where in it the next byte is.
        end: Where it ends.
        most: Bytes that may come in all.
    """

    def __init__(self, fill: Callable[[memoryview], int] | None = None) -> None:
        self._fill = fill
        self.data = bytearray(BUFFER)
        self._view = memoryview(self.data)
        self.at = self.end = 0
        self.most = MAX_OTHER
        self._start = 0
        self._kept: bytearray | None = None
        self._kept_from = 0

    @property
    def position(self) -> int:
        """Where in the stream the next byte is."""
        return self._start + self.at

    def need(self, size: int) -> None:
        """Have ``size`` bytes in the buffer.

        Raises:
            EOFError: The stream ends before.
            StreamError: More has come than a stream like this one has.
        """
        if self.end - self.at >= size:
            return
        if size > BUFFER:
            raise damaged(f"a part of {size:#x} bytes")
        if self._kept is not None:
            self._kept += self.data[self._kept_from : self.at]
            self._kept_from = 0
        rest = self.data[self.at : self.end]
        self._start += self.at
        self.data[: len(rest)] = rest
        self.at, self.end = 0, len(rest)
        while self.end < size:
            self.end += self._next(self._view[self.end :])
        if self._start > self.most:
            raise damaged("data follows its end")

    def _next(self, buffer: memoryview) -> int:
        """Fill the beginning of ``buffer`` with what comes next, and give how much."""
        if self._fill is None:
            raise EOFError
        return self._fill(buffer)

    def number(self, size: int) -> int:
        """A big-endian number of ``size`` bytes; raises as :meth:`need`."""
        self.need(size)
        self.at += size
        return int.from_bytes(self._view[self.at - size : self.at], "big")

    def take(self, size: int) -> bytes:
        """The next ``size`` bytes; raises as :meth:`need`."""
        self.need(size)
        self.at += size
        return bytes(self._view[self.at - size : self.at])

    def text(self, length_size: int) -> str:
        """A text behind its length, a number of ``length_size`` bytes; raises as :meth:`need`."""
        return self.take(self.number(length_size)).decode("latin-1")

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

    def keep(self) -> None:
        """Keep what is read from here on, until :meth:`kept`."""
        self._kept, self._kept_from = bytearray(), self.at

    def kept(self) -> bytes:
        """What was read since :meth:`keep`."""
        assert self._kept is not None
        kept, self._kept = bytes(self._kept + self.data[self._kept_from : self.at]), None
        return kept

    def skip_to(self, position: int) -> None:
        """Throw everything before ``position`` away; raises as :meth:`need`.

        Raises:
            StreamError: It lies before what has been read.
        """
        if position < self.position:
            raise damaged(f"it goes back from {self.position:#x} to {position:#x}")
        self.skip(position - self.position)


class FileReader(Reader):
    """Reads a stream that lies in a file.

    Args:
        backing: The file.
        start: Where in the file the stream begins. Positions are the file's.
    """

    def __init__(self, backing: Backing, start: int = 0) -> None:
        super().__init__()
        self._backing = backing
        self._start = start
        self.most = backing.size

    def _next(self, buffer: memoryview) -> int:
        offset = self._start + self.end
        n = min(len(buffer), self._backing.size - offset)
        if n <= 0:
            raise EOFError
        self._backing.read_into(offset, buffer[:n])
        return n

    def skip(self, size: int) -> None:
        if size <= self.end - self.at:
            self.at += size
            return
        self._start += self.at + size
        self.at = self.end = 0
        if self._start > self._backing.size:
            raise EOFError
