"""Random access to the bytes of a file, however they are stored: what a format's reader reads from."""

from __future__ import annotations

import errno
import os
import pickle
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import ClassVar, Self

from pydump.errors import FormatError, UnsupportedError


class Backing(ABC):
    """Bytes from 0 to ``size``, readable at any offset, from any process that is forked.

    What a storage opens can be pickled, where another process can open it by its name: define ``__reduce__`` to give
    what opens it again, and never the data. Where none can (memory of this process, a pipe), raise UnsupportedError
    there: forked workers read it all the same, other executors do not.

    Attributes:
        path: What to call it in messages.
        size: Bytes.
        flattened: Are they put together from a flattened stream?
        warnings: What the user should know of how they were put together, a line each.
        remote: Does each byte come over a network? Then a reader asks for no large table whole that it can do without.
    """

    flattened: ClassVar[bool] = False
    remote: ClassVar[bool] = False
    warnings: tuple[str, ...] = ()
    path: str
    size: int

    @abstractmethod
    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill all of ``buffer`` with the bytes from ``offset`` on.

        Raises:
            FormatError: The range reaches past the end.
            SourceError: The file system failed.
        """

    def read(self, offset: int, size: int) -> bytes:
        """``size`` bytes from ``offset`` on; the same errors as :meth:`read_into`.

        A size that is taken from a hostile header is refused before memory is reserved for it.
        """
        self.check(offset, size)
        buffer = bytearray(size)
        self.read_into(offset, memoryview(buffer))
        return bytes(buffer)

    def check(self, offset: int, size: int) -> None:
        """Refuse a range that does not lie in the file.

        Raises:
            FormatError: It does not.
        """
        if offset < 0 or size < 0 or offset + size > self.size:
            raise FormatError(
                self.path,
                f"{size:#x} bytes are needed here, but the file ends at {self.size:#x}",
                offset=offset,
                hint="the file is truncated or damaged",
            )

    def data_ranges(self, offset: int, size: int) -> Iterator[tuple[int, int]]:
        """``(start, end)`` of what may hold data within the range; the rest is a hole and reads as zero."""
        yield offset, offset + size

    def missing(self, offset: int, size: int) -> Iterator[tuple[int, int]]:
        """``(start, end)`` of what the file should hold within the range and does not, ascending.

        That is what lies past the end of a file that was cut off. Override it where bytes before the end can be
        missing too.
        """
        if offset + size > max(offset, self.size):
            yield max(offset, self.size), offset + size

    def close(self) -> None:
        """Close the file."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def recipe_of(backing: Backing) -> bytes | None:
    """``backing`` pickled, so that another process can open it; None where it has no name to open it by."""
    try:
        return pickle.dumps(backing)
    except (TypeError, AttributeError, pickle.PicklingError, UnsupportedError):
        return None


def data_of(fd: int, offset: int, size: int) -> Iterator[tuple[int, int]]:
    """``(start, end)`` of what may be data in a range of an open file; the rest of it is holes, which read as zeros.

    Args:
        fd: The file's descriptor. Its position moves, which is nobody's who reads by offset.
        offset: Where the range begins.
        size: Bytes.
    """
    at, end = offset, offset + size
    while at < end:
        try:
            start = os.lseek(fd, at, os.SEEK_DATA)
            stop = min(os.lseek(fd, start, os.SEEK_HOLE), end) if start < end else end
        except OSError as error:
            if error.errno != errno.ENXIO:  # ENXIO: no data from here on; anything else: holes are not known
                yield at, end
            return
        if start >= end:
            return
        if not at <= start < stop:  # a device's answer: nothing to go by
            yield at, end
            return
        yield start, stop
        at = stop
